"""The metrics of segmentation and classification as pure functions.

Every metric takes torch tensors on any device, or numpy arrays. It returns a Python float. It
computes in double precision on the CPU. Only `dice` counts pixels on the device of the prediction.
Labels have one of two forms, which differ in shape:

- single-label: `[B]`, class numbers from 0 to C - 1;
- multi-label: `[B, C]`, 1 (yes), 0 (no) or NaN (unknown; left out of every metric).

A metric is NaN if all labels are NaN. Without any sample it raises an error. The classes for
streams are in `mmfusion.metrics.streaming`. Bootstrap intervals and the paired bootstrap are in
`mmfusion.metrics.bootstrap`. McNemar's test and Holm's correction are in `mmfusion.metrics.tests`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, final

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
"""A function of the scores and labels of some samples that returns a number, or NaN."""


def dice(prediction: Array, target: Array) -> float:
    r"""Returns the Sorensen-Dice coefficient, computed for each mask and averaged over the masks.

    $D = 2 |A \cap B| / (|A| + |B|)$. Each mask has the same weight, whatever the size of its
    object. Two empty masks agree and score 1. An empty mask and one that is not empty score 0.

    Args:
        prediction: masks, bool or 0/1.
        target: the true masks, of the same shape.

    Shape:
        both `[..., H, W]`; any leading axes, or none for one mask.

    Raises:
        ValueError: if the shapes differ or are empty, or a value is neither 0 nor 1.

    Source:
        Dice 1945, Ecology 26:297; Sorensen 1948, Biologiske Skrifter 5(4):1.

    Example:
        >>> dice(np.array([[1, 1, 0]]), np.array([[0, 1, 0]]))
        0.6666666666666666
    """
    return float(dice_per_mask(prediction, target).mean())


def accuracy(logits: Array, labels: Array) -> float:
    """Returns the share of decisions that are right.

    Single-label: one decision per sample, for the class with the largest logit. Of equal logits the
    first one decides. Multi-label: one decision per known label, which is yes if the logit is above
    0. All decisions have the same weight.

    Args:
        logits: finite logits. With single labels, probabilities are accepted, too.
        labels: class numbers, or 1/0/NaN.

    Shape:
        logits `[B, C]`; labels `[B]` or `[B, C]`.

    Raises:
        TypeError: if an argument is not an array of numbers.
        ValueError: if shapes do not fit, a logit is not finite, or a label is out of range.

    Example:
        >>> import torch
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        0.5
    """
    return _unweighted(accuracy_form(logits, labels), len(labels))


def cross_entropy(logits: Array, labels: Array) -> float:
    r"""Returns the cross-entropy in nats.

    Single-label: $-\frac{1}{N} \sum_i \sum_j y_{ij} \log p_{ij}$ with $p$ the softmax of the
    logits. Multi-label: the mean binary cross-entropy, $p$ the sigmoid, over all known labels.

    Args:
        logits: finite logits, not probabilities.
        labels: class numbers, or 1/0/NaN.

    Shape:
        logits `[B, C]`; labels `[B]` or `[B, C]`.

    Raises:
        TypeError: if an argument is not an array of numbers.
        ValueError: if shapes do not fit, a logit is not finite, or a label is out of range.

    Example:
        >>> import torch
        >>> round(cross_entropy(torch.zeros(3, 2), torch.tensor([0, 1, 1])), 4)
        0.6931
    """
    return _unweighted(cross_entropy_form(logits, labels), len(labels))


def auroc(scores: Array, labels: Array) -> float:
    """Returns the area under the ROC curve.

    The area is the share of pairs of a positive and a negative in which the positive scores higher.
    A tie counts one half.

    Binary `[B, 2]`: the score is the second column minus the first, for logits and probabilities
    alike. Multi-class: each class against the rest, on probabilities, averaged over the classes. If
    not every row holds probabilities that sum to 1, all rows are taken as logits and pass a softmax
    first. Multi-label: each label on its known samples, averaged over the labels. A class that
    never or always occurs has no ROC curve and is left out of the average. If no class remains, the
    result is NaN.

    Args:
        scores: finite scores of the positive class, logits or probabilities.
        labels: 0/1, class numbers, or 1/0/NaN.

    Shape:
        scores `[B]` with labels `[B]` of 0/1, or scores `[B, C]` with labels `[B]` or `[B, C]`.

    Raises:
        TypeError: if an argument is not an array of numbers.
        ValueError: if shapes do not fit, a score is not finite, or a label is out of range.

    Source:
        Hanley and McNeil 1982, Radiology 143:29 (the area is the Mann-Whitney statistic).

    Example:
        >>> auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]))
        0.875
    """
    return _unweighted(auroc_form(scores, labels), len(labels))


def balanced_accuracy(logits: Array, labels: Array) -> float:
    """Returns the recall of each class, averaged over the classes that occur.

    Multi-label: for each label the mean of sensitivity and specificity, averaged over the labels. A
    class (or an outcome of a label) that never occurs has no recall and is left out of the average.
    A label without a known sample is left out, too. The decisions are those of `accuracy`.

    Args:
        logits: finite logits. With single labels, probabilities are accepted, too.
        labels: class numbers, or 1/0/NaN.

    Shape:
        logits `[B, C]`; labels `[B]` or `[B, C]`.

    Raises:
        TypeError: if an argument is not an array of numbers.
        ValueError: if shapes do not fit, a logit is not finite, or a label is out of range.

    Source:
        Brodersen et al. 2010, ICPR, "The balanced accuracy and its posterior distribution".

    Example:
        >>> balanced_accuracy(np.eye(2)[[0, 0, 0, 0]], np.array([0, 0, 0, 1]))
        0.5
    """
    return _unweighted(balanced_accuracy_form(logits, labels), len(labels))


def expected_calibration_error(probabilities: Array, labels: Array, *, bins: int = 15) -> float:
    r"""Returns the mean difference of confidence and accuracy over bins of confidence.

    $ECE = \sum_m \frac{|B_m|}{n} |acc(B_m) - conf(B_m)|$. $B_m$ are the samples whose confidence,
    the largest probability, lies in $(\frac{m-1}{M}, \frac{m}{M}]$. Multi-label: every known label
    is a decision between yes and no with confidence $\max(p, 1 - p)$. All labels share the bins.
    An empty bin adds nothing.

    Args:
        probabilities: from 0 to 1; single-label rows sum to 1.
        labels: class numbers, or 1/0/NaN.
        bins: the number of bins of equal width, at least 1.

    Shape:
        probabilities `[B, C]`; labels `[B]` or `[B, C]`.

    Raises:
        TypeError: if an argument is not an array of numbers.
        ValueError: if shapes do not fit, the rows are not probabilities, a label is out of range,
            or bins is below 1.

    Source:
        Guo et al. 2017, arXiv 1706.04599, eq. 3.

    Example:
        >>> expected_calibration_error(np.array([[0.75, 0.25], [0.75, 0.25]]), np.array([0, 1]))
        0.25
    """
    return _unweighted(calibration_form(probabilities, labels, bins=bins), len(labels))


def weighted_form(metric: MetricFunction, scores: Array, labels: Array) -> WeightedMetric | None:
    """Returns the metric on these samples as a function of sample weights, or None.

    A weight says how often a sample is drawn. One call evaluates R bootstrap resamples at once. The
    classification metrics of this module have such a form. For any other metric the result is None.

    Args:
        metric: a function of this module.
        scores: the first argument of the metric.
        labels: the second argument of the metric.

    Shape:
        the function takes weights `[R, B]` and returns `[R]`, with NaN if the metric is undefined
        in a resample.

    Raises:
        TypeError: as the metric itself.
        ValueError: as the metric itself.

    Example:
        >>> form = weighted_form(accuracy, np.eye(2), np.array([0, 0]))
        >>> form(np.array([[1.0, 1.0], [2.0, 0.0]]))
        array([0.5, 1. ])
    """
    form = next((row.form for row in METRICS.values() if row.function is metric), None)
    return None if form is None else form(scores, labels)


def _unweighted(form: WeightedMetric, samples: int) -> float:
    return float(form(np.ones((1, samples)))[0])


def dice_per_mask(prediction: Array, target: Array) -> Float[Tensor, "M"]:
    """Returns the Dice coefficient of each mask [M]; `dice` is their mean."""
    first, second = _mask("prediction", prediction), _mask("target", target)
    if first.shape != second.shape:
        raise ValueError(
            f"prediction must have the shape of target, {tuple(second.shape)}, "
            f"got {tuple(first.shape)}. Resize the prediction to the mask first."
        )
    second = second.to(first.device)
    # The pixels are counted on the device of the masks, because only one number per mask is then
    # copied to the CPU. The counts are integers, so nothing is rounded.
    shared, size = (first & second).sum((-2, -1)), first.sum((-2, -1)) + second.sum((-2, -1))
    score = 2 * shared.cpu().double() / size.cpu().double()
    # Two empty masks give 0 / 0, which is NaN. They score 1.
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


@final
class ReportedMetric(NamedTuple):
    """One row of the table of metrics.

    Attributes:
        function: the metric.
        form: the metric as a function of sample weights, which makes its intervals fast.
        takes_probabilities: whether it takes probabilities instead of logits.
    """

    function: MetricFunction
    form: Callable[[Array, Array], WeightedMetric]
    takes_probabilities: bool = False


METRICS: dict[str, ReportedMetric] = {
    "accuracy": ReportedMetric(accuracy, accuracy_form),
    "balanced_accuracy": ReportedMetric(balanced_accuracy, balanced_accuracy_form),
    "auroc": ReportedMetric(auroc, auroc_form),
    "cross_entropy": ReportedMetric(cross_entropy, cross_entropy_form),
    "ece": ReportedMetric(expected_calibration_error, calibration_form, takes_probabilities=True),
}
"""The table of metrics: the name in a report -> the metric. `evaluate` reports all of them."""
