"""The strategy `late`: probabilities of the modalities, joined by the documented formulas."""

import math
from typing import Any

import pytest
import torch

from mmfusion import (
    Late,
)
from mmfusion import testing as kit


def test_the_late_strategy_is_told_of_multi_label(classifier: Any) -> None:
    model = classifier(fusion=Late("product"), problem_type="multi_label_classification")
    assert model.fusion.multi_label and model.config.fusion == {
        "name": "late",
        "combine": "product",
    }


def joined(
    combine: str, multi_label: bool, present: list[list[float]], weights: list[float]
) -> list[float]:
    """Returns p(class) of one sample from p_m(class) of the modalities that are present."""
    shares = [weight / sum(weights) for weight in weights]
    classes = list(zip(*present, strict=True))
    if combine != "product":
        return [sum(w * p for w, p in zip(shares, column, strict=True)) for column in classes]
    yes = [math.prod(column) for column in classes]
    if multi_label:
        no = [math.prod(1 - p for p in column) for column in classes]
        return [a / (a + b) for a, b in zip(yes, no, strict=True)]
    return [p / sum(yes) for p in yes]


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("combine", ["mean", "learned", "product"])
def test_probabilities_are_joined_by_the_formula(combine: str, multi_label: bool) -> None:
    problem = "multi_label_classification" if multi_label else None
    model = kit.tiny_classifier(Late(combine), image="custom", text="custom", problem_type=problem)
    inputs = kit.tiny_batch(model)
    assert [inputs[f"{name}_present"].tolist() for name in ("image", "text")] == [
        [False, True, True, True],
        [True, False, True, True],
    ]
    to_probability = torch.sigmoid if multi_label else lambda scores: scores.softmax(-1)
    with torch.no_grad():
        logits = model(**inputs).logits
        words = model.text_encoder(inputs["input_ids"], inputs["attention_mask"])
        image = model.fusion.image_head(model.image_encoder(inputs["pixel_values"]).pooled)
        text = model.fusion.text_head(model.mapper(words).pooled)
    strengths = model.fusion.weights.exp().tolist() if combine == "learned" else [1.0, 1.0]
    for row in range(4):
        here = [m for m, name in enumerate(("image", "text")) if inputs[f"{name}_present"][row]]
        probabilities = [to_probability((image, text)[m][row]).tolist() for m in here]
        expected = joined(combine, multi_label, probabilities, [strengths[m] for m in here])
        torch.testing.assert_close(to_probability(logits[row]), torch.tensor(expected))
