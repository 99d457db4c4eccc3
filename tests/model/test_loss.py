"""The training loss: the formulas, unknown labels, and labels that are refused."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

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
