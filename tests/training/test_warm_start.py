"""The warm start: probes solved on what the encoders give, and what the strategies count."""

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from mmfusion import FusionClassifier, FusionCollator, FusionProcessor
from mmfusion.training import calibrate
from mmfusion.training.evaluate import predict
from mmfusion.training.fit import fit
from mmfusion.training.warm_start import warm_start


def pooled(model, processor, rows):
    """Returns the pooled vectors of both encoders, normalised, and which rows have them."""
    batch = FusionCollator(processor)([rows[i] for i in range(len(rows))])
    with torch.no_grad():
        image = model.image_encoder.eval()(batch["pixel_values"]).pooled
        # A text without a real token cannot be encoded. Its vector is not used.
        mask = torch.where(batch["text_present"][:, None], batch["attention_mask"], 1)
        text = model.text_encoder.eval()(batch["input_ids"], mask).pooled
    vectors = [F.layer_norm(v, v.shape[-1:]).double().numpy() for v in (image, text)]
    return vectors, [batch["image_present"].numpy(), batch["text_present"].numpy()]


def by_scikit_learn(features, labels, strength):
    model = LogisticRegression(C=1 / (len(features) * strength), tol=1e-10, max_iter=20_000)
    return model.fit(features, labels)


def probabilities(logits):
    return torch.from_numpy(np.asarray(logits)).double().softmax(1).numpy()


def test_a_frozen_classifier_of_one_modality_is_the_regression_of_scikit_learn(
    rows, tmp_path, compose_frozen, quiet
):
    fused, _ = compose_frozen(rows)
    encoder = fused.image_encoder
    model = FusionClassifier(image_encoder=encoder, num_labels=4)
    processor = FusionProcessor.from_encoders(encoder, None)
    result = fit(
        model, processor, rows, arguments=quiet(tmp_path, num_train_epochs=9), calibrate=False
    )
    assert result.epochs == result.seconds_per_epoch == 0
    assert result.start_was_best and result.history == []
    (image, _), _ = pooled(fused, compose_frozen(rows)[1], rows)
    labels = np.asarray(rows["label"])
    reference = by_scikit_learn(image, labels, result.start.strengths["head"])
    got = probabilities(predict(model, processor, rows))
    np.testing.assert_allclose(got, reference.predict_proba(image), atol=1e-4)


def test_side_by_side_with_missing_modalities(few_rows, tmp_path, compose_frozen, quiet):
    model, processor = compose_frozen(few_rows, "concat")
    result = fit(model, processor, few_rows, arguments=quiet(tmp_path), calibrate=False)
    vectors, present = pooled(model, processor, few_rows)
    assert not all(flags.all() for flags in present)
    scales = result.start.scales["probe"]
    features = np.concatenate(
        [
            np.where(flags[:, None], v, 0) * scale
            for v, flags, scale in zip(vectors, present, scales, strict=True)
        ]
        + [
            np.sqrt(v.shape[1]) * ~flags[:, None] for v, flags in zip(vectors, present, strict=True)
        ],
        axis=1,
    )
    labels = np.asarray(few_rows["label"])
    reference = by_scikit_learn(features, labels, result.start.strengths["probe"])
    got = probabilities(predict(model, processor, few_rows))
    np.testing.assert_allclose(got, reference.predict_proba(features), atol=1e-4)


def test_late_counts_the_prior_and_what_an_absence_says(few_rows, tmp_path, compose_frozen, quiet):
    model, processor = compose_frozen(few_rows, "late")
    fit(model, processor, few_rows, arguments=quiet(tmp_path))
    labels = np.asarray(few_rows["label"])
    prior = (np.bincount(labels, minlength=4) + 1) / (len(labels) + 4)
    np.testing.assert_allclose(model.fusion.log_prior.exp(), prior, rtol=1e-5)
    for number, name in enumerate(("image", "text")):
        lacking = labels[[value is None for value in few_rows[name]]]
        assert len(lacking)
        shares = (np.bincount(lacking, minlength=4) + 4 * prior) / (len(lacking) + 4)
        np.testing.assert_allclose(
            model.fusion.log_absence[number].exp(), shares / prior, rtol=1e-5
        )


def test_a_product_of_weighted_answers_contains_the_weights_once(
    few_rows, tmp_path, compose_frozen, quiet
):
    """Each answer has the weighted prior, so the prior that is divided out is weighted, too."""
    weights = [0.5, 1.0, 3.0, 2.0]
    model, processor = compose_frozen(few_rows, "late", class_weights=weights)
    fit(model, processor, few_rows, arguments=quiet(tmp_path))
    counts = np.bincount(few_rows["label"], minlength=4) + 1
    weighted = counts * weights / np.sum(counts * weights)
    np.testing.assert_allclose(model.fusion.log_prior.exp(), weighted, rtol=1e-5)
    plain, _ = compose_frozen(few_rows, "late")
    fit(plain, processor, few_rows, arguments=quiet(tmp_path / "plain"))
    # What an absence says is a quotient, in which the weights cancel.
    torch.testing.assert_close(model.fusion.log_absence, plain.fusion.log_absence)


def drawn(count: int, informative: tuple[str, ...], seed: int = 0):
    """Returns features in which some modalities tell the class of two, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    vectors = {}
    for name in ("image", "text"):
        noise = torch.randn(count, 12, generator=generator)
        told = 1.5 * F.one_hot(labels, 12) if name in informative else 0
        vectors[name] = noise + told
    return vectors, labels


@pytest.mark.parametrize("informative", [(), ("image",), ("text",), ("image", "text")])
def test_guarded_has_the_weights_with_the_lowest_loss_on_held_out_answers(
    informative, compose_frozen, few_rows
):
    """Compared with a grid of weights, in numpy, and with each answer alone."""
    frozen, _ = compose_frozen(few_rows)
    model = FusionClassifier(
        image_encoder=frozen.image_encoder,
        text_encoder=frozen.text_encoder,
        fusion="guarded",
        num_labels=2,
    )
    vectors, labels = drawn(150, informative)
    rows = [{"labels": label} for label in labels]
    for name, values in vectors.items():
        for row, value in zip(rows, F.pad(values, (0, model.image_encoder.dim - 12)), strict=True):
            row |= {f"{name}_state": value[None], f"{name}_pooled": value}

    def collate(batch):
        return {name: torch.stack([row[name] for row in batch]) for name in batch[0]}

    seen = []
    own = model.fusion.combined
    model.fusion.combined = lambda scores, present: seen.append(scores) or own(scores, present)
    source = datasets.Dataset.from_dict({"label": labels.tolist()})
    start = warm_start(model, rows, collate, source, batch_size=32)
    answers = F.log_softmax(seen[-1].double(), dim=-1).numpy()
    prior = np.log((np.bincount(labels) + 1) / 152)

    def loss(weights):
        logits = prior + np.tensordot(weights, answers - prior, 1)
        return float(F.cross_entropy(torch.from_numpy(logits), labels))

    def penalised(weights):
        return loss(weights) + 1e-3 * np.square(np.asarray(weights) - 0.5).sum()

    chosen = model.fusion.weights.detach().double().numpy()
    assert loss(chosen) == pytest.approx(
        float(F.cross_entropy(start.logits, start.labels)), abs=1e-6
    )
    alone = [loss(one) for one in np.eye(3)]
    grid = np.stack(np.meshgrid(*[np.arange(0, 2.01, 0.25)] * 3), -1).reshape(-1, 3)
    best_pool = min(grid, key=penalised)
    assert loss(chosen) <= min(alone)
    if loss(best_pool) < min(alone) - 1e-3:
        assert penalised(chosen) <= penalised(best_pool) + 1e-6
    if np.any(np.all(chosen == np.eye(3), axis=1)):
        assert loss(chosen) == min(alone)
    assert (loss(chosen) < 0.6) == bool(informative)


def test_a_start_that_no_epoch_beats_is_kept(rows, tmp_path, compose, quiet):
    """With a rate that destroys the model, the weights of the start stay, written or in memory."""
    for writes in ("no", "epoch"):
        model, processor = compose(rows, fusion="cross_attention")
        held_out = rows.select(range(10))
        result = fit(
            model,
            processor,
            rows,
            held_out,
            arguments=quiet(
                tmp_path / writes, num_train_epochs=2, learning_rate=3.0, save_strategy=writes
            ),
            calibrate=False,
        )
        assert result.start_was_best and result.epochs == 2
        losses = [entry["eval_loss"] for entry in result.history if "eval_loss" in entry]
        assert len(losses) == 3 and losses[0] == min(losses) == result.best_metric
        logits = torch.from_numpy(predict(model, processor, held_out))
        loss = F.cross_entropy(logits, torch.tensor(held_out["label"]))
        assert float(loss) == pytest.approx(losses[0], abs=1e-5)
        if writes == "epoch":
            loaded = FusionClassifier.from_pretrained(tmp_path / writes)
            again = torch.from_numpy(predict(loaded, processor, held_out))
            torch.testing.assert_close(again, logits)


def test_a_better_epoch_takes_the_place_of_the_start(rows, tmp_path, compose, quiet):
    for writes in ("no", "epoch"):
        model, processor = compose(rows, fusion="cross_attention")
        result = fit(
            model,
            processor,
            rows,
            rows,
            arguments=quiet(tmp_path / writes, num_train_epochs=4, save_strategy=writes),
            calibrate=False,
        )
        losses = [entry["eval_loss"] for entry in result.history if "eval_loss" in entry]
        assert not result.start_was_best and result.best_metric == min(losses[1:]) < losses[0]
        logits = torch.from_numpy(predict(model, processor, rows))
        loss = F.cross_entropy(logits, torch.tensor(rows["label"]))
        assert float(loss) == pytest.approx(min(losses), abs=1e-5)


def test_augmented_pictures_are_trained_on_after_the_start(rows, tmp_path, compose_frozen, quiet):
    """The solution belongs to the pictures as they are, so the epochs are not left out."""
    seen = []

    def watched(picture, rng):
        seen.append(rng.integers(1000))
        return picture

    model, processor = compose_frozen(rows)
    result = fit(model, processor, rows, arguments=quiet(tmp_path), augment=watched)
    assert result.epochs == 1 and len(seen) == len(rows)


@pytest.mark.parametrize("cached", [False, True])
def test_refit_solves_on_training_and_validation_rows_together(
    cached, rows, tmp_path, compose_frozen, quiet
):
    train, validation = rows.select(range(28)), rows.select(range(28, 40))
    models = {}
    for name, parts, refit in (
        ("train", (train,), False),
        ("both", (rows,), False),
        ("validated", (train, validation), False),
        ("refitted", (train, validation), True),
    ):
        model, processor = compose_frozen(rows)
        fit(
            model,
            processor,
            *parts,
            arguments=quiet(tmp_path / name),
            cache=tmp_path / "cache" if cached else None,
            refit=refit,
            calibrate=False,
        )
        models[name] = predict(model, processor, rows)
    np.testing.assert_allclose(models["validated"], models["train"], atol=1e-5)
    np.testing.assert_allclose(models["refitted"], models["both"], atol=1e-5)
    assert np.abs(models["refitted"] - models["train"]).max() > 1e-2


def test_the_temperature_is_saved_and_applied_outside_of_training(
    rows, tmp_path, compose_frozen, quiet, monkeypatch
):
    # On so few rows another temperature than 1 would be chance, and is not taken.
    monkeypatch.setattr("mmfusion.training.fit.fit_temperature", lambda logits, labels: 1.7)
    model, processor = compose_frozen(rows)
    fit(model, processor, rows, arguments=quiet(tmp_path))
    temperature = model.config.temperature
    assert temperature == 1.7
    logits = predict(model, processor, rows)
    loaded = FusionClassifier.from_pretrained(tmp_path)
    assert loaded.config.temperature == temperature
    np.testing.assert_allclose(predict(loaded, processor, rows), logits, atol=1e-6)
    model.config.temperature = 1.0
    plain = predict(model, processor, rows)
    np.testing.assert_allclose(plain / temperature, logits, rtol=1e-4, atol=1e-5)


def test_a_second_training_forgets_the_temperature_of_the_first(
    rows, tmp_path, compose_frozen, quiet
):
    """Otherwise its validations would be those of other probabilities."""
    losses = []
    for temperature in (1.0, 7.0):
        model, processor = compose_frozen(rows)
        model.config.temperature = temperature
        result = fit(
            model,
            processor,
            rows,
            rows,
            arguments=quiet(tmp_path / str(temperature)),
            calibrate=False,
        )
        assert model.config.temperature == 1
        losses.append(result.best_metric)
    assert losses[0] == losses[1]


def test_a_trained_encoder_starts_from_a_linear_probe(rows, tmp_path, compose, quiet):
    losses = {}
    for warm in (True, False):
        model, processor = compose(rows)
        result = fit(
            model,
            processor,
            rows,
            rows,
            arguments=quiet(tmp_path / str(warm), learning_rate=1e-5),
            warm_start=warm,
        )
        losses[warm] = [e["eval_loss"] for e in result.history if "eval_loss" in e]
    # One validation more, and after an epoch of tiny steps still ahead.
    assert len(losses[True]) == len(losses[False]) + 1
    assert losses[True][-1] < losses[False][-1] - 0.02


@pytest.mark.parametrize("writes", ["no", "epoch"])
def test_without_a_warm_start_nothing_is_called_its_weights(writes, rows, tmp_path, compose, quiet):
    """The first epoch is the best one here, and `refit` has no probes to solve again."""
    model, processor = compose(rows)
    result = fit(
        model,
        processor,
        rows,
        rows,
        arguments=quiet(tmp_path, num_train_epochs=2, learning_rate=0.0, save_strategy=writes),
        warm_start=False,
        refit=True,
    )
    assert not result.start_was_best and result.start is None


def test_where_the_start_is_kept_its_answers_choose_the_temperature(
    rows, tmp_path, compose, quiet, monkeypatch
):
    """They are more than those of the validation rows."""
    asked = []
    own = calibrate.fit_temperature

    def watched(logits, labels):
        asked.append((logits, labels))
        return own(logits, labels)

    monkeypatch.setattr("mmfusion.training.fit.fit_temperature", watched)
    for rate in (0.0, 0.05):
        model, processor = compose(rows)
        train, validation = rows.select(range(28)), rows.select(range(28, 40))
        arguments = quiet(tmp_path / str(rate), learning_rate=rate, num_train_epochs=2)
        result = fit(model, processor, train, validation, arguments=arguments)
        ((logits, labels),) = asked
        if result.start_was_best:
            torch.testing.assert_close(logits, result.start.logits)
            assert labels.tolist() == train["label"][:]
        else:
            assert labels.tolist() == validation["label"][:]
        asked.clear()
        if rate == 0:
            assert result.start_was_best
