"""The losses and metrics of segmentation, on Keras's backend.

The losses take probabilities. The metrics compare masks. `DiceScore` agrees with `mmfusion.dice`.
"""

from __future__ import annotations

from abc import ABC
from typing import Any, final

import keras
from keras import ops

LOSSES = ("dice", "bce_dice", "focal")


@final
@keras.saving.register_keras_serializable(package="mmfusion")
class DiceLoss(keras.losses.Loss):
    r"""The loss of one minus the soft Sorensen-Dice coefficient, for each sample and class.

    $1 - (2 \sum_i p_i t_i + s) / (\sum_i p_i + \sum_i t_i + s)$ over the pixels i of one sample and
    class. If the true mask is empty, the smoothing s lets the loss go to 0 as the predicted
    probabilities go to 0. Without it there would be no gradient.

    Args:
        smooth: s, in pixels, above 0.
        name: the name of the loss.
        reduction: the reduction of the samples' losses, as in every Keras loss.
        dtype: as in every Keras loss.

    Shape:
        y_true and y_pred [B, H, W, C] within [0, 1] -> one loss per sample [B], then reduced.

    Raises:
        ValueError: if smooth is not above 0.

    Source:
        Milletari et al. 2016, "V-Net" (arXiv 1606.04797), but with plain sums instead of squares,
        so that the loss of two masks is one minus their coefficient.

    Example:
        >>> import numpy as np
        >>> true, predicted = np.ones((1, 2, 2, 1)), np.full((1, 2, 2, 1), 0.5)
        >>> round(float(DiceLoss(smooth=1e-6)(true, predicted)), 4)
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
        """Returns one loss per sample [B]."""
        y_true = ops.cast(y_true, y_pred.dtype)
        shared = ops.sum(y_true * y_pred, axis=(1, 2))
        size = ops.sum(y_true, axis=(1, 2)) + ops.sum(y_pred, axis=(1, 2))
        return ops.mean(1 - (2 * shared + self.smooth) / (size + self.smooth), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that build the same loss again."""
        return {**super().get_config(), "smooth": self.smooth}


@final
@keras.saving.register_keras_serializable(package="mmfusion")
class BCEDiceLoss(keras.losses.Loss):
    """The loss of the pixels' mean cross-entropy plus the soft Dice loss of the masks.

    The cross-entropy has a gradient everywhere. The Dice loss does not depend on the size of the
    object. With several classes (y_pred is a softmax) the categorical cross-entropy is used.

    Args:
        smooth: as in `DiceLoss`.
        name: the name of the loss.
        reduction: the reduction of the samples' losses, as in every Keras loss.
        dtype: as in every Keras loss.

    Shape:
        y_true and y_pred [B, H, W, C] within [0, 1] -> one loss per sample [B], then reduced.
    """

    def __init__(
        self,
        smooth: float = 1.0,
        name: str = "bce_dice_loss",
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        # Without a reduction, because the loss of each sample is added to its cross-entropy.
        self._dice = DiceLoss(smooth, reduction="none", dtype=dtype)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns one loss per sample [B]."""
        y_true = ops.cast(y_true, y_pred.dtype)
        # One class ends in a sigmoid. Several classes end in a softmax.
        entropy = (
            keras.losses.binary_crossentropy
            if y_pred.shape[-1] == 1
            else keras.losses.categorical_crossentropy
        )
        return ops.mean(entropy(y_true, y_pred), axis=(1, 2)) + self._dice.call(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that build the same loss again."""
        return {**super().get_config(), "smooth": self._dice.smooth}


def segmentation_loss(name: str, num_classes: int = 1) -> keras.losses.Loss:
    """Returns a loss by its name: "dice", "bce_dice", or "focal" (Keras's own focal cross-entropy).

    Args:
        name: one of `LOSSES`.
        num_classes: 1 if the model ends in a sigmoid, more if it ends in a softmax.

    Raises:
        ValueError: if there is no loss of this name.

    Source:
        Lin et al. 2017 (arXiv 1708.02002), the focal loss.

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


class _MeanOverMasks(keras.metrics.Metric, ABC):
    """The base of the metrics: the mean of a score of two masks over all samples and classes."""

    def __init__(self, threshold: float = 0.5, name: str | None = None, dtype: Any = None):
        super().__init__(name=name, dtype=dtype)
        self.threshold = threshold
        self.total = self.add_variable((), "zeros", name="total")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds a batch of masks and probabilities [B, H, W, C]."""
        first, second = (
            ops.cast(value > self.threshold, "float32")
            for value in (ops.convert_to_tensor(y_true), y_pred)
        )
        shared = ops.sum(first * second, axis=(1, 2))
        score = self._score(shared, ops.sum(first, axis=(1, 2)) + ops.sum(second, axis=(1, 2)))
        # A sample has one weight, which all its classes share.
        weight = ops.ones_like(score)
        if sample_weight is not None:
            weight = weight * ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1))
        self.total.assign_add(ops.sum(score * weight))
        self.count.assign_add(ops.sum(weight))

    def _score(self, shared: Any, size: Any) -> Any:
        """Returns the scores [B, C] from the common pixels of two masks and their summed sizes."""
        raise NotImplementedError

    def result(self) -> Any:
        """Returns the mean so far, or 0 before the first batch."""
        return ops.divide_no_nan(self.total, self.count)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that build the same metric again."""
        return {**super().get_config(), "threshold": self.threshold}


@final
@keras.saving.register_keras_serializable(package="mmfusion")
class DiceScore(_MeanOverMasks):
    """The metric `mmfusion.dice` of the masks `probability > threshold`, for training in Keras.

    Two empty masks score 1.

    Args:
        threshold: in [0, 1]. A pixel above it belongs to the mask.
        name: the name of the metric.
        dtype: as in every Keras metric.

    Shape:
        y_true (0 or 1) and y_pred [B, H, W, C].

    Example:
        >>> import numpy as np
        >>> metric = DiceScore()
        >>> predicted = np.array([0.9, 0.9, 0.1, 0.1]).reshape(1, 2, 2, 1)
        >>> metric.update_state(np.ones((1, 2, 2, 1)), predicted)
        >>> round(float(metric.result()), 4)
        0.6667
    """

    def __init__(self, threshold: float = 0.5, name: str = "dice", dtype: Any = None):
        super().__init__(threshold, name, dtype)

    def _score(self, shared: Any, size: Any) -> Any:
        # Both branches are computed, so the divisor must not be 0 even for two empty masks.
        return ops.where(size > 0, 2 * shared / ops.maximum(size, 1.0), 1.0)


@final
@keras.saving.register_keras_serializable(package="mmfusion")
class IoUScore(_MeanOverMasks):
    """The mean intersection over union (Jaccard index) of the masks: Dice / (2 - Dice) of each.

    Two empty masks score 1. Keras's own `BinaryIoU` differs: it counts the pixels of all samples
    together.

    Args:
        threshold: in [0, 1]. A pixel above it belongs to the mask.
        name: the name of the metric.
        dtype: as in every Keras metric.

    Shape:
        y_true (0 or 1) and y_pred [B, H, W, C].
    """

    def __init__(self, threshold: float = 0.5, name: str = "iou", dtype: Any = None):
        super().__init__(threshold, name, dtype)

    def _score(self, shared: Any, size: Any) -> Any:
        # The divisor must not be 0, for the same reason as in `DiceScore`.
        return ops.where(size > 0, shared / ops.maximum(size - shared, 1.0), 1.0)
