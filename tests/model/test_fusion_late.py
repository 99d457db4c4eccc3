"""The strategy `late`: probabilities of the modalities, joined by the documented formulas."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mmfusion import (
    Late,
)
from mmfusion import testing as kit
from mmfusion.model.masking import normalized


def test_the_late_strategy_is_told_of_multi_label(classifier: Any) -> None:
    model = classifier(fusion=Late("product"), problem_type="multi_label_classification")
    assert model.fusion.multi_label and model.config.fusion == {
        "name": "late",
        "combine": "product",
    }


def joined(
    combine: str,
    multi_label: bool,
    answers: list[list[float]],
    weights: list[float],
    prior: list[float],
    absence: list[list[float]],
) -> list[float]:
    """Returns p(class) of one sample from p_m(class) of the modalities that are present.

    `absence` holds P(class | absent) / P(class) of the modalities that are absent; for multi-label
    classes, the ratio of the odds.
    """
    shares = [weight / sum(weights) for weight in weights]
    classes = list(zip(*answers, strict=True))
    if combine != "product":
        return [sum(w * p for w, p in zip(shares, column, strict=True)) for column in classes]
    factors = [math.prod(row[c] for row in absence) for c in range(len(prior))]
    if multi_label:
        odds = [
            math.prod(p / (1 - p) for p in column) * factor / (q / (1 - q)) ** (len(answers) - 1)
            for column, factor, q in zip(classes, factors, prior, strict=True)
        ]
        return [o / (1 + o) for o in odds]
    yes = [
        math.prod(column) * factor / q ** (len(answers) - 1)
        for column, factor, q in zip(classes, factors, prior, strict=True)
    ]
    return [p / sum(yes) for p in yes]


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("combine", ["mean", "learned", "product"])
def test_probabilities_are_joined_by_the_formula(combine: str, multi_label: bool) -> None:
    problem = "multi_label_classification" if multi_label else None
    model = kit.tiny_classifier(Late(combine), image="custom", text="custom", problem_type=problem)
    prior = [0.2, 0.3, 0.5]
    absence = [[0.5, 2.0, 1.5], [3.0, 0.25, 1.0]]
    with torch.no_grad():
        log = torch.tensor(prior)
        model.fusion.log_prior.copy_(log.logit() if multi_label else log.log())
        model.fusion.log_absence.copy_(torch.tensor(absence).log())
    inputs = kit.tiny_batch(model)
    assert [inputs[f"{name}_present"].tolist() for name in ("image", "text")] == [
        [False, True, True, True],
        [True, False, True, True],
    ]
    to_probability = torch.sigmoid if multi_label else lambda scores: scores.softmax(-1)
    everyone, strategy = torch.ones(4, dtype=torch.bool), model.fusion
    with torch.no_grad():
        logits = model(**inputs).logits
        words = normalized(model.text_encoder(inputs["input_ids"], inputs["attention_mask"]))
        picture = normalized(model.image_encoder(inputs["pixel_values"])).pooled
        image = strategy.image_probe([picture], [everyone])
        text = strategy.text_probe([words.pooled], [everyone])
        text = text + strategy.text_head(model.mapper(words).pooled)
    strengths = strategy.weights.exp().tolist() if combine == "learned" else [1.0, 1.0]
    for row in range(4):
        flags = [bool(inputs[f"{name}_present"][row]) for name in ("image", "text")]
        here = [m for m in (0, 1) if flags[m]]
        expected = joined(
            combine,
            multi_label,
            [to_probability((image, text)[m][row]).tolist() for m in here],
            [strengths[m] for m in here],
            prior,
            [absence[m] for m in (0, 1) if not flags[m]],
        )
        torch.testing.assert_close(to_probability(logits[row]), torch.tensor(expected))


@pytest.mark.parametrize("combine", ["mean", "learned", "product"])
def test_each_answer_is_trained_by_itself(combine: str) -> None:
    """While training, the loss is that of both answers, and of the weights where there are some."""
    model = kit.tiny_classifier(Late(combine), image="custom", text="custom").train()
    inputs = kit.tiny_batch(model, missing=False)
    loss = model(**inputs).loss
    loss.backward()
    with torch.no_grad():
        words = normalized(model.text_encoder(inputs["input_ids"], inputs["attention_mask"]))
        picture = normalized(model.image_encoder(inputs["pixel_values"])).pooled
    everyone, strategy = torch.ones(4, dtype=torch.bool), model.fusion
    with torch.no_grad():
        image = strategy.image_probe([picture], [everyone])
        text = strategy.text_probe([words.pooled], [everyone])
        text = text + strategy.text_head(model.mapper(words).pooled)
        answers = [F.cross_entropy(logits, inputs["labels"]) for logits in (image, text)]
        joint = F.cross_entropy(
            strategy.combined(torch.stack([image, text]), torch.stack([everyone] * 2)),
            inputs["labels"],
        )
    expected = sum(answers) + (joint if combine == "learned" else 0)
    torch.testing.assert_close(loss, expected)
    # d(loss of the image's answer) / d(bias) = mean(p - y): the combination adds nothing to it.
    target = F.one_hot(inputs["labels"], 3)
    gradient = (image.softmax(1) - target).mean(0)
    torch.testing.assert_close(strategy.image_probe.out.bias.grad, gradient)
