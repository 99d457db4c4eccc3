"""Losses and metrics of segmentation, on Keras's backend: soft ones to train on, hard ones that agree with `mmfusion.dice`."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

LOSSES = ("dice", "bce_dice", "focal")


@keras.saving.register_keras_serializable(package="mmfusion")
class DiceLoss(keras.losses.Loss):
    r"""One minus the soft Sorensen-Dice coefficient, of each sample and class.

    $1 - (2 \sum_i p_i t_i + s) / (\sum_i p_i + \sum_i t_i + s)$ over the pixels i of one sample and
    class. Where the true mask is empty, the smoothing s makes it go to 0 as the predicted one
    empties; without it there would be no gradient.

    Args:
        smooth: s, in pixels, above 0.
        name: the loss's name.
        reduction: how the samples' losses are joined, as in every Keras loss.
        dtype: as in every Keras loss.

    Shape: y_true and y_pred [B, H, W, C] within [0, 1] -> one loss per sample [B], then reduced.

    Raises:
        ValueError: if smooth is not above 0.

    Source: Milletari et al. 2016, "V-Net" (arXiv 1606.04797), with the plain sums that make it the
    coefficient itself on masks.

    Example:
        >>> import numpy as np
        >>> round(float(DiceLoss(smooth=1e-6)(np.ones((1, 2, 2, 1)), np.full((1, 2, 2, 1), 0.5))), 4)
        0.3333
    """

    def __init__(
        self,
        smooth: float = 1.0,
        name: str = "dice_loss",
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if not smooth > 0:
            raise ValueError(f"smooth must be above 0, got {smooth!r}.")
        self.smooth = smooth

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one loss per sample [B]."""
        y_true = ops.cast(y_true, y_pred.dtype)
        shared = ops.sum(y_true * y_pred, axis=(1, 2))
        size = ops.sum(y_true, axis=(1, 2)) + ops.sum(y_pred, axis=(1, 2))
        return ops.mean(1 - (2 * shared + self.smooth) / (size + self.smooth), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return what builds the same loss again."""
        return {**super().get_config(), "smooth": self.smooth}


@keras.saving.register_keras_serializable(package="mmfusion")
class BCEDiceLoss(keras.losses.Loss):
    """The mean cross-entropy of the pixels plus the soft Dice loss of the masks.

    The first has a gradient everywhere, the second does not care how small the object is. With
    several classes (y_pred a softmax) it is the categorical cross-entropy.

    Args:
        smooth: as in `DiceLoss`.
        name: the loss's name.
        reduction: how the samples' losses are joined, as in every Keras loss.
        dtype: as in every Keras loss.

    Shape: y_true and y_pred [B, H, W, C] within [0, 1] -> one loss per sample [B], then reduced.
    """

    def __init__(
        self,
        smooth: float = 1.0,
        name: str = "bce_dice_loss",
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self._dice = DiceLoss(smooth, reduction="none", dtype=dtype)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one loss per sample [B]."""
        y_true = ops.cast(y_true, y_pred.dtype)
        entropy = (
            keras.losses.binary_crossentropy
            if y_pred.shape[-1] == 1
            else keras.losses.categorical_crossentropy
        )
        return ops.mean(entropy(y_true, y_pred), axis=(1, 2)) + self._dice.call(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """Return what builds the same loss again."""
        return {**super().get_config(), "smooth": self._dice.smooth}


def segmentation_loss(name: str, num_classes: int = 1) -> keras.losses.Loss:
    """Return a loss by its name: "dice", "bce_dice", or "focal" (Keras's own focal cross-entropy).

    Args:
        name: one of `LOSSES`.
        num_classes: 1 where the model ends in a sigmoid, more where it ends in a softmax.

    Raises:
        ValueError: if there is no loss of this name.

    Source: focal loss: Lin et al. 2017 (arXiv 1708.02002).

    Example:
        >>> segmentation_loss("focal").name
        'binary_focal_crossentropy'
    """
    if name == "dice":
        return DiceLoss()
    if name == "bce_dice":
        return BCEDiceLoss()
    if name == "focal":
        return (
            keras.losses.BinaryFocalCrossentropy()
            if num_classes == 1
            else keras.losses.CategoricalFocalCrossentropy()
        )
    raise ValueError(f"name must be one of {LOSSES}, got {name!r}.")


class _MeanOverMasks(keras.metrics.Metric):
    """The mean, over all samples and classes seen, of a score of two masks."""

    def __init__(self, threshold: float = 0.5, name: str | None = None, dtype: Any = None):
        super().__init__(name=name, dtype=dtype)
        self.threshold = threshold
        self.total = self.add_variable((), "zeros", name="total")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch: masks and probabilities [B, H, W, C]."""
        first, second = (
            ops.cast(value > self.threshold, "float32")
            for value in (ops.convert_to_tensor(y_true), y_pred)
        )
        shared = ops.sum(first * second, axis=(1, 2))
        score = self._score(shared, ops.sum(first, axis=(1, 2)) + ops.sum(second, axis=(1, 2)))
        weight = ops.ones_like(score)
        if sample_weight is not None:
            weight = weight * ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1))
        self.total.assign_add(ops.sum(score * weight))
        self.count.assign_add(ops.sum(weight))

    def _score(self, shared: Any, size: Any) -> Any:
        raise NotImplementedError

    def result(self) -> Any:
        """Return the mean so far; 0 before the first batch."""
        return ops.divide_no_nan(self.total, self.count)

    def get_config(self) -> dict[str, Any]:
        """Return what builds the same metric again."""
        return {**super().get_config(), "threshold": self.threshold}


@keras.saving.register_keras_serializable(package="mmfusion")
class DiceScore(_MeanOverMasks):
    """`mmfusion.dice` of the masks `probability > threshold`, while a Keras model trains: two empty masks score 1.

    Args:
        threshold: a pixel above it belongs to the mask, in [0, 1].
        name: the metric's name.
        dtype: as in every Keras metric.

    Shape: y_true (0 or 1) and y_pred [B, H, W, C].

    Example:
        >>> import numpy as np
        >>> metric = DiceScore()
        >>> metric.update_state(np.ones((1, 2, 2, 1)), np.array([0.9, 0.9, 0.1, 0.1]).reshape(1, 2, 2, 1))
        >>> round(float(metric.result()), 4)
        0.6667
    """

    def __init__(self, threshold: float = 0.5, name: str = "dice", dtype: Any = None):
        super().__init__(threshold, name, dtype)

    def _score(self, shared: Any, size: Any) -> Any:
        return ops.where(size > 0, 2 * shared / ops.maximum(size, 1.0), 1.0)


@keras.saving.register_keras_serializable(package="mmfusion")
class IoUScore(_MeanOverMasks):
    """The intersection over union (Jaccard index) of each sample's mask, averaged: Dice / (2 - Dice) for each of them.

    Two empty masks score 1. (Keras's own `BinaryIoU` counts the pixels of all samples together.)

    Args:
        threshold: a pixel above it belongs to the mask, in [0, 1].
        name: the metric's name.
        dtype: as in every Keras metric.

    Shape: y_true (0 or 1) and y_pred [B, H, W, C].
    """

    def __init__(self, threshold: float = 0.5, name: str = "iou", dtype: Any = None):
        super().__init__(threshold, name, dtype)

    def _score(self, shared: Any, size: Any) -> Any:
        return ops.where(size > 0, shared / ops.maximum(size - shared, 1.0), 1.0)
