"""The training loss: the formulas, unknown labels, and labels that are refused."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from mmfusion.model.loss import classification_loss


def test_single_label_loss_equals_torchs(classifier: Any, batch: Any) -> None:
    model, labels = classifier(num_labels=3), torch.tensor([0, 2, 1, 2])
    outputs = model(**batch(), labels=labels)
    torch.testing.assert_close(outputs.loss, nn.functional.cross_entropy(outputs.logits, labels))


def test_class_weights_scale_each_samples_loss(classifier: Any, batch: Any) -> None:
    weights = [0.5, 1.0, 4.0]
    model, labels = classifier(num_labels=3, class_weights=weights), torch.tensor([0, 2, 1, 2])
    outputs = model(**batch(), labels=labels)
    each = [
        -weights[int(y)] * z.log_softmax(-1)[y] for z, y in zip(outputs.logits, labels, strict=True)
    ]
    torch.testing.assert_close(outputs.loss, torch.stack(each).mean())
    assert model.class_weights.tolist() == weights and "class_weights" not in model.state_dict()


@pytest.mark.parametrize("weights", [None, [2.0, 0.5, 1.0]])
def test_multi_label_loss_leaves_unknown_labels_out(
    weights: list[float] | None, classifier: Any, batch: Any
) -> None:
    model = classifier(
        num_labels=3, problem_type="multi_label_classification", class_weights=weights
    )
    nan = float("nan")
    labels = torch.tensor([[1.0, 0, nan], [nan, nan, nan], [0, 0, 1], [nan, 1, 0]])
    outputs = model(**batch(), labels=labels)
    losses = []
    for row in range(4):
        for column in range(3):
            if not labels[row, column].isnan():
                p = torch.sigmoid(outputs.logits[row, column])
                weight = 1.0 if weights is None else weights[column]
                losses.append(-weight * torch.log(p if labels[row, column] == 1 else 1 - p))
    torch.testing.assert_close(outputs.loss, torch.stack(losses).mean())


def test_a_batch_without_a_known_label_has_a_loss_of_zero_and_gradients(
    classifier: Any, batch: Any
) -> None:
    model = classifier(problem_type="multi_label_classification")
    loss = model(**batch(), labels=torch.full((4, 2), float("nan"))).loss
    assert loss.item() == 0
    loss.backward()
    grads = [p.grad for p in model.fusion.parameters() if p.grad is not None]
    assert grads and all(bool((grad == 0).all()) for grad in grads)


@pytest.mark.parametrize(
    ("problem", "labels", "message"),
    [
        ("single", torch.tensor([0, 1, 2, 1]), r"labels must be in 0 \.\. 1, got 2"),
        ("single", torch.tensor([0, 1, -100, 1]), r"labels must be in 0 \.\. 1, got -100"),
        (
            "single",
            torch.tensor([0, 1]),
            r"labels must be class indices \[4\], got torch.int64 \(2,\)",
        ),
        ("single", torch.zeros(4), r"labels must be class indices \[4\], got torch.float32"),
        (
            "multi",
            torch.zeros(4, dtype=torch.long),
            r"labels must be floats \[4, 2\] \(1, 0 or NaN\), got torch.int64 \(4,\)",
        ),
        ("multi", torch.zeros(4, 3), r"labels must be floats \[4, 2\]"),
        ("multi", torch.full((4, 2), 0.5), "labels must be 1, 0 or NaN, got 0.5"),
    ],
)
def test_labels_out_of_range_or_shape(
    problem: str, labels: Tensor, message: str, classifier: Any, batch: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        classifier(problem_type=f"{problem}_label_classification")(**batch(), labels=labels)


def test_rows_that_do_not_count() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    present = torch.tensor([True, False, True, False])
    expected = nn.functional.cross_entropy(logits[present], labels[present])
    torch.testing.assert_close(classification_loss(logits, labels, present=present), expected)
    assert classification_loss(logits, labels, present=torch.zeros(4, dtype=torch.bool)).item() == 0
    many = torch.tensor([[1.0, 0, 1]] * 4)
    expected = nn.functional.binary_cross_entropy_with_logits(logits[present], many[present])
    torch.testing.assert_close(classification_loss(logits, many, present=present), expected)


def test_the_auxiliary_loss_is_added_in_training_alone(classifier: Any, batch: Any) -> None:
    model = classifier(auxiliary_loss_weight=0.5)
    inputs, labels = batch(), torch.tensor([0, 1, 1, 0])
    present = {
        "image_present": torch.tensor([True, True, False, True]),
        "text_present": torch.tensor([True, False, True, True]),
    }
    outputs = model(**inputs, **present, labels=labels, output_embeddings=True)
    plain = nn.functional.cross_entropy(outputs.logits, labels)
    torch.testing.assert_close(outputs.loss, plain)
    # Only the classifier itself is set to training mode, because the dropout of the towers would
    # change the embeddings.
    model.training = True
    expected = plain
    for name, head in (("image", model.image_head), ("text", model.text_head)):
        here = present[f"{name}_present"]
        alone = head(outputs[f"{name}_embedding"])[here]
        expected = expected + 0.5 * nn.functional.cross_entropy(alone, labels[here])
    torch.testing.assert_close(model(**inputs, **present, labels=labels).loss, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_targets(smoothing: float) -> None:
    """The loss is the cross-entropy with the smoothed target, term by term."""
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    weights = [1.0, 2.0, 5.0]
    expected = 0.0
    for row, label in zip(logits.double(), labels, strict=True):
        total = row.exp().sum()
        for number, weight in enumerate(weights):
            target = (1 - smoothing) * (number == label) + smoothing / 3
            expected -= float(weight * target * (row[number].exp() / total).log()) / 5
    loss = classification_loss(logits, labels, torch.tensor(weights), smoothing=smoothing)
    assert float(loss) == pytest.approx(expected, rel=1e-5)

    answers = torch.tensor([[1.0, 0.0, math.nan]] * 5)
    expected = 0.0
    for row in logits.double():
        for z, y, weight in zip(row, answers[0, :2], weights, strict=False):
            target = (1 - smoothing) * float(y) + smoothing / 2
            p = float(z.sigmoid())
            expected -= weight * (target * math.log(p) + (1 - target) * math.log(1 - p)) / 10
    loss = classification_loss(logits, answers, torch.tensor(weights), smoothing=smoothing)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def focal_by_hand(
    logits: Tensor, labels: Tensor, weights: list[float], pos_weight: list[float], **options: float
) -> float:
    """Returns eq. 5 of Lin et al. term by term, in numpy; NaN labels and absent rows left out."""
    gamma, smoothing = options["gamma"], options["smoothing"]
    total, count = 0.0, 0
    for z, y in zip(logits.double().numpy(), labels.numpy(), strict=True):
        if np.ndim(y) == 0:
            p = np.exp(z) / np.exp(z).sum()
            count += 1
            for number, weight in enumerate(weights):
                target = (1 - smoothing) * (number == y) + smoothing / len(z)
                total -= weight * target * (1 - p[number]) ** gamma * np.log(p[number])
            continue
        for number in range(len(z)):
            if np.isnan(y[number]):
                continue
            count += 1
            p = 1 / (1 + np.exp(-z[number]))
            target = (1 - smoothing) * y[number] + smoothing / 2
            term = pos_weight[number] * target * (1 - p) ** gamma * np.log(p)
            term += (1 - target) * p**gamma * np.log(1 - p)
            total -= weights[number] * term
    return total / count


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("kind", ["single", "multi"])
def test_focal_loss_and_weights_by_the_formula(kind: str, gamma: float, smoothing: float) -> None:
    torch.manual_seed(3)
    logits = 3 * torch.randn(12, 3)
    labels = torch.randint(3, (12,))
    if kind == "multi":
        labels = torch.randint(2, (12, 3)).float()
        labels[torch.rand(12, 3) < 0.3] = math.nan
    weights, pos_weight = [0.5, 1.0, 4.0], [3.0, 0.2, 1.0]
    expected = focal_by_hand(logits, labels, weights, pos_weight, gamma=gamma, smoothing=smoothing)
    loss = classification_loss(
        logits,
        labels,
        torch.tensor(weights),
        pos_weight=torch.tensor(pos_weight) if kind == "multi" else None,
        focal_gamma=gamma,
        smoothing=smoothing,
    )
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_pos_weight_is_that_of_torch() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(9, 4), torch.randint(2, (9, 4)).float()
    pos_weight = torch.tensor([0.5, 3.0, 1.0, 10.0])
    loss = classification_loss(logits, labels, pos_weight=pos_weight)
    torch.testing.assert_close(loss, nn.BCEWithLogitsLoss(pos_weight=pos_weight)(logits, labels))


def test_focal_loss_of_many_labels_is_that_of_torchvision() -> None:
    torch.manual_seed(1)
    logits, labels = 2 * torch.randn(9, 4), torch.randint(2, (9, 4)).float()
    # alpha weighs positives by alpha and negatives by 1 - alpha: positives by v, up to a factor.
    alpha = 0.75
    expected = sigmoid_focal_loss(logits, labels, alpha, 2.0, reduction="mean") / (1 - alpha)
    pos_weight = torch.full((4,), alpha / (1 - alpha))
    loss = classification_loss(logits, labels, pos_weight=pos_weight, focal_gamma=2.0)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("gamma", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["single", "multi"])
def test_focal_loss_is_finite_where_the_answer_is_certain(kind: str, gamma: float) -> None:
    logits = torch.tensor([[200.0, -200.0], [0.0, 17.0], [-200.0, 200.0]], requires_grad=True)
    labels = torch.tensor([0, 1, 0])
    if kind == "multi":
        labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    loss = classification_loss(logits, labels, focal_gamma=gamma)
    (slope,) = torch.autograd.grad(loss, logits)
    assert bool(slope.isfinite().all()) and bool(loss.isfinite())
    # Only the last row is wrong, by 400 in a softmax and by 200 in each of two sigmoids.
    assert loss.item() == pytest.approx(400 / 3 if kind == "single" else 200 / 3, rel=1e-2)
    assert slope[0].abs().max() < 1e-3 < slope[2].abs().max()


def test_the_loss_of_a_model_follows_its_config(classifier: Any, batch: Any) -> None:
    """Also the losses of each modality alone, and those of a strategy's answers."""
    labels = torch.tensor([[1.0, 0], [math.nan, 1], [0, 0], [1, math.nan]])
    options = {"class_weights": [2.0, 1.0], "pos_weight": [3.0, 0.5], "focal_gamma": 1.5}
    model = classifier(
        problem_type="multi_label_classification", auxiliary_loss_weight=0.5, **options
    )
    weights = {"weights": options["class_weights"], "pos_weight": options["pos_weight"]}
    outputs = model(**batch(), labels=labels, output_embeddings=True)
    by_hand = focal_by_hand(outputs.logits.detach(), labels, **weights, gamma=1.5, smoothing=0.0)
    assert outputs.loss.item() == pytest.approx(by_hand, rel=1e-4)
    model.config.label_smoothing = 0.2
    assert model(**batch(), labels=labels).loss.item() == pytest.approx(by_hand, rel=1e-4)
    model.training = True
    expected = focal_by_hand(outputs.logits.detach(), labels, **weights, gamma=1.5, smoothing=0.2)
    for name, head in (("image", model.image_head), ("text", model.text_head)):
        alone = head(outputs[f"{name}_embedding"]).detach()
        expected += 0.5 * focal_by_hand(alone, labels, **weights, gamma=1.5, smoothing=0.2)
    assert model(**batch(), labels=labels).loss.item() == pytest.approx(expected, rel=1e-4)


def test_weights_that_fit_has_yet_to_compute_are_no_weights_of_one(
    classifier: Any, batch: Any
) -> None:
    model = classifier(class_weights="balanced")
    assert model.class_weights is None
    assert model(**batch()).loss is None
    with pytest.raises(ValueError, match="class_weights must be numbers where a loss is computed"):
        model(**batch(), labels=torch.tensor([0, 1, 1, 0]))
