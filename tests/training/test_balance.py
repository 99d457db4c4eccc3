"""Balanced weights, compared with scikit-learn and by counting, and trainings that use them."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from mmfusion import FusionClassifier, FusionProcessor, fit
from mmfusion.training.balance import balanced_weights, settle_weights, weighted_prior
from mmfusion.training.binding import BINDING_FILE
from mmfusion.training.resume import checkpoints_in


def test_class_weights_are_those_of_scikit_learn():
    labels = np.random.default_rng(0).choice(4, 200, p=[0.6, 0.3, 0.08, 0.02])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    assert balanced_weights(labels, 4) == pytest.approx(expected.tolist(), rel=1e-12)


def test_a_class_that_does_not_occur_is_told_and_the_others_are_those_of_scikit_learn(caplog):
    labels = np.array([0, 0, 0, 2])
    first, absent, last = balanced_weights(labels, 3, ["a", "b", "c"])
    expected = compute_class_weight("balanced", classes=np.array([0, 2]), y=labels)
    assert [first, last] == pytest.approx(expected.tolist()) and absent == 1
    assert "1 for classes without a training row: 'b'" in caplog.text


@pytest.mark.parametrize("label", [-1, 3])
def test_a_class_number_out_of_range_is_refused(label):
    with pytest.raises(ValueError, match=f"labels must be in 0 .. 2, got {label}"):
        balanced_weights(np.array([0, label, 2]), 3)


def test_positives_are_weighed_by_negatives_to_positives_among_known_labels(caplog):
    rng = np.random.default_rng(1)
    labels = (rng.random((60, 4)) < [0.5, 0.1, 0.9, 0.0]).astype(np.float32)
    labels[rng.random((60, 4)) < 0.3] = math.nan
    expected = []
    for column in range(4):
        known = [row[column] for row in labels.tolist() if not math.isnan(row[column])]
        positives = sum(one == 1 for one in known)
        expected.append((len(known) - positives) / positives if positives else 1.0)
    assert balanced_weights(labels, 4, ["a", "b", "c", "d"]) == pytest.approx(expected)
    assert "in the training rows: 'd'" in caplog.text


def test_fit_computes_the_weights_of_the_training_rows_and_saves_them(
    rows, tmp_path, compose_frozen, quiet
):
    """Classes are matched by name: the rows number them in another order than the model."""
    train = rows.select(range(0, 30))
    model, processor = compose_frozen(rows, class_weights="balanced")
    names = rows.features["label"].names
    order = [2, 0, 3, 1]
    model.config.id2label = {place: names[number] for place, number in enumerate(order)}
    model.config.label2id = {name: place for place, name in model.config.id2label.items()}
    fit(model, processor, train, rows.select(range(30, 40)), arguments=quiet(tmp_path))
    expected = compute_class_weight("balanced", classes=np.arange(4), y=np.asarray(train["label"]))
    expected = [expected[number] for number in order]
    assert model.config.class_weights == pytest.approx(expected)
    loaded = FusionClassifier.from_pretrained(tmp_path)
    assert loaded.config.class_weights == model.config.class_weights
    torch.testing.assert_close(loaded.class_weights, torch.tensor(expected, dtype=torch.float32))


def test_a_frozen_classifier_is_the_balanced_regression_of_scikit_learn(
    rows, tmp_path, compose_frozen, quiet
):
    fused, _ = compose_frozen(rows)
    model = FusionClassifier(
        image_encoder=fused.image_encoder, num_labels=4, class_weights="balanced"
    )
    processor = FusionProcessor.from_encoders(fused.image_encoder, None)
    # Two of three rows of one class are left out, so that the classes differ.
    train = rows.filter(lambda row, number: row["label"] != 1 or number % 3 == 0, with_indices=True)
    vectors = []
    model.head.out.register_forward_pre_hook(lambda _, inputs: vectors.append(inputs[0]))
    result = fit(model, processor, train, arguments=quiet(tmp_path), calibrate=False)
    assert result.epochs == 0
    vectors.clear()
    with torch.no_grad():
        inputs = processor(images=list(train["image"]))
        logits = model(**inputs).logits.double().softmax(1).numpy()
    (features,) = (part.double().numpy() for part in vectors)
    reference = LogisticRegression(
        C=1 / (len(train) * result.start.strengths["head"]),
        tol=1e-10,
        max_iter=20_000,
        class_weight="balanced",
    ).fit(features, train["label"])
    np.testing.assert_allclose(logits, reference.predict_proba(features), atol=1e-4)


@pytest.mark.parametrize("given", [[4.0, 1.0, 1.0, 2.0], None])
def test_weights_that_are_numbers_stay(given, rows, compose):
    model, _ = compose(rows, class_weights=given)
    settle_weights(model, rows)
    assert model.config.class_weights == given
    assert given is None or model.class_weights.tolist() == given


def test_many_labels_get_the_weights_of_their_known_rows(rows, compose):
    labels = [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": math.nan}, {"a": 0.0, "b": 1.0}]
    table = rows.select(range(3)).remove_columns("label").add_column("label", labels)
    torch.manual_seed(0)
    fused, _ = compose(rows)
    model = FusionClassifier(
        image_encoder=fused.image_encoder,
        id2label={0: "b", 1: "a"},
        problem_type="multi_label_classification",
        pos_weight="balanced",
    )
    settle_weights(model, table)
    assert model.config.pos_weight == [1.0, 2.0] and model.pos_weight.tolist() == [1, 2]


def test_the_prior_of_a_weighted_loss_is_that_of_repeated_rows(rows, compose):
    """A weight of 3 acts like three times as many rows of the class."""
    counts, weights = torch.tensor([6.0, 2.0, 1.0, 1.0]), [1.0, 3.0, 2.0, 1.0]
    model, _ = compose(rows, class_weights=weights)
    found = weighted_prior(model, (counts / counts.sum()).log())
    repeated = counts * torch.tensor(weights)
    torch.testing.assert_close(found.exp(), repeated / repeated.sum())
    fused, _ = compose(rows)
    many = FusionClassifier(
        image_encoder=fused.image_encoder,
        num_labels=2,
        problem_type="multi_label_classification",
        pos_weight=[3.0, 1.0],
        class_weights=[5.0, 1.0],
    )
    # 2 yes and 6 no: with weight 3 they are 6 and 6.
    found = weighted_prior(many, torch.tensor([2 / 8, 1 / 4]).logit())
    torch.testing.assert_close(found.sigmoid(), torch.tensor([6 / 12, 1 / 4]))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"focal_gamma": 1.0}, "model.focal_gamma was 2.0 and is 1.0"),
        ({"class_weights": [1.0, 2.0, 1.0, 1.0]}, "model.class_weights was"),
        ({"class_weights": None}, "model.class_weights was"),
    ],
)
def test_the_options_bind_the_checkpoints(options, told, rows, compose, quiet, tmp_path):
    def run(folder, **changed):
        given = {"class_weights": "balanced", "focal_gamma": 2.0} | changed
        model, processor = compose(rows, **given)
        parts = rows.select(range(24)), rows.select(range(24, 40))
        fit(model, processor, *parts, arguments=quiet(folder, num_train_epochs=2))
        return torch.cat([value.detach().flatten() for value in model.parameters()])

    whole = run(tmp_path / "whole")
    run(tmp_path / "cut")
    last = max(checkpoints_in(tmp_path / "cut"))
    for path in checkpoints_in(tmp_path / "cut")[last].iterdir():
        path.unlink()
    checkpoints_in(tmp_path / "cut")[last].rmdir()
    assert torch.equal(run(tmp_path / "cut"), whole)
    facts = json.loads((tmp_path / "cut" / BINDING_FILE).read_text())
    labels = np.asarray(rows["label"][:24])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    assert facts["model"]["class_weights"] == pytest.approx(expected.tolist())
    with pytest.raises(ValueError, match=told):
        run(tmp_path / "cut", **options)


def test_the_focal_loss_is_trained_in_epochs(rows, tmp_path, compose_frozen, quiet):
    """A regression cannot solve it, so a linear classifier goes on from the cross-entropy."""
    model, processor = compose_frozen(rows, focal_gamma=2.0)
    result = fit(model, processor, rows, rows, arguments=quiet(tmp_path), calibrate=False)
    assert result.epochs == 1
    plain, _ = compose_frozen(rows)
    start = fit(plain, processor, rows, arguments=quiet(tmp_path / "plain"), calibrate=False)
    assert result.start.strengths == start.start.strengths
