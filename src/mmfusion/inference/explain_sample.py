"""One sample as a classifier takes it, and its answers with each set of modalities."""

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ..model.modalities import MODALITIES
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from ..model.validation import closest
from .explain_gradients import Inputs, log_odds

Answers = dict[tuple[str, ...], Tensor]
"""The modalities that a sample is left -> the logits [C]."""


def sample_inputs(
    model: FusionClassifier, processor: FusionProcessor, pictures: Any, text: Any
) -> Inputs:
    """Returns the inputs of one sample on the device of the model.

    Args:
        model: the classifier.
        processor: its processor.
        pictures: the list of its pictures, or None.
        text: the text, or None.

    Raises:
        ValueError: if a modality has no tower, or the sample has none.
    """
    given = {"image": pictures, "text": text}
    for name, value in given.items():
        if value is not None and name not in model.modalities:
            raise ValueError(
                f"{name} must be left out for a classifier of {model.modalities[0]} alone, got "
                f"{type(value).__name__}."
            )
    if all(value is None for value in given.values()):
        needed = " or ".join(model.modalities)
        raise ValueError(f"{needed} must be given, got neither. Nothing can be explained then.")
    arguments = {"images": [pictures], "text": [text]}
    used = {name: arguments["images" if name == "image" else name] for name in model.modalities}
    batch = processor(images=used.get("image"), text=used.get("text"))
    needed_inputs = [name for one in model.modalities for name in MODALITIES[one].processed]
    inputs = {name: batch[name].to(model.device) for name in needed_inputs}
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    return inputs


def class_names(model: FusionClassifier) -> list[str]:
    """Returns the names of the classes, in the order of the logits.

    Args:
        model: the classifier.
    """
    return [str(name) for name in (model.config.id2label or {}).values()]


def target_number(model: FusionClassifier, target: str | int | None, logits: Tensor) -> int:
    """Returns the number of a class.

    Args:
        model: the classifier.
        target: its name or number; None takes the most probable class.
        logits: the answer [C].

    Raises:
        ValueError: if there is no such class.
    """
    names = class_names(model)
    if target is None:
        return int(logits.argmax())
    if isinstance(target, str) and target in names:
        return names.index(target)
    if isinstance(target, int) and not isinstance(target, bool) and 0 <= target < len(names):
        return target
    raise ValueError(
        f"target must be one of {names} or a number from 0 to {len(names) - 1}, got {target!r}. "
        f"{closest(target, names)}"
    )


def probabilities_of(model: FusionClassifier, logits: Tensor) -> Tensor:
    """Returns the probabilities of logits [..., C].

    Args:
        model: the classifier.
        logits: its answer.
    """
    logits = logits.float()
    return logits.sigmoid() if model.multi_label else logits.softmax(-1)


def present_modalities(model: FusionClassifier, inputs: Inputs) -> tuple[str, ...]:
    """Returns the modalities that a sample has.

    Args:
        model: the classifier.
        inputs: of the sample.
    """
    flags = {name: bool(inputs[MODALITIES[name].present].any()) for name in model.modalities}
    return tuple(name for name, here in flags.items() if here)


@torch.no_grad()
def answers_of(model: FusionClassifier, inputs: Inputs) -> Answers:
    """Returns the logits of a sample with each set of the modalities that it has.

    Args:
        model: the classifier, in evaluation mode.
        inputs: of one sample.

    Raises:
        ValueError: if a logit is not finite.
    """
    present = present_modalities(model, inputs)
    sets = [kept for size in range(1, len(present) + 1) for kept in combinations(present, size)]
    rows = {name: value.expand(len(sets), *value.shape[1:]) for name, value in inputs.items()}
    for name in model.modalities:
        flag = MODALITIES[name].present
        kept = torch.tensor([name in one for one in sets], device=inputs[flag].device)
        # One flag per sample, or one per sample and picture.
        rows[flag] = rows[flag] & kept.view(-1, *[1] * (inputs[flag].ndim - 1))
    logits = model(**rows).logits.float()
    if not bool(logits.isfinite().all()):
        raise ValueError(
            f"model must give finite logits, got {logits[-1].tolist()}. Check the model's weights, "
            "and the mean and std of its images."
        )
    return dict(zip(sets, logits, strict=True))


def base_log_odds(model: FusionClassifier, target: int, prior: Mapping[str, float] | None) -> float:
    """Returns the log-odds of a class before anything is known of a sample.

    Args:
        model: the classifier.
        target: the number of the class.
        prior: class -> probability; None: all alike, and 1/2 where each class is decided by itself.

    Raises:
        ValueError: if `prior` does not name each class once, with probabilities between 0 and 1
            that sum to 1 (unless each class is decided by itself).
    """
    names = class_names(model)
    if prior is None:
        share = 0.5 if model.multi_label or len(names) < 2 else 1 / len(names)
    else:
        inside = set(prior) == set(names) and all(0 < one < 1 for one in prior.values())
        if not inside or not (
            model.multi_label or math.isclose(sum(prior.values()), 1, abs_tol=1e-3)
        ):
            rule = "" if model.multi_label else " that sum to 1"
            raise ValueError(
                f"prior must give each of {names} a probability above 0 and below 1{rule}, "
                f"got {dict(prior)!r}. None takes all classes alike."
            )
        share = prior[names[target]]
    return math.log(share) - math.log1p(-share)


def shapley_values(values: Mapping[frozenset[str], float]) -> dict[str, float]:
    """Returns the Shapley value of each player of a game.

        phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (v(S and i) - v(S))

    Args:
        values: v: set of players -> value, for every set, the empty one included.

    Source: Shapley 1953, A value for n-person games.

    Example:
        >>> game = {"": 0.0, "a": 1.0, "b": 2.0, "ab": 4.0}
        >>> shapley_values({frozenset(players): value for players, value in game.items()})
        {'a': 1.5, 'b': 2.5}
    """
    players = sorted(frozenset().union(*values))
    total = math.factorial(len(players))
    found = {}
    for player in players:
        others = [one for one in players if one != player]
        found[player] = sum(
            math.factorial(size)
            * math.factorial(len(others) - size)
            / total
            * (values[frozenset((*chosen, player))] - values[frozenset(chosen)])
            for size in range(len(players))
            for chosen in combinations(others, size)
        )
    return found


def contributions(
    model: FusionClassifier, answers: Answers, target: int, base: float
) -> dict[str, float]:
    """Returns what each modality adds to the log-odds of a class; an absent one adds 0.

    Args:
        model: the classifier.
        answers: of `answers_of`.
        target: the number of the class.
        base: the value of the empty set.
    """
    values = {frozenset[str](): base}
    for kept, logits in answers.items():
        odds = log_odds(logits[None], target, multi_label=model.multi_label)
        values[frozenset(kept)] = float(odds)
    found = shapley_values(values)
    return {name: found.get(name, 0.0) for name in model.modalities}


def without(answers: Answers, name: str) -> Tensor | None:
    """Returns the logits without a modality; None where nothing is left.

    Args:
        answers: of `answers_of`.
        name: the modality. It may be absent already.
    """
    whole = max(answers, key=len)
    return answers.get(tuple(one for one in whole if one != name))
