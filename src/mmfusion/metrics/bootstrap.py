"""Bootstrap intervals of metrics, and paired bootstrap tests of two models.

Two images of one patient are not independent samples. Pass the patients as `groups`. A patient is
then drawn together with all samples of this patient, so the width of the interval fits the number
of patients.

One training is a sample, too: another seed gives another model. Pass the scores of several
trainings as a list. The interval then covers both, other patients and other trainings.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
import torch
from jaxtyping import Float

from .functional import (
    MetricFunction,
    weighted_form,
)
from .weighted import Array, WeightedMetric, as_tensor

Scores: TypeAlias = Array | Sequence[Array]
"""The scores of one training, or a list with the scores of several trainings."""

# Half a MiB of weights. A batch of resamples that fits into the CPU's cache is several times as
# fast as a larger one.
_WEIGHTS_AT_ONCE = 2**16


@final
@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its confidence interval.

    Attributes:
        estimate: the metric on all samples.
        low: the lower bound, NaN if there is none.
        high: the upper bound, NaN if there is none.

    Example:
        >>> print(Interval(0.88, 0.8512, 0.9))
        0.880 (0.851 to 0.900)
    """

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3f} ({self.low:.3f} to {self.high:.3f})"


@final
@dataclass(frozen=True)
class PairedDifference:
    """The metric of the first model minus that of the second, with interval and p-value.

    Attributes:
        difference: the difference on all samples.
        low: the lower bound of its interval, NaN if there is none.
        high: the upper bound of its interval, NaN if there is none.
        p_value: two-sided; NaN if there is none.

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
    scores: Scores,
    labels: Array,
    *,
    groups: Iterable[Any] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Returns the metric with its percentile bootstrap interval.

    Each resample draws whole groups with replacement, as many as there are. Each time a group is
    drawn, all its samples are taken. The bounds are the (1 - level)/2 and (1 + level)/2 quantiles
    of the metric over the resamples. The classification metrics of `mmfusion.metrics.functional`
    compute all resamples in a few matrix operations. Any other function is called once per
    resample.

    With a list of S trainings, the estimate is the mean of the metric over the trainings. Each
    resample also draws S trainings with replacement. The spread of S drawn trainings is too small
    by the factor S / (S - 1) on average, so the deviation from the mean is multiplied by its root.

    A resample in which the metric is NaN is left out. AUROC, for example, is NaN if only one class
    was drawn. The bounds are NaN if the spread is unknown. This is so with only one group, and with
    a metric that is NaN on all samples.

    Args:
        metric: a function of scores and labels, such as `accuracy` or `auroc`.
        scores: the first argument of the metric, one row per sample; or a list of them, one for
            each training.
        labels: the second argument of the metric, one row per sample.
        groups: the group (patient) of each sample; None makes each sample its own group.
        level: the confidence level, between 0 and 1.
        resamples: the number of resamples to draw, at least 1.
        seed: the same seed draws the same groups.

    Shape:
        scores `[B]` or `[B, C]`; labels `[B]` or `[B, C]`; groups `[B]`.

    Raises:
        TypeError: if scores or labels are not arrays of numbers.
        ValueError: if lengths differ, a group is missing, or an option is out of range.

    Source:
        Field and Welsh 2007, J. R. Statist. Soc. B 69:369 (the randomized cluster bootstrap);
        Davison and Hinkley 1997, Bootstrap Methods and their Application, sec. 2.3 (the factor
        n / (n - 1) of the variance).

    Example:
        >>> from mmfusion import accuracy
        >>> logits, labels = np.eye(2)[[0, 1, 0, 1, 1, 1]], np.array([0, 1, 1, 1, 1, 0])
        >>> print(bootstrap_interval(accuracy, logits, labels, groups=list("aabcdd")))
        0.667 (0.250 to 1.000)
    """
    _check_level(level)
    trainings = _trainings("scores", scores)
    forms = [_over_resamples(metric, one, labels) for one in trainings]
    estimate = _mean([float(metric(one, labels)) for one in trainings])
    values = _distribution(forms, len(labels), groups, resamples, seed)
    return Interval(estimate, *_bounds(values, level))


def paired_bootstrap(
    metric: MetricFunction,
    first: Scores,
    second: Scores,
    labels: Array,
    *,
    groups: Iterable[Any] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    r"""Returns metric(first) - metric(second) with interval and p-value.

    Both models are evaluated on the same resamples. The p-value is two-sided. It is
    $2 \min(P^*(d \le 0), P^*(d \ge 0))$ over the resampled differences $d$, at most 1. To each
    count and to the number of resamples 1 is added, so the p-value is never 0. Two models with
    equal predictions have difference 0 and p-value 1. A resample in which either metric is NaN is
    left out. If the interval is NaN (see `bootstrap_interval`), the p-value is NaN, too. With lists
    of trainings, the i-th training of the first model is compared with the i-th of the second.

    Args:
        metric: a function of scores and labels, such as `accuracy` or `auroc`.
        first: the predictions of the first model, as the metric takes them; or a list of them, one
            for each training.
        second: the predictions of the second model for the same samples in the same order; as many
            trainings.
        labels: the second argument of the metric.
        groups: the group (patient) of each sample; None makes each sample its own group.
        level: the confidence level, between 0 and 1.
        resamples: the number of resamples to draw, at least 1.
        seed: the same seed draws the same groups.

    Shape:
        first and second `[B]` or `[B, C]`; labels `[B]` or `[B, C]`; groups `[B]`.

    Raises:
        TypeError: if first, second or labels are not arrays of numbers.
        ValueError: if lengths differ, a group is missing, or an option is out of range.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 15 and 16; Davison and
        Hinkley 1997, Bootstrap Methods and their Application, sec. 4.2 (the added 1).

    Example:
        >>> from mmfusion import accuracy
        >>> labels = np.array([0, 1] * 20)
        >>> right, worse = np.eye(2)[labels], np.eye(2)[np.where(np.arange(40) % 4, labels, 1)]
        >>> print(paired_bootstrap(accuracy, right, worse, labels))
        +0.250 (+0.125 to +0.375), p = 0.001
    """
    _check_level(level)
    of_model = []
    for name, scores in (("first", first), ("second", second)):
        trainings = _trainings(name, scores)
        try:
            of_model.append([(_over_resamples(metric, one, labels), one) for one in trainings])
        except (TypeError, ValueError) as error:
            # The metric does not know which of the two models its scores come from.
            raise type(error)(f"{name} does not suit the metric: {error}") from error
    if len(of_model[0]) != len(of_model[1]):
        raise ValueError(
            "first and second must hold the same number of trainings, "
            f"got {len(of_model[0])} and {len(of_model[1])}."
        )
    pairs = list(zip(*of_model, strict=True))
    difference = _mean(
        [
            float(metric(one, labels)) - float(metric(other, labels))
            for (_, one), (_, other) in pairs
        ]
    )
    values = _distribution(
        [_minus(one, other) for (one, _), (other, _) in pairs],
        len(labels),
        groups,
        resamples,
        seed,
    )
    return PairedDifference(difference, *_bounds(values, level), _two_sided_p(values))


def _trainings(name: str, scores: Scores) -> Sequence[Array]:
    """Returns the scores of each training."""
    if not isinstance(scores, Sequence):
        return [scores]
    if not scores:
        raise ValueError(f"{name} must hold at least one training, got an empty list.")
    return scores


def _minus(one: WeightedMetric, other: WeightedMetric) -> WeightedMetric:
    """Returns the difference of two metrics as a function of sample weights."""
    return lambda weights: one(weights) - other(weights)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _over_resamples(metric: MetricFunction, scores: Array, labels: Array) -> WeightedMetric:
    """Returns the metric as a function of sample weights, one row of weights for each resample."""
    sizes = {
        name: len(as_tensor(name, value))
        for name, value in (("scores", scores), ("labels", labels))
    }
    if sizes["scores"] != sizes["labels"] or not sizes["scores"]:
        raise ValueError(
            "scores and labels must have the same number of rows, at least 1, "
            f"got {sizes['scores']} and {sizes['labels']}."
        )
    form = weighted_form(metric, scores, labels)
    if form is not None:
        return form

    def by_calls(weights: Float[np.ndarray, "R B"]) -> Float[np.ndarray, "R"]:
        drawn = [np.repeat(np.arange(len(row)), row.astype(int)) for row in weights]
        return np.array([float(metric(scores[rows], labels[rows])) for rows in drawn])

    return by_calls


def _distribution(
    forms: Sequence[WeightedMetric],
    samples: int,
    groups: Iterable[Any] | None,
    resamples: int,
    seed: int,
) -> Float[np.ndarray, "R"]:
    """Returns the metric of each resample in which it is defined; nothing if there is one group.

    There is one form for each training.
    """
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
        # Each resample has its own range of group numbers, so one bincount counts all of them.
        drawn = generator.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        weights = times[:, group_of].astype(float)
        values.append(np.stack([form(weights) for form in forms]))
    joined = _over_trainings(np.concatenate(values, axis=1), seed)
    return joined[~np.isnan(joined)]


def _over_trainings(values: Float[np.ndarray, "S R"], seed: int) -> Float[np.ndarray, "R"]:
    """Returns the mean over trainings that are drawn anew for each resample.

    Args:
        values: the metric of each training in each resample of the samples.
        seed: of the draw.
    """
    count, resamples = values.shape
    mean = np.asarray(values.mean(0))
    if count == 1:
        return mean
    # A stream of its own, so that the drawn groups do not depend on the number of trainings.
    generator = np.random.default_rng([seed, 1])
    drawn = generator.integers(count, size=(count, resamples))
    deviation = np.take_along_axis(values, drawn, axis=0).mean(0) - mean
    return mean + math.sqrt(count / (count - 1)) * deviation


def _numbered(groups: Iterable[Any], samples: int) -> np.ndarray:
    """Returns the number of each sample's group [B], counted from 0."""
    import pandas

    # Tensor elements compare by identity, so convert them to Python values first.
    values = groups.tolist() if isinstance(groups, torch.Tensor | np.ndarray) else list(groups)
    if len(values) != samples or getattr(groups, "ndim", 1) != 1:
        got = tuple(getattr(groups, "shape", (len(values),)))
        raise ValueError(f"groups must have one entry per sample, shape ({samples},), got {got}.")
    numbers = pandas.factorize(pandas.Series(values, dtype=object))[0]
    missing = np.flatnonzero(numbers < 0)
    if len(missing):
        raise ValueError(
            f"groups must name the group of each sample, got {values[missing[0]]!r} "
            f"in row {missing[0]}. Give each of these {len(missing)} samples a group of its own "
            "if it is known to stand alone."
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
    # A difference of 0 counts on both sides, so equal models get the p-value 1.
    tail = min(np.count_nonzero(values <= 0), np.count_nonzero(values >= 0))
    return min(1.0, 2 * (tail + 1) / (len(values) + 1))
