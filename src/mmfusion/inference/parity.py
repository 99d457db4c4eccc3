"""How far the answers of a classifier in another precision are from its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ..metrics.functional import auroc


@final
@dataclass(frozen=True)
class Parity:
    """How far answers in another precision are from those of the model itself.

    Attributes:
        rows: how many samples were compared.
        largest: the largest difference of a logit.
        mean: the mean absolute difference of the logits.
        spread: the standard deviation of the model's own logits, to judge the differences by.
        changed: the share of samples whose most probable class is another one; for several labels
            the share of the labels that fall on the other side of 0.5.
        auroc_before: the AUROC of the model itself; None without labels.
        auroc_after: the AUROC of the other answers; None without labels.
    """

    rows: int
    largest: float
    mean: float
    spread: float
    changed: float
    auroc_before: float | None = None
    auroc_after: float | None = None


def parity(
    before: Tensor,
    after: Tensor,
    labels: Tensor | Sequence[int] | None = None,
    *,
    multi_label: bool = False,
) -> Parity:
    """Returns how far the logits `after` are from the logits `before`.

    Args:
        before: of the model itself [B, C].
        after: of the model in another precision, for the same samples [B, C].
        labels: the true classes [B], or 1 and 0 per class [B, C]; None leaves the AUROC out.
        multi_label: whether each class is decided by itself.

    Raises:
        ValueError: if the shapes differ, or there are no samples.

    Example:
        >>> before = torch.tensor([[2.0, 0.0], [0.0, 0.1]])
        >>> report = parity(before, before + torch.tensor([[0.0, 0.0], [0.2, 0.0]]))
        >>> report.changed, round(report.largest, 3)
        (0.5, 0.2)
    """
    if before.shape != after.shape or before.ndim != 2 or not len(before):
        raise ValueError(
            f"before and after must be logits [B, C] of the same samples, got "
            f"{tuple(before.shape)} and {tuple(after.shape)}."
        )
    first, second = before.detach().double().cpu(), after.detach().double().cpu()
    difference = (first - second).abs()
    if multi_label:
        changed = ((first > 0) != (second > 0)).double().mean()
    else:
        changed = (first.argmax(1) != second.argmax(1)).double().mean()
    areas: list[float | None] = [None, None]
    if labels is not None:
        truth = torch.as_tensor(labels).numpy()
        areas = [auroc(one.numpy(), truth) for one in (first, second)]
    return Parity(
        rows=len(first),
        largest=float(difference.max()),
        mean=float(difference.mean()),
        spread=float(first.std(correction=0)),
        changed=float(changed),
        auroc_before=areas[0],
        auroc_after=areas[1],
    )
