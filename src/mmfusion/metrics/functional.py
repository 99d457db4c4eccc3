"""Metrics of segmentation and classification: pure functions, and torchmetrics classes for streams.

Every function takes torch tensors on any device, or numpy arrays, computes in double precision on
the CPU and returns a Python float. Labels come in two forms, told apart by their shape:

- single-label: `[B]`, class numbers from 0 to C - 1;
- multi-label: `[B, C]`, 1 (yes), 0 (no) or NaN (unknown; left out of every metric).

A metric of which nothing is known (all labels NaN) is NaN; no samples at all is an error. Intervals
and paired tests live in `mmfusion.metrics.bootstrap`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from .weighted import (
    Array,
    WeightedMetric,
    accuracy_form,
    as_tensor,
    auroc_form,
    balanced_accuracy_form,
    calibration_form,
    cross_entropy_form,
)

MetricFunction = Callable[[Any, Any], Any]
"""Takes the scores and labels of some samples and returns a number, NaN where it is undefined."""


def dice(prediction: Array, target: Array) -> float:
    r"""Return the Sorensen-Dice coefficient, computed for each mask and averaged over the masks.

    $D = 2 |A \cap B| / (|A| + |B|)$. Each mask counts the same, however large its object is. Two
    empty masks agree: they score 1. An empty mask against one that is not empty scores 0.

    Args:
        prediction: Masks, bool or 0/1.
        target: The true masks, of the same shape.

    Shape:
        Both `[..., H, W]`; any leading axes, or none for one mask.

    Raises:
        ValueError: The shapes differ or are empty, or a value is neither 0 nor 1.

    Source:
        Dice 1945, Ecology 26:297; Sorensen 1948, Biologiske Skrifter 5(4):1.

    Example:
        >>> dice(np.array([[1, 1, 0]]), np.array([[0, 1, 0]]))
        0.6666666666666666
    """
    return float(dice_per_mask(prediction, target).mean())


def accuracy(logits: Array, labels: Array) -> float:
    """Return the share of decisions that are right.

    Single-label: one decision per sample, the class with the largest logit (the first of equal
    ones). Multi-label: one decision per known label, yes where the logit is above 0; all of them
    count the same.

    Args:
        logits: Finite logits; single-label, also probabilities.
        labels: Class numbers, or 1/0/NaN.

    Shape:
        logits `[B, C]`; labels `[B]` or `[B, C]`.

    Raises:
        TypeError: An argument is not an array of numbers.
        ValueError: Shapes do not fit, a logit is not finite, or a label is out of range.

    Example:
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        0.5
    """
    return _unweighted(accuracy_form(logits, labels), len(labels))


def cross_entropy(logits: Array, labels: Array) -> float:
    r"""Return the cross-entropy in nats.

    Single-label: $-\frac{1}{N} \sum_i \sum_j y_{ij} \log p_{ij}$ with $p$ the softmax of the
    logits. Multi-label: the mean binary cross-entropy, $p$ the sigmoid, over all known labels.

    Args:
        logits: Finite logits, not probabilities.
        labels: Class numbers, or 1/0/NaN.

    Shape:
        logits `[B, C]`; labels `[B]` or `[B, C]`.

    Raises:
        TypeError: An argument is not an array of numbers.
        ValueError: Shapes do not fit, a logit is not finite, or a label is out of range.

    Example:
        >>> round(cross_entropy(torch.zeros(3, 2), torch.tensor([0, 1, 1])), 4)
        0.6931
    """
    return _unweighted(cross_entropy_form(logits, labels), len(labels))


def auroc(scores: Array, labels: Array) -> float:
    """Return the area under the ROC curve: how often a positive scores above a negative, ties one half.

    Binary `[B, 2]`: the score is the second column minus the first, for logits and probabilities
    alike. Multi-class: each class against the rest, on probabilities, averaged over the classes;
    unless every row holds probabilities that sum to 1, all rows are logits and pass a softmax
    first. Multi-label: each label on its known samples, averaged over the labels. A class that
    never or always occurs has no ROC curve: it is left out of the average, and the result is NaN if
    none remains.

    Args:
        scores: Finite scores of the positive class, logits or probabilities.
        labels: 0/1, class numbers, or 1/0/NaN.

    Shape:
        scores `[B]` with labels `[B]` of 0/1, or scores `[B, C]` with labels `[B]` or `[B, C]`.

    Raises:
        TypeError: An argument is not an array of numbers.
        ValueError: Shapes do not fit, a score is not finite, or a label is out of range.

    Source:
        Hanley and McNeil 1982, Radiology 143:29 (the area is the Mann-Whitney statistic).

    Example:
        >>> auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]))
        0.875
    """
    return _unweighted(auroc_form(scores, labels), len(labels))


def balanced_accuracy(logits: Array, labels: Array) -> float:
    """Return the recall of each class, averaged over the classes that occur.

    Multi-label: for each label the mean of sensitivity and specificity, averaged over the labels. A
    class (or an outcome of a label) that never occurs has no recall: it is left out of the average,
    and so is a label without a known sample. The decisions are those of `accuracy`.

    Args:
        logits: Finite logits; single-label, also probabilities.
        labels: Class numbers, or 1/0/NaN.

    Shape:
        logits `[B, C]`; labels `[B]` or `[B, C]`.

    Raises:
        TypeError: An argument is not an array of numbers.
        ValueError: Shapes do not fit, a logit is not finite, or a label is out of range.

    Source:
        Brodersen et al. 2010, ICPR, "The balanced accuracy and its posterior distribution".

    Example:
        >>> balanced_accuracy(np.eye(2)[[0, 0, 0, 0]], np.array([0, 0, 0, 1]))
        0.5
    """
    return _unweighted(balanced_accuracy_form(logits, labels), len(labels))


def expected_calibration_error(probabilities: Array, labels: Array, *, bins: int = 15) -> float:
    r"""Return by how much confidence and accuracy differ, on average over bins of confidence.

    $ECE = \sum_m \frac{|B_m|}{n} |acc(B_m) - conf(B_m)|$ with $B_m$ the samples whose confidence,
    the largest probability, lies in $(\frac{m-1}{M}, \frac{m}{M}]$. Multi-label: every known label
    is a decision between yes and no with confidence $\max(p, 1 - p)$, and all of them share the
    bins. An empty bin adds nothing.

    Args:
        probabilities: From 0 to 1; single-label rows sum to 1.
        labels: Class numbers, or 1/0/NaN.
        bins: How many bins of equal width, at least 1.

    Shape:
        probabilities `[B, C]`; labels `[B]` or `[B, C]`.

    Raises:
        TypeError: An argument is not an array of numbers.
        ValueError: Shapes do not fit, the rows are no probabilities, a label is out of range, or
            bins is below 1.

    Source:
        Guo et al. 2017, arXiv 1706.04599, eq. 3.

    Example:
        >>> expected_calibration_error(np.array([[0.75, 0.25], [0.75, 0.25]]), np.array([0, 1]))
        0.25
    """
    return _unweighted(calibration_form(probabilities, labels, bins=bins), len(labels))


def weighted_form(metric: MetricFunction, scores: Array, labels: Array) -> WeightedMetric | None:
    """Return the metric on these samples as a function of sample weights, or None if it has no such form.

    A weight says how often a sample is drawn, so that one call evaluates R bootstrap resamples at
    once. The classification metrics of this module have such a form.

    Args:
        metric: A function of this module.
        scores: What the metric takes first.
        labels: What the metric takes second.

    Shape:
        The function takes weights `[R, B]` and returns `[R]`, NaN where a resample leaves the
        metric undefined.

    Raises:
        TypeError: As the metric itself.
        ValueError: As the metric itself.

    Example:
        >>> form = weighted_form(accuracy, np.eye(2), np.array([0, 0]))
        >>> form(np.array([[1.0, 1.0], [2.0, 0.0]]))
        array([0.5, 1. ])
    """
    form = next((form for known, form in _FORMS if known is metric), None)
    return None if form is None else form(scores, labels)


def _unweighted(form: WeightedMetric, samples: int) -> float:
    return float(form(np.ones((1, samples)))[0])


def dice_per_mask(prediction: Array, target: Array) -> Float[Tensor, "M"]:
    """Returns the Dice coefficient of each mask [M]; `dice` is their mean."""
    first, second = _mask("prediction", prediction), _mask("target", target)
    if first.shape != second.shape:
        raise ValueError(
            f"prediction must have the shape of target, {tuple(second.shape)}, got {tuple(first.shape)}. "
            "Resize the prediction to the mask first."
        )
    second = second.to(first.device)
    # Counted where the masks lie, in integers; only one number per mask travels to the CPU.
    shared, size = (first & second).sum((-2, -1)), first.sum((-2, -1)) + second.sum((-2, -1))
    score = 2 * shared.cpu().double() / size.cpu().double()
    return rearrange(score.nan_to_num(1.0), "... -> (...)")


def _mask(name: str, value: Array) -> Bool[Tensor, "*lead H W"]:
    mask = as_tensor(name, value)
    if mask.ndim < 2 or not mask.numel():
        raise ValueError(
            f"{name} must be [..., H, W] with at least one pixel, got shape {tuple(mask.shape)}."
        )
    wrong = mask[(mask != 0) & (mask != 1)]
    if wrong.numel():
        raise ValueError(
            f"{name} must hold 0 and 1 or bool, got {wrong[0].item()!r}. "
            "Threshold it first: probabilities > 0.5, pictures of masks > 127."
        )
    return mask.bool()


_FORMS = (
    (accuracy, accuracy_form),
    (cross_entropy, cross_entropy_form),
    (auroc, auroc_form),
    (balanced_accuracy, balanced_accuracy_form),
    (expected_calibration_error, calibration_form),
)
