"""All metrics of a set of predictions, each with its interval."""

from collections.abc import Iterable
from typing import Any

import torch

from ..model.validation import did_you_mean
from .bootstrap import Interval, bootstrap_interval
from .functional import (
    MetricFunction,
    accuracy,
    auroc,
    balanced_accuracy,
    cross_entropy,
    expected_calibration_error,
)
from .weighted import Array, read_samples

_PROBLEM_TYPES = ("single_label_classification", "multi_label_classification")


def evaluate_predictions(
    logits: Array,
    labels: Array,
    *,
    groups: Iterable[Any] | None = None,
    problem_type: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return accuracy, balanced_accuracy, auroc, cross_entropy and ece, each with its 95 % interval.

    The definitions are those of `mmfusion.metrics.functional`, the intervals those of
    `bootstrap_interval`; ece is the expected calibration error, in 15 bins, of the softmax
    (single-label) or sigmoid (multi-label).

    Args:
        logits: Finite logits, not probabilities.
        labels: Class numbers, or 1/0/NaN.
        groups: The group (patient) of each sample; None makes each sample its own group.
        problem_type: "single_label_classification" or "multi_label_classification", to have the
            labels checked against it; None takes it from the shape of the labels.
        resamples: How many resamples to draw, at least 1.
        seed: The same seed draws the same groups.

    Shape:
        logits `[B, C]`; labels `[B]` or `[B, C]`; groups `[B]`.

    Raises:
        TypeError: An argument is no array of numbers.
        ValueError: Shapes do not fit, a logit is not finite, a label is out of range, or an option
            is unfit.

    Example:
        >>> labels = np.array([0, 1] * 20)
        >>> results = evaluate_predictions(np.eye(2)[np.where(np.arange(40) % 4, labels, 1)], labels)
        >>> print(results["accuracy"])
        0.750 (0.625 to 0.875)
    """
    values, truth = read_samples("logits", logits, labels)
    found = _PROBLEM_TYPES[truth.ndim - 1]
    if problem_type not in (None, found):
        raise ValueError(_wrong_problem_type(str(problem_type), found, tuple(truth.shape)))
    probabilities = values.softmax(1) if truth.ndim == 1 else values.sigmoid()
    rows: dict[str, tuple[MetricFunction, torch.Tensor]] = {
        "accuracy": (accuracy, values),
        "balanced_accuracy": (balanced_accuracy, values),
        "auroc": (auroc, values),
        "cross_entropy": (cross_entropy, values),
        "ece": (expected_calibration_error, probabilities),
    }
    return {
        name: bootstrap_interval(
            metric, scores, truth, groups=groups, resamples=resamples, seed=seed
        )
        for name, (metric, scores) in rows.items()
    }


def _wrong_problem_type(problem_type: str, found: str, shape: tuple[int, ...]) -> str:
    if problem_type in _PROBLEM_TYPES:
        return (
            f"problem_type must be {found!r} where labels have shape {shape}, got {problem_type!r}."
        )
    hint = did_you_mean(problem_type, _PROBLEM_TYPES)
    return f"problem_type must be one of {' or '.join(_PROBLEM_TYPES)}, got {problem_type!r}.{hint}"
