"""Answers with each set of modalities, and Shapley values, against brute force."""

import itertools
import math

import pytest
import torch

from mmfusion.inference.explain_sample import (
    answers_of,
    base_log_odds,
    contributions,
    sample_inputs,
    shapley_values,
    target_number,
    without,
)
from mmfusion.testing import tiny_classifier


@pytest.mark.parametrize("players", ["a", "ab", "abcd"])
def test_shapley_values_are_means_over_all_orders(players):
    draw = torch.Generator().manual_seed(0)
    game = {
        frozenset(chosen): float(torch.randn((), generator=draw))
        for size in range(len(players) + 1)
        for chosen in itertools.combinations(players, size)
    }
    found = shapley_values(game)
    orders = list(itertools.permutations(players))
    for player in players:
        added = [
            game[frozenset(order[: order.index(player) + 1])]
            - game[frozenset(order[: order.index(player)])]
            for order in orders
        ]
        assert found[player] == pytest.approx(sum(added) / len(orders))
    assert sum(found.values()) == pytest.approx(game[frozenset(players)] - game[frozenset()])


@pytest.mark.parametrize(
    "fusion", ["concat", "joint", "cross_attention", "mmtm", "late", "guarded"]
)
@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_contributions_are_those_of_the_four_sets(fusion, problem, processor_of, sample):
    model = tiny_classifier(fusion, "linear", "timm_vit", "bert", problem_type=problem)
    picture, text = sample
    processor = processor_of(model)
    inputs = sample_inputs(model, processor, picture, text)
    answers = answers_of(model, inputs)
    found = contributions(model, answers, 2, base := base_log_odds(model, 2, None))
    # The same by calls of the model on samples that really lack a modality.
    odds = {}
    for images, texts in (([picture], [text]), ([picture], [None]), ([None], [text])):
        logits = model(**processor(images=images, text=texts)).logits[0].detach().double()
        p = logits.sigmoid() if model.multi_label else logits.softmax(-1)
        odds[images[0] is not None, texts[0] is not None] = float((p / (1 - p)).log()[2])
    nothing = 0.0 if model.multi_label else math.log(1 / 2)
    both, image, words = odds[True, True], odds[True, False], odds[False, True]
    assert base == pytest.approx(nothing)
    assert found["image"] == pytest.approx((image - nothing + both - words) / 2, abs=1e-4)
    assert found["text"] == pytest.approx((words - nothing + both - image) / 2, abs=1e-4)
    alone = model(**processor(images=[None], text=[text])).logits[0]
    torch.testing.assert_close(without(answers, "image"), alone, rtol=1e-4, atol=1e-5)


def test_independent_evidence_gets_exactly_its_own_log_odds(processor_of, sample):
    """In a product of two experts the log-odds add up, so the shares are those of the experts."""
    model = tiny_classifier("late", "linear", "cnn", "bert", num_labels=2)
    with torch.no_grad():
        model.fusion.log_prior.copy_(torch.tensor([0.3, 0.7]).log())
        model.fusion.log_absence.zero_()
    inputs = sample_inputs(model, processor_of(model), *sample)
    prior = {"LABEL_0": 0.3, "LABEL_1": 0.7}
    base = base_log_odds(model, 1, prior)
    assert base == pytest.approx(math.log(0.7 / 0.3), abs=1e-4)
    answers = answers_of(model, inputs)
    found = contributions(model, answers, 1, base)
    odds = {name: float(one[1] - one[0]) for name, one in answers.items()}
    assert found["image"] == pytest.approx(odds[("image",)] - base, abs=1e-4)
    assert found["text"] == pytest.approx(odds[("text",)] - base, abs=1e-4)


def test_an_absent_modality_adds_exactly_nothing(processor_of, sample):
    model = tiny_classifier("joint")
    inputs = sample_inputs(model, processor_of(model), sample[0], None)
    answers = answers_of(model, inputs)
    assert list(answers) == [("image",)]
    found = contributions(model, answers, 0, 0.5)
    assert found["text"] == 0.0 and without(answers, "image") is None
    torch.testing.assert_close(without(answers, "text"), answers[("image",)])


def test_the_target_is_a_name_or_a_number():
    model = tiny_classifier(num_labels=3)
    logits = torch.tensor([0.0, 2.0, 1.0])
    assert target_number(model, None, logits) == 1
    assert target_number(model, "LABEL_2", logits) == target_number(model, 2, logits) == 2
    for wrong in ("LABEL_3", 3, -1, True, 1.0):
        with pytest.raises(ValueError, match="target must be one of"):
            target_number(model, wrong, logits)
    with pytest.raises(ValueError, match="Did you mean 'LABEL_1'"):
        target_number(model, "LABEl_1", logits)


@pytest.mark.parametrize(
    "prior",
    [
        {"LABEL_0": 1.0},
        {"LABEL_0": 0.2, "LABEL_1": 0.2, "LABEL_2": 0.2},
        {"LABEL_0": 0.0, "LABEL_1": 0.5, "LABEL_2": 0.5},
        {"LABEL_0": 0.2, "LABEL_1": 0.3, "other": 0.5},
    ],
)
def test_a_prior_must_name_each_class(prior):
    with pytest.raises(ValueError, match="prior must give each of"):
        base_log_odds(tiny_classifier(num_labels=3), 0, prior)


def test_a_prior_of_many_labels_need_not_sum_to_one():
    model = tiny_classifier(num_labels=3, problem_type="multi_label_classification")
    prior = {"LABEL_0": 0.1, "LABEL_1": 0.1, "LABEL_2": 0.1}
    assert base_log_odds(model, 0, prior) == pytest.approx(math.log(1 / 9))


def test_wrong_samples_and_answers_are_refused(processor_of, sample):
    model = tiny_classifier(image=None)
    with pytest.raises(ValueError, match="image must be left out for a classifier of text alone"):
        sample_inputs(model, processor_of(model), *sample)
    with pytest.raises(ValueError, match="text must be given, got neither"):
        sample_inputs(model, processor_of(model), None, None)
    inputs = sample_inputs(model, processor_of(model), None, sample[1])
    with torch.no_grad():
        model.head.out.bias[0] = float("nan")
    with pytest.raises(ValueError, match="model must give finite logits"):
        answers_of(model, inputs)
