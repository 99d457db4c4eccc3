"""The report: all metrics of a set of predictions, each with its interval."""

from collections.abc import Iterable
from typing import Any

from ..model.validation import did_you_mean
from .bootstrap import Interval, bootstrap_interval
from .functional import METRICS
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
    """Returns every metric of the table `METRICS` with its 95 % interval.

    The table and the metrics are in `mmfusion.metrics.functional`. The intervals are those of
    `bootstrap_interval`. ece is the expected calibration error, in 15 bins, of the softmax
    (single-label) or the sigmoid (multi-label).

    Args:
        logits: finite logits, not probabilities.
        labels: class numbers, or 1/0/NaN.
        groups: the group (patient) of each sample; None makes each sample its own group.
        problem_type: "single_label_classification" or "multi_label_classification": the labels must
            have its shape. None takes it from the shape of the labels.
        resamples: the number of resamples to draw, at least 1.
        seed: the same seed draws the same groups.

    Shape:
        logits `[B, C]`; labels `[B]` or `[B, C]`; groups `[B]`.

    Raises:
        TypeError: if an argument is not an array of numbers.
        ValueError: if shapes do not fit, a logit is not finite, a label is out of range, or an
            option has a wrong value.

    Example:
        >>> import numpy as np
        >>> labels = np.array([0, 1] * 20)
        >>> logits = np.eye(2)[np.where(np.arange(40) % 4, labels, 1)]
        >>> results = evaluate_predictions(logits, labels)
        >>> print(results["accuracy"])
        0.750 (0.625 to 0.875)
    """
    values, truth = read_samples("logits", logits, labels)
    actual = _PROBLEM_TYPES[truth.ndim - 1]
    if problem_type not in (None, actual):
        raise ValueError(_wrong_problem_type(str(problem_type), actual, tuple(truth.shape)))
    probabilities = values.softmax(1) if truth.ndim == 1 else values.sigmoid()
    return {
        name: bootstrap_interval(
            metric.function,
            probabilities if metric.takes_probabilities else values,
            truth,
            groups=groups,
            resamples=resamples,
            seed=seed,
        )
        for name, metric in METRICS.items()
    }


def _wrong_problem_type(problem_type: str, actual: str, shape: tuple[int, ...]) -> str:
    """Returns the error's message: the type contradicts the labels, or is none of the two."""
    if problem_type in _PROBLEM_TYPES:
        return (
            f"problem_type must be {actual!r} where labels have shape {shape}, "
            f"got {problem_type!r}."
        )
    hint = did_you_mean(problem_type, _PROBLEM_TYPES, cutoff=0.3)
    return f"problem_type must be one of {' or '.join(_PROBLEM_TYPES)}, got {problem_type!r}.{hint}"
