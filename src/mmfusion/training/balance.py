"""Weights of the loss that depend on how often each class occurs in the training rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from transformers.utils import logging

from ..data.labels import label_array
from ..model.loss import loss_options, register_weights
from ..model.loss_weights import BALANCED, WEIGHTS
from ..model.modeling import FusionClassifier
from .feature_cache import table_of
from .label_space import matched

logger = logging.get_logger(__name__)

Array = np.ndarray[Any, Any]


def settle_weights(model: FusionClassifier, train: Any) -> None:
    """Computes the weights of the loss that are "balanced", and writes them into the config.

    Weights that are numbers already stay.

    Args:
        model: the classifier; its config and its buffers are changed.
        train: the rows of the training, cached or not.
    """
    config = model.config
    if BALANCED in (config.class_weights, config.pos_weight):
        labels = label_array(table_of(matched(model, train)))
        names = [str(name) for _, name in sorted((config.id2label or {}).items())]
        for name in WEIGHTS:
            if getattr(config, name) == BALANCED:
                setattr(config, name, balanced_weights(labels, int(config.num_labels or 0), names))
                logger.info(f"{name} of the training rows: {getattr(config, name)}.")
    register_weights(model, config)


def balanced_weights(
    labels: Array, num_labels: int, names: Sequence[str] | None = None
) -> list[float]:
    """Returns balanced class weights, or the balanced `pos_weight` of multi-label rows.

    Single-label: n / (C n_c) for a class that n_c of n rows have, where C classes occur. This is
    `sklearn.utils.class_weight.compute_class_weight("balanced")`; each class then has the same
    share in the loss. Multi-label: negatives / positives among the known labels; yes and no of a
    label then have the same share. A class that does not occur, and a label without a positive or
    without a negative, gets 1, and a warning names it.

    Args:
        labels: class numbers [B], or 1, 0, NaN [B, C].
        num_labels: C.
        names: of the classes, for the warning.

    Raises:
        ValueError: if a class number is out of range.

    Source:
        King and Zeng 2001, Logistic regression in rare events data, Political Analysis 9:137.

    Example:
        >>> balanced_weights(np.array([0, 0, 0, 1]), 2)
        [0.6666666666666666, 2.0]
        >>> balanced_weights(np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, np.nan]]), 2)
        [3.0, 2.0]
    """
    if labels.ndim == 2:
        numerator, denominator = (labels == 0).sum(0), (labels == 1).sum(0)
        defined = (numerator > 0) & (denominator > 0)
        what = "labels without a known yes or no in the training rows"
    else:
        for label in (labels.min(initial=0), labels.max(initial=0)):
            if not 0 <= label < num_labels:
                raise ValueError(
                    f"labels must be in 0 .. {num_labels - 1}, got {label}. Leave rows without a "
                    "label out."
                )
        counts = np.bincount(labels, minlength=num_labels)
        defined = counts > 0
        numerator, denominator = np.full(num_labels, len(labels)), counts * defined.sum()
        what = "classes without a training row"
    if not defined.all():
        known = names or [str(number) for number in range(num_labels)]
        shown = ", ".join(repr(known[number]) for number in np.flatnonzero(~defined).tolist())
        logger.warning(f"The balanced weight is 1 for {what}: {shown}.")
    weights = np.where(defined, numerator / np.maximum(denominator, 1), 1.0)
    return [float(weight) for weight in weights]


def weighted_prior(model: FusionClassifier, prior: Tensor) -> Tensor:
    """Returns the log prior [C] of the classes as a classifier with a weighted loss sees them.

    Weights w act like w times as many rows of a class. So log P(c) becomes log (w_c P(c)),
    normalised, and the log odds of a multi-label class grow by log v_c (`pos_weight`). The class
    weights of a multi-label problem weigh whole labels, which changes no prior.

    Args:
        model: the classifier, with weights that are settled.
        prior: log shares of the classes, or log odds of multi-label classes.

    Source:
        Elkan 2001, The foundations of cost-sensitive learning, IJCAI, theorem 2 (a change of the
        base rate).
    """
    options = loss_options(model, model.config, training=False, device=prior.device)
    class_weights, pos_weight = options["class_weights"], options["pos_weight"]
    if class_weights is not None and not model.multi_label:
        return (prior + class_weights.to(prior.dtype).log()).log_softmax(0)
    return prior if pos_weight is None else prior + pos_weight.to(prior.dtype).log()
