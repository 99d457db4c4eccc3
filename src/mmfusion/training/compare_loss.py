"""What a comparison is told of its loss and of the labels that it measures on."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch

from ..data.labels import class_names, label_array
from ..model.loss_weights import BALANCED
from ..model.modeling import FusionClassifier
from .balance import balanced_weights, weighted_prior

Array = np.ndarray[Any, Any]


def given_loss(
    class_weights: Sequence[float] | str | None,
    pos_weight: Sequence[float] | str | None,
    focal_gamma: float,
) -> dict[str, Any]:
    """Returns the options of the loss that differ from their defaults, for `FusionClassifier`.

    Args:
        class_weights: as for `FusionConfig`.
        pos_weight: as for `FusionConfig`.
        focal_gamma: as for `FusionConfig`.

    Example:
        >>> given_loss("balanced", None, 0.0)
        {'class_weights': 'balanced'}
    """
    options = {"class_weights": class_weights, "pos_weight": pos_weight}
    found: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    return found | ({"focal_gamma": focal_gamma} if focal_gamma else {})


def loss_notes(loss: Mapping[str, Any], trained: Array, measured: Array) -> list[str]:
    """Returns the sentences that tell the loss in a report; none for the plain cross-entropy.

    Args:
        loss: as `given_loss` returns it.
        trained: the labels that models are trained on.
        measured: the labels that answers are measured on.

    Example:
        >>> loss_notes({"class_weights": "balanced"}, np.array([0, 1]), np.array([0, 1]))
        ['Loss: class_weights balanced.']
    """
    told = ", ".join(f"{name} {value}" for name, value in loss.items())
    notes = [f"Loss: {told}."] if told else []
    differs = int((~np.equal(trained, measured) & ~(np.isnan(trained) & np.isnan(measured))).sum())
    if differs:
        notes.append(f"{differs} labels count in training and not where a model is measured.")
    return notes


def true_labels(truth: datasets.Dataset | None, samples: datasets.Dataset) -> Array:
    """Returns the labels that answers are measured on.

    Args:
        truth: the samples with these labels. None: those of `samples`.
        samples: the samples with the labels that models are trained on.

    Raises:
        ValueError: if the two do not have the same rows and classes.
    """
    truth = samples if truth is None else truth
    if len(truth) != len(samples) or class_names(truth) != class_names(samples):
        raise ValueError(
            f"truth must be the {len(samples)} samples with the classes {class_names(samples)}, "
            f"got {len(truth)} with {class_names(truth)}. Read both from one table."
        )
    return label_array(truth)


def word_weights(
    loss: Mapping[str, Any], labels: Array, num_labels: int, names: Sequence[str] | None
) -> list[float] | None:
    """Returns the weights for the regression on words, or None if all are 1.

    Args:
        loss: as `given_loss` returns it.
        labels: of the training rows, [B] or [B, C].
        num_labels: C.
        names: of the classes, or None.

    Returns:
        the weight of each class, or of the positives of each label in a multi-label problem.
    """
    weights = loss.get("class_weights" if labels.ndim == 1 else "pos_weight")
    if weights == BALANCED:
        return balanced_weights(labels, num_labels, names)
    return None if weights is None else [float(weight) for weight in weights]


def weighted(model: FusionClassifier, logits: Array) -> Array:
    """Returns log shares of the classes as the loss of a model weighs them.

    They stand for its answers where it sees nothing. Both then belong to one prior.

    Args:
        model: a classifier that was trained.
        logits: log shares of the classes, or log odds of multi-label classes [C].
    """
    prior: Array = weighted_prior(model, torch.from_numpy(logits)).numpy()
    return prior
