"""The training loss, and the check of the labels that it takes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .facts import BatchFacts
from .types import Fused


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
    class_weights: Tensor | None = None,
    *,
    training: bool,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Returns the mean loss of a fused batch.

    While training, a strategy that combines answers gets the sum of the losses of its answers. The
    loss of the combination is added if the combination has parameters.

    Args:
        fused: what the strategy returned.
        labels: as for `classification_loss`.
        class_weights: as for `classification_loss`.
        training: whether the loss is to be minimised.
        smoothing: as for `classification_loss`.
    """
    loss = classification_loss(fused.logits, labels, class_weights, smoothing=smoothing)
    if not (training and fused.answers):
        return loss
    alone = answers_loss(fused.answers, labels, class_weights, smoothing=smoothing)
    # A combination without parameters has nothing to learn.
    return alone + loss if fused.logits.requires_grad else alone


def answers_loss(
    answers: Sequence[tuple[Tensor, Tensor]],
    labels: Tensor,
    class_weights: Tensor | None = None,
    *,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Returns the sum of the losses of several answers to the same samples.

    Args:
        answers: pairs of logits [B, C] and the rows that count [B]; at least one.
        labels: as for `classification_loss`.
        class_weights: as for `classification_loss`.
        smoothing: as for `classification_loss`.
    """
    losses = [
        classification_loss(logits, labels, class_weights, present, smoothing=smoothing)
        for logits, present in answers
    ]
    return torch.stack(losses).sum()


def classification_loss(
    logits: Float[Tensor, "B C"],
    labels: Tensor,
    class_weights: Tensor | None = None,
    present: Tensor | None = None,
    *,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Returns the mean loss of a batch.

    Single-label: -1/B sum_i w_{y_i} log softmax(z_i)_{y_i}. Multi-label: the mean over known labels
    of w_j BCE(z_ij, y_ij). Weights scale a sample's loss and do not enter the denominator. If no
    label is unknown and every row counts, batches of one size therefore weigh the same. The mean
    over processes is then the mean of the whole. A batch without a known label gives zero, with a
    gradient of zero.

    With smoothing e, the target of class c becomes (1 - e) [c = y] + e / C. That of a label y of a
    multi-label problem becomes (1 - e) y + e / 2. Class weights scale each class's term (Szegedy et
    al. 2016, arXiv 1512.00567, section 7).

    Args:
        logits: [B, C].
        labels: int [B], or 1, 0, NaN float [B, C].
        class_weights: [C], or None.
        present: rows that count [B]; None means all.
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
        losses = weights * F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    else:
        counted = torch.ones_like(labels, dtype=torch.bool)
        losses = F.cross_entropy(
            logits, labels, weight=class_weights, reduction="none", label_smoothing=smoothing
        )
    if present is not None:
        counted = counted & (present if counted.ndim == 1 else present[:, None])
    return torch.where(counted, losses, losses.new_zeros(())).sum() / counted.sum().clamp(min=1)
