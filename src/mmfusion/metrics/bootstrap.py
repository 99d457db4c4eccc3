"""How sure a metric is: bootstrap intervals that draw whole patients, and paired tests of two models.

Two images of one patient are no two independent samples. Give the patients as `groups`: they are
drawn with all their samples, so that the interval is as wide as the number of patients warrants.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from .functional import (
    MetricFunction,
    weighted_form,
)
from .weighted import Array, WeightedMetric, as_tensor

# Half a MiB: a batch of resamples that stays in the cache is several times as fast as a large one.
_WEIGHTS_AT_ONCE = 2**16


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its confidence interval.

    Example:
        >>> print(Interval(0.88, 0.8512, 0.9))
        0.880 (0.851 to 0.900)
    """

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class PairedDifference:
    """How much higher the first model scores than the second, with interval and p-value.

    Example:
        >>> print(PairedDifference(-0.02, -0.05, 0.01, 0.21))
        -0.020 (-0.050 to +0.010), p = 0.210
    """

    difference: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        return (
            f"{self.difference:+.3f} ({self.low:+.3f} to {self.high:+.3f}), p = {self.p_value:.3f}"
        )


def bootstrap_interval(
    metric: MetricFunction,
    scores: Array,
    labels: Array,
    *,
    groups: Iterable[Any] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the metric with its percentile bootstrap interval, whole groups drawn with replacement.

    Each resample draws as many groups as there are and takes all samples of a group each time that
    it is drawn; the bounds are the (1 - level)/2 and (1 + level)/2 quantiles of the metric over the
    resamples. The classification metrics of `mmfusion.metrics.functional` take all resamples in a
    few matrix operations; any other function is called once per resample. A resample in which the
    metric is NaN, such as AUROC where one class alone was drawn, is left out. Where nothing can be
    said about the spread, as with one group alone or a metric that is NaN on all samples, the
    bounds are NaN.

    Args:
        metric: A function of scores and labels, such as `accuracy` or `auroc`.
        scores: What the metric takes first, one row per sample.
        labels: What the metric takes second, one row per sample.
        groups: The group (patient) of each sample; None makes each sample its own group.
        level: Confidence level, between 0 and 1.
        resamples: How many resamples to draw, at least 1.
        seed: The same seed draws the same groups.

    Shape:
        scores `[B]` or `[B, C]`; labels `[B]` or `[B, C]`; groups `[B]`.

    Raises:
        TypeError: scores or labels are no arrays of numbers.
        ValueError: Lengths differ, a group is missing, or an option is out of range.

    Source:
        Field and Welsh 2007, J. R. Statist. Soc. B 69:369 (the randomized cluster bootstrap).

    Example:
        >>> logits, labels = np.eye(2)[[0, 1, 0, 1, 1, 1]], np.array([0, 1, 1, 1, 1, 0])
        >>> print(bootstrap_interval(accuracy, logits, labels, groups=["a", "a", "b", "c", "d", "d"]))
        0.667 (0.250 to 1.000)
    """
    _check_level(level)
    over_resamples = _over_resamples(metric, scores, labels)
    estimate = float(metric(scores, labels))
    values = _distribution(over_resamples, len(labels), groups, resamples, seed)
    return Interval(estimate, *_bounds(values, level))


def paired_bootstrap(
    metric: MetricFunction,
    first: Array,
    second: Array,
    labels: Array,
    *,
    groups: Iterable[Any] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    r"""Return metric(first) - metric(second) with interval and p-value, both models on the same resamples.

    The p-value is two-sided: $2 \min(P^*(d \le 0), P^*(d \ge 0))$ over the resampled differences
    $d$, at most 1; 1 is added to each count and to the number of resamples, so that it is never 0.
    Two models that predict the same have difference 0 and p-value 1. A resample in which either
    metric is NaN is left out; where the interval is NaN (see `bootstrap_interval`), so is the
    p-value.

    Args:
        metric: A function of scores and labels, such as `accuracy` or `auroc`.
        first: What the first model predicts, as the metric takes it.
        second: What the second model predicts for the same samples in the same order.
        labels: What the metric takes second.
        groups: The group (patient) of each sample; None makes each sample its own group.
        level: Confidence level, between 0 and 1.
        resamples: How many resamples to draw, at least 1.
        seed: The same seed draws the same groups.

    Shape:
        first and second `[B]` or `[B, C]`; labels `[B]` or `[B, C]`; groups `[B]`.

    Raises:
        TypeError: first, second or labels are no arrays of numbers.
        ValueError: Lengths differ, a group is missing, or an option is out of range.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 15 and 16; Davison and
        Hinkley 1997, Bootstrap Methods and their Application, sec. 4.2 (the added 1).

    Example:
        >>> labels = np.array([0, 1] * 20)
        >>> right, wrong_at_times = np.eye(2)[labels], np.eye(2)[np.where(np.arange(40) % 4, labels, 1)]
        >>> print(paired_bootstrap(accuracy, right, wrong_at_times, labels))
        +0.250 (+0.125 to +0.375), p = 0.001
    """
    _check_level(level)
    of_model = []
    for name, scores in (("first", first), ("second", second)):
        try:
            of_model.append(_over_resamples(metric, scores, labels))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name} does not suit the metric: {error}") from error
    difference = float(metric(first, labels)) - float(metric(second, labels))
    values = _distribution(
        lambda weights: of_model[0](weights) - of_model[1](weights),
        len(labels),
        groups,
        resamples,
        seed,
    )
    return PairedDifference(difference, *_bounds(values, level), _two_sided_p(values))


def _over_resamples(metric: MetricFunction, scores: Array, labels: Array) -> WeightedMetric:
    sizes = {
        name: len(as_tensor(name, value))
        for name, value in (("scores", scores), ("labels", labels))
    }
    if sizes["scores"] != sizes["labels"] or not sizes["scores"]:
        raise ValueError(
            f"scores and labels must have the same number of rows, at least 1, got {sizes['scores']} and {sizes['labels']}."
        )
    form = weighted_form(metric, scores, labels)
    if form is not None:
        return form

    def by_calls(weights: Float[np.ndarray, "R B"]) -> Float[np.ndarray, "R"]:
        drawn = [np.repeat(np.arange(len(row)), row.astype(int)) for row in weights]
        return np.array([float(metric(scores[rows], labels[rows])) for rows in drawn])

    return by_calls


def _distribution(
    over_resamples: WeightedMetric,
    samples: int,
    groups: Iterable[Any] | None,
    resamples: int,
    seed: int,
) -> Float[np.ndarray, "R"]:
    """Return the metric of each resample in which it is defined; of none where there is but one group."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples!r}.")
    group_of = np.arange(samples) if groups is None else _numbered(groups, samples)
    count = int(group_of.max()) + 1
    if count == 1:
        return np.empty(0)
    generator = np.random.default_rng(seed)
    at_once = max(1, _WEIGHTS_AT_ONCE // samples)
    values = []
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        # Each resample counts in a range of numbers of its own, so that one bincount serves them
        # all.
        drawn = generator.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        values.append(over_resamples(times[:, group_of].astype(float)))
    joined = np.concatenate(values)
    return joined[~np.isnan(joined)]


def _numbered(groups: Iterable[Any], samples: int) -> np.ndarray:
    import pandas

    # Tensor elements compare by identity: only their Python values tell which are equal.
    values = groups.tolist() if isinstance(groups, torch.Tensor | np.ndarray) else list(groups)
    if len(values) != samples or getattr(groups, "ndim", 1) != 1:
        got = tuple(getattr(groups, "shape", (len(values),)))
        raise ValueError(f"groups must have one entry per sample, shape ({samples},), got {got}.")
    numbers = pandas.factorize(pandas.Series(values, dtype=object))[0]
    missing = np.flatnonzero(numbers < 0)
    if len(missing):
        raise ValueError(
            f"groups must name the group of each sample, got {values[missing[0]]!r} in row {missing[0]}. "
            f"Give each of these {len(missing)} samples a group of its own if it is known to stand alone."
        )
    return numbers


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(
            f"level must be between 0 and 1, got {level!r}. Use 0.95 for a 95 % interval."
        )


def _bounds(values: Float[np.ndarray, "R"], level: float) -> tuple[float, float]:
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _two_sided_p(values: Float[np.ndarray, "R"]) -> float:
    if not len(values):
        return math.nan
    tail = min(np.count_nonzero(values <= 0), np.count_nonzero(values >= 0))
    return min(1.0, 2 * (tail + 1) / (len(values) + 1))
