"""The classification metrics as functions of sample weights, and the checks of their inputs.

A weight says how often a sample is drawn. One call of such a form evaluates R bootstrap resamples
at once: weights `[R, B]` -> values `[R]`. With all weights 1 the value is the metric itself, so an
interval and its estimate come from the same code. The value is NaN if the metric is undefined in a
resample. The metrics are defined in `mmfusion.metrics.functional`.

There is one decision per sample (single-label, K = 1), or one per sample and label (multi-label,
K = C).
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

Array = Tensor | np.ndarray
WeightedMetric = Callable[[Float[np.ndarray, "R B"]], Float[np.ndarray, "R"]]

# The sum of a row of bfloat16 probabilities differs from 1 by up to 2e-3.
_ROW_SUM_TOLERANCE = 5e-3
_ROUNDING = 1e-6


def accuracy_form(logits: Array, labels: Array) -> WeightedMetric:
    """Returns `accuracy` as a function of sample weights."""
    correct, known = judge(*read_samples("logits", logits, labels))
    return partial(_weighted_mean, correct.sum(1).numpy(), known.sum(1).numpy())


def cross_entropy_form(logits: Array, labels: Array) -> WeightedMetric:
    """Returns `cross_entropy` as a function of sample weights."""
    loss, known = sample_losses(*read_samples("logits", logits, labels))
    return partial(_weighted_mean, loss.numpy(), known.numpy())


def balanced_accuracy_form(logits: Array, labels: Array) -> WeightedMetric:
    """Returns `balanced_accuracy` as a function of sample weights."""
    values, truth = read_samples("logits", logits, labels)
    correct, _ = judge(values, truth)
    # The last axis of the support holds the classes, or the outcomes no and yes of each label.
    if truth.ndim == 1:
        support = functional.one_hot(truth, values.shape[1])[:, None].double()
    else:
        support = torch.stack([truth == 0, truth == 1], dim=2).double()
    hits = correct[:, :, None] * support

    def form(weights: Float[np.ndarray, "R B"]) -> Float[np.ndarray, "R"]:
        recall = _divide(
            np.tensordot(weights, hits.numpy(), 1), np.tensordot(weights, support.numpy(), 1)
        )
        return _mean_of_defined(_mean_of_defined(recall))

    return form


def auroc_form(scores: Array, labels: Array) -> WeightedMetric:
    """Returns `auroc` as a function of sample weights."""
    values = _finite("scores", scores)
    if values.ndim == 1:
        if len(as_tensor("labels", labels).shape) != 1:
            raise ValueError(
                f"labels must be [B] to fit scores [B], got shape {tuple(labels.shape)}."
            )
        # A single score equals two scores of which the first is always 0.
        values = torch.stack([torch.zeros_like(values), values], dim=1)
    values, truth = read_samples("scores", values, labels)
    if truth.ndim == 2:
        columns = zip(values.T, truth.T, strict=True)
        curves = [(column, target == 1, ~target.isnan()) for column, target in columns]
    else:
        # Each class is compared with the rest, so the rows must be on one scale: as probabilities.
        if values.shape[1] > 2 and not _are_distributions(values):
            values = values.softmax(1)
        classes = (
            {1: values[:, 1] - values[:, 0]} if values.shape[1] == 2 else dict(enumerate(values.T))
        )
        everyone = torch.ones_like(truth, dtype=torch.bool)
        curves = [(column, truth == label, everyone) for label, column in classes.items()]
    areas = [_one_auroc_form(*curve) for curve in curves]
    return lambda weights: _mean_of_defined(np.stack([area(weights) for area in areas], axis=1))


def _one_auroc_form(
    scores: Float[Tensor, "B"], positive: Bool[Tensor, "B"], known: Bool[Tensor, "B"]
) -> WeightedMetric:
    everyone = scores.argsort()
    order = everyone[known[everyone]].numpy()
    is_positive = positive.numpy()[order]
    tie_starts = np.flatnonzero(np.diff(scores.numpy()[order], prepend=np.nan))

    def form(weights: Float[np.ndarray, "R B"]) -> Float[np.ndarray, "R"]:
        drawn = weights[:, order]
        # Samples of equal score are summed first. Half of their negatives count as below, so a tie
        # counts one half.
        positives = np.add.reduceat(drawn * is_positive, tie_starts, axis=1)
        negatives = np.add.reduceat(drawn * ~is_positive, tie_starts, axis=1)
        negatives_below = negatives.cumsum(axis=1) - negatives / 2
        return _divide((positives * negatives_below).sum(1), positives.sum(1) * negatives.sum(1))

    return form


def calibration_form(probabilities: Array, labels: Array, *, bins: int = 15) -> WeightedMetric:
    """Returns `expected_calibration_error` as a function of sample weights."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins!r}.")
    values, truth = read_samples("probabilities", probabilities, labels)
    single_label = truth.ndim == 1
    if not (_are_distributions(values) if single_label else _are_probabilities(values)):
        rows = ", each row summing to 1" if single_label else ""
        raise ValueError(
            f"probabilities must be from 0 to 1{rows}, "
            f"got values from {values.min():g} to {values.max():g} and a first row summing to "
            f"{values[0].sum():g}. Give logits a {'softmax' if single_label else 'sigmoid'} first."
        )
    if single_label:
        confidence = values.amax(1, keepdim=True)
        correct, known = judge(values, truth)
    else:
        confidence = values.maximum(1 - values)
        correct, known = judge(values - 0.5, truth)
    # `gap[i, m]` sums correct - confidence of sample i in bin m. So `weights @ gap` gives the sum
    # of each bin in each resample.
    inner_edges = torch.arange(1, bins, dtype=torch.float64) / bins
    gap = torch.zeros(len(values), bins, dtype=torch.float64)
    gap.scatter_add_(1, torch.bucketize(confidence, inner_edges), (correct - confidence) * known)
    return lambda weights: _divide(
        np.abs(weights @ gap.numpy()).sum(1), weights @ known.sum(1).numpy()
    )


def _weighted_mean(
    total: Float[np.ndarray, "B"], count: Float[np.ndarray, "B"], weights: Float[np.ndarray, "R B"]
) -> Float[np.ndarray, "R"]:
    return _divide(weights @ total, weights @ count)


def _divide(
    numerator: Float[np.ndarray, "*axes"], denominator: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "*axes"]:
    # 0 / 0 is NaN by definition here: the class does not occur. No warning is needed.
    with np.errstate(invalid="ignore"):
        return np.asarray(numerator / denominator)


def _mean_of_defined(values: Float[np.ndarray, "*lead K"]) -> Float[np.ndarray, "*lead"]:
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0.0).sum(-1), defined.sum(-1).astype(float))


def judge(
    values: Float[Tensor, "B C"], truth: Tensor
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
    """Returns which decisions are right and which labels are known, as ones and zeros."""
    if truth.ndim == 1:
        correct = (values.argmax(1) == truth)[:, None]
        return correct.double(), torch.ones_like(correct, dtype=torch.float64)
    known = ~truth.isnan()
    return (((values > 0) == (truth == 1)) & known).double(), known.double()


def sample_losses(
    values: Float[Tensor, "B C"], truth: Tensor
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    """Returns for each sample its summed loss, and the number of labels in the sum."""
    if truth.ndim == 1:
        loss = functional.cross_entropy(values, truth, reduction="none")
        return loss, torch.ones_like(loss)
    known = ~truth.isnan()
    loss = functional.binary_cross_entropy_with_logits(values, truth.nan_to_num(), reduction="none")
    return (loss * known).sum(1), known.double().sum(1)


def _are_probabilities(values: Float[Tensor, "B C"]) -> bool:
    return bool((values >= 0).all() and (values <= 1 + _ROUNDING).all())


def _are_distributions(values: Float[Tensor, "B C"]) -> bool:
    return _are_probabilities(values) and bool(
        ((values.sum(1) - 1).abs() <= _ROW_SUM_TOLERANCE).all()
    )


def read_samples(name: str, scores: Array, labels: Array) -> tuple[Float[Tensor, "B C"], Tensor]:
    """Returns the checked scores, and labels int64 `[B]` or double `[B, C]`, all on the CPU."""
    values, truth = _finite(name, scores), as_tensor("labels", labels).cpu().double()
    if values.ndim != 2 or not values.numel():
        raise ValueError(
            f"{name} must be [B, C] with at least one sample, got shape {tuple(values.shape)}."
        )
    samples, classes = values.shape
    if tuple(truth.shape) not in {(samples,), (samples, classes)}:
        raise ValueError(
            f"labels must be [{samples}] class numbers or [{samples}, {classes}] of 1/0/NaN "
            f"to fit {name}, got shape {tuple(truth.shape)}. Give one row per row of {name}."
        )
    if truth.ndim == 2:
        valid, rule = truth.isnan() | (truth == 0) | (truth == 1), "1, 0 or NaN (unknown)"
    elif classes == 1:
        raise ValueError(
            f"{name} must have at least 2 columns where labels are class numbers, got 1."
        )
    else:
        valid = (truth >= 0) & (truth < classes) & (truth == truth.floor())
        rule = f"class numbers from 0 to {classes - 1}"
    if not valid.all():
        row = int((~valid).nonzero()[0, 0])
        raise ValueError(
            f"labels must be {rule}, got {truth[~valid][0].item():g} in row {row}. "
            f"Correct or drop such labels, {int((~valid).sum())} in all."
        )
    return values, truth if truth.ndim == 2 else truth.long()


def _finite(name: str, value: Array) -> Float[Tensor, "..."]:
    values = as_tensor(name, value).cpu().double()
    if not values.isfinite().all():
        nan, infinite = int(values.isnan().sum()), int(values.isinf().sum())
        raise ValueError(
            f"{name} must be finite, got {nan} NaN and {infinite} infinite "
            f"of {values.numel()} values. "
            "Look for a training run that diverged or a half-precision overflow."
        )
    return values


def as_tensor(name: str, value: Array) -> Tensor:
    """Returns the numbers as a tensor without a gradient. A tensor stays on its device."""
    if isinstance(value, Tensor) and not value.is_complex():
        return value.detach()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        # torch accepts neither other byte orders nor negative strides and warns of read-only
        # memory. The copy has none of these.
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))
    kind = (
        f"an array of {value.dtype}"
        if isinstance(value, Tensor | np.ndarray)
        else type(value).__name__
    )
    raise TypeError(
        f"{name} must be a tensor or numpy array of numbers, got {kind}. Use np.asarray on a list."
    )
