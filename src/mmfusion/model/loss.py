"""The training loss, and the check of the labels that it takes."""

from collections.abc import Sequence
from typing import Any, TypedDict, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .facts import BatchFacts
from .loss_weights import BALANCED, WEIGHTS
from .types import Fused


@final
class LossOptions(TypedDict, total=False):
    """What the loss of a classifier depends on; the keywords of `classification_loss`.

    Attributes:
        class_weights: [C], or None.
        pos_weight: [C], or None.
        focal_gamma: at least 0.
        smoothing: in [0, 1).
    """

    class_weights: Tensor | None
    pos_weight: Tensor | None
    focal_gamma: float
    smoothing: float


def register_weights(model: nn.Module, config: Any) -> None:
    """Makes the weights of a config buffers of the model, which are not saved with its weights.

    Weights that `fit` has yet to compute are None.

    Args:
        model: the classifier. Buffers that it has already are replaced: `fit` may have computed the
            weights, or the model may have been loaded without values.
        config: its `FusionConfig`.
    """
    first = next(model.parameters(), None)
    for name in WEIGHTS:
        weights = getattr(config, name)
        values = None
        if weights is not None and weights != BALANCED:
            values = torch.tensor(weights, device=None if first is None else first.device).float()
        model.register_buffer(name, values, persistent=False)


def loss_options(
    model: nn.Module,
    config: Any,
    *,
    training: bool,
    device: torch.device | str | None = None,
) -> LossOptions:
    """Returns what the loss of a classifier depends on.

    Labels are smoothed in training alone.

    Args:
        model: the classifier, with the buffers of `register_weights`.
        config: its `FusionConfig`.
        training: whether the loss is to be minimised.
        device: of the weights. None: that of the model.

    Raises:
        ValueError: if weights are "balanced" still.
    """
    for name in WEIGHTS:
        if getattr(config, name) == BALANCED:
            raise ValueError(
                f"{name} must be numbers where a loss is computed, got {BALANCED!r}. Train with "
                "mmfusion.fit, which computes them from the training rows."
            )
    class_weights, pos_weight = (getattr(model, name) for name in WEIGHTS)
    if device is not None:
        class_weights, pos_weight = (
            one if one is None else one.to(device) for one in (class_weights, pos_weight)
        )
    return {
        "class_weights": class_weights,
        "pos_weight": pos_weight,
        "focal_gamma": config.focal_gamma,
        "smoothing": config.label_smoothing if training else 0.0,
    }


def checked_labels(
    labels: Tensor, logits: Float[Tensor, "B C"], *, multi_label: bool, facts: BatchFacts | None
) -> Tensor:
    """Returns the labels, class indices as int64.

    Args:
        labels: int [B], or 1, 0, NaN float [B, C].
        logits: the logits of the same samples.
        multi_label: whether labels must be float [B, C]; if not, int [B].
        facts: what is known of their values; None in a graph, which takes them as they are.

    Raises:
        ValueError: when they have another shape or type, or a value is not allowed.
    """
    batch, classes = logits.shape
    if multi_label:
        if labels.shape != logits.shape or not labels.is_floating_point():
            raise ValueError(
                f"labels must be floats [{batch}, {classes}] (1, 0 or NaN), "
                f"got {labels.dtype} {tuple(labels.shape)}."
            )
        if facts is not None and facts.odd_label is not None:
            raise ValueError(
                f"labels must be 1, 0 or NaN, got {facts.odd_label!r}. NaN stands for unknown."
            )
        return labels
    if labels.shape != (batch,) or labels.is_floating_point():
        raise ValueError(
            f"labels must be class indices [{batch}], got {labels.dtype} {tuple(labels.shape)}."
        )
    for label in () if facts is None or facts.class_range is None else facts.class_range:
        if not 0 <= label < classes:
            raise ValueError(
                f"labels must be in 0 .. {classes - 1}, got {label}. Is num_labels right?"
            )
    return labels.long()


def fused_loss(
    fused: Fused,
    labels: Tensor,
    options: LossOptions,
    *,
    training: bool,
) -> Float[Tensor, ""]:
    """Returns the mean loss of a fused batch.

    While training, a strategy that combines answers gets the sum of the losses of its answers. The
    loss of the combination is added if the combination has parameters.

    Args:
        fused: what the strategy returned.
        labels: as for `classification_loss`.
        options: as `loss_options` returns them.
        training: whether the loss is to be minimised.
    """
    loss = classification_loss(fused.logits, labels, **options)
    if not (training and fused.answers):
        return loss
    alone = answers_loss(fused.answers, labels, options)
    # A combination without parameters has nothing to learn.
    return alone + loss if fused.logits.requires_grad else alone


def answers_loss(
    answers: Sequence[tuple[Tensor, Tensor]],
    labels: Tensor,
    options: LossOptions,
) -> Float[Tensor, ""]:
    """Returns the sum of the losses of several answers to the same samples.

    Args:
        answers: pairs of logits [B, C] and the rows that count [B]; at least one.
        labels: as for `classification_loss`.
        options: as `loss_options` returns them.
    """
    losses = [
        classification_loss(logits, labels, present=present, **options)
        for logits, present in answers
    ]
    return torch.stack(losses).sum()


def classification_loss(
    logits: Float[Tensor, "B C"],
    labels: Tensor,
    class_weights: Tensor | None = None,
    present: Tensor | None = None,
    *,
    pos_weight: Tensor | None = None,
    focal_gamma: float = 0.0,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Returns the mean loss of a batch.

    Single-label: -1/B sum_i w_{y_i} log softmax(z_i)_{y_i}. Multi-label: the mean over known labels
    of w_j BCE(z_ij, y_ij), in which the term of a positive is multiplied by v_j (`pos_weight`).
    Weights scale a sample's loss and do not enter the denominator. If no label is unknown and every
    row counts, batches of one size therefore weigh the same. The mean over processes is then the
    mean of the whole. A batch without a known label gives zero, with a gradient of zero.

    With smoothing e, the target of class c becomes (1 - e) [c = y] + e / C. That of a label y of a
    multi-label problem becomes (1 - e) y + e / 2. Class weights scale each class's term (Szegedy et
    al. 2016, arXiv 1512.00567, section 7).

    The focal loss multiplies each term -log p by (1 - p)^gamma, where p is the probability of the
    term's class, or of the term's answer yes or no (Lin et al. 2017, arXiv 1708.02002, eq. 5; the
    weights are its alpha). With a smoothed target, each class has a term and a factor of its own.

    Args:
        logits: [B, C].
        labels: int [B], or 1, 0, NaN float [B, C].
        class_weights: [C], or None.
        present: rows that count [B]; None means all.
        pos_weight: v of a multi-label problem [C], or None.
        focal_gamma: gamma, at least 0; 0 is the cross-entropy.
        smoothing: e, in [0, 1).
    """
    # In half precision, the sum over the classes would lose small differences.
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if class_weights is not None:
        class_weights = class_weights.to(logits.dtype)
    if labels.is_floating_point():
        counted = ~labels.isnan()
        weights = logits.new_ones(()) if class_weights is None else class_weights
        target = torch.where(counted, labels, 0.0).to(logits.dtype)
        target = target * (1 - smoothing) + smoothing / 2
        losses = weights * _binary_losses(logits, target, pos_weight, focal_gamma)
    else:
        counted = torch.ones_like(labels, dtype=torch.bool)
        if focal_gamma:
            losses = _focal_losses(logits, labels, class_weights, focal_gamma, smoothing)
        else:
            losses = F.cross_entropy(
                logits, labels, weight=class_weights, reduction="none", label_smoothing=smoothing
            )
    if present is not None:
        counted = counted & (present if counted.ndim == 1 else present[:, None])
    return torch.where(counted, losses, losses.new_zeros(())).sum() / counted.sum().clamp(min=1)


def _binary_losses(
    logits: Tensor, target: Tensor, pos_weight: Tensor | None, focal_gamma: float
) -> Tensor:
    """Returns the loss of each label [B, C] without the class weights; no target is unknown."""
    if pos_weight is not None:
        pos_weight = pos_weight.to(logits.dtype)
    if not focal_gamma:
        return F.binary_cross_entropy_with_logits(
            logits, target, pos_weight=pos_weight, reduction="none"
        )
    # (1 - p)^gamma as exp(gamma log(1 - p)), whose gradient is finite for every gamma.
    yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)
    positive = -target * (focal_gamma * no).exp() * yes
    if pos_weight is not None:
        positive = pos_weight * positive
    return positive - (1 - target) * (focal_gamma * yes).exp() * no


def _focal_losses(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None,
    focal_gamma: float,
    smoothing: float,
) -> Tensor:
    """Returns the focal loss of each row [B]; labels are class indices."""
    logs = logits.log_softmax(1)
    # Where p rounds to 1, the gradient of (1 - p)^gamma would be infinite for a gamma below 1.
    rest = (-torch.expm1(logs)).clamp(min=torch.finfo(logs.dtype).eps)
    terms = -rest.pow(focal_gamma) * logs
    if class_weights is not None:
        terms = class_weights * terms
    target = F.one_hot(labels, logits.shape[1]).to(logs.dtype)
    target = target * (1 - smoothing) + smoothing / logits.shape[1]
    return (target * terms).sum(1)
