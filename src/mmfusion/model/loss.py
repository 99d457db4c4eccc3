"""What training minimises."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def checked_labels(labels: Tensor, logits: Float[Tensor, "B C"], *, multi_label: bool) -> Tensor:
    """The labels, class indices as int64; in a graph, which cannot look, their values are taken as they are.

    Args:
        labels: int [B], or 1, 0, NaN float [B, C].
        logits: what they are the labels of.
        multi_label: which of the two they must be.

    Raises:
        ValueError: when they have another shape or type, or a value is none of those allowed.
    """
    batch, classes = logits.shape
    may_look = not torch.compiler.is_compiling()
    if multi_label:
        if labels.shape != logits.shape or not labels.is_floating_point():
            raise ValueError(
                f"labels must be floats [{batch}, {classes}] (1, 0 or NaN), got {labels.dtype} {tuple(labels.shape)}."
            )
        wrong = (
            labels[~((labels == 0) | (labels == 1) | labels.isnan())] if may_look else labels[:0]
        )
        if wrong.numel():
            raise ValueError(
                f"labels must be 1, 0 or NaN, got {wrong.flatten()[0].item()!r}. NaN stands for unknown."
            )
        return labels
    if labels.shape != (batch,) or labels.is_floating_point():
        raise ValueError(
            f"labels must be class indices [{batch}], got {labels.dtype} {tuple(labels.shape)}."
        )
    wrong = labels[(labels < 0) | (labels >= classes)] if may_look else labels[:0]
    if wrong.numel():
        raise ValueError(
            f"labels must be in 0 .. {classes - 1}, got {int(wrong[0])}. Is num_labels right?"
        )
    return labels.long()


def classification_loss(
    logits: Float[Tensor, "B C"],
    labels: Tensor,
    class_weights: Tensor | None = None,
    present: Tensor | None = None,
) -> Float[Tensor, ""]:
    """The mean loss of a batch.

    Single-label: -1/B sum_i w_{y_i} log softmax(z_i)_{y_i}; multi-label: the mean over known labels
    of w_j BCE(z_ij, y_ij). Weights
    scale a sample's loss and do not enter the denominator: so batches of one size weigh the same,
    and the mean over processes is that of the whole. A batch without a known label gives zero, with
    a gradient of zero.

    Args:
        logits: [B, C].
        labels: int [B], or 1, 0, NaN float [B, C].
        class_weights: [C], or None.
        present: rows that count [B]; None means all.
    """
    logits = logits.float()
    if labels.is_floating_point():
        known = ~labels.isnan()
        weights = logits.new_ones(()) if class_weights is None else class_weights
        each = weights * F.binary_cross_entropy_with_logits(
            logits, torch.where(known, labels, 0.0).to(logits.dtype), reduction="none"
        )
    else:
        known = torch.ones_like(labels, dtype=torch.bool)
        each = F.cross_entropy(logits, labels, weight=class_weights, reduction="none")
    if present is not None:
        known = known & (present if known.ndim == 1 else present[:, None])
    return torch.where(known, each, each.new_zeros(())).sum() / known.sum().clamp(min=1)
