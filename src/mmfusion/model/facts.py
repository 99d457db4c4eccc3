"""What the host knows of a batch, so that no code waits for the device to read it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, final

import torch
from torch import Tensor

from .modalities import MODALITIES, Modality, given_modalities, main_input


@final
@dataclass(frozen=True)
class BatchFacts:
    """Facts of a batch, known on the CPU, so that no code waits for the GPU to read them.

    `FusionCollator` adds them to its batches. They hold for that batch alone: leave them out of a
    call after you change the batch.

    Attributes:
        present: modality -> a flag per sample, for every modality with inputs in the batch.
        text_lengths: how many real tokens each sample's text has, 0 where it is missing; None
            without texts.
        parts: modality -> per sample, a flag for each picture of a study or window of a text; only
            for modalities whose inputs have an axis of them.
        window_lengths: how many real tokens each window of a text has, where texts have windows.
        token_range: the smallest and the largest token id; padding counts as id 0. None without
            token ids.
        class_range: the smallest and the largest label, where labels are class indices; else None.
        odd_label: a multi-label label that is neither 1, 0 nor NaN; None if there is none.
        labelled: whether the batch had labels.
    """

    present: Mapping[str, tuple[bool, ...]]
    text_lengths: tuple[int, ...] | None = None
    parts: Mapping[str, tuple[tuple[bool, ...], ...]] = field(default_factory=dict)
    window_lengths: tuple[tuple[int, ...], ...] | None = None
    token_range: tuple[int, int] | None = None
    class_range: tuple[int, int] | None = None
    odd_label: float | None = None
    labelled: bool = False

    @property
    def row_lengths(self) -> tuple[int, ...] | None:
        """How many real tokens each text or window has that enters the encoder."""
        if self.window_lengths is None:
            return self.text_lengths
        return tuple(length for windows in self.window_lengths for length in windows)

    def fits(self, inputs: Mapping[str, Tensor]) -> bool:
        """Returns whether these can be the facts of `inputs`, judged by shapes and types alone.

        `nn.DataParallel` hands the facts of a whole batch to each of its parts, where they do not
        fit.

        Args:
            inputs: the tensors of a batch, masks included.
        """
        given = given_modalities(inputs)
        rows = main_input(inputs).shape[0]
        mask = inputs.get("attention_mask") if "text" in given else None
        lengths = () if self.text_lengths is None else self.text_lengths
        sizes = {name: size for name in given if (size := parts_of(MODALITIES[name], inputs))}
        return (
            set(self.present) == set(given)
            and all(len(flags) == rows for flags in self.present.values())
            and self.parts.keys() == sizes.keys()
            and all({len(row) for row in self.parts[name]} <= {sizes[name]} for name in sizes)
            and (self.text_lengths is None) == (mask is None)
            and (
                mask is None
                or (len(lengths) == rows and max(lengths, default=0) <= mask[0].numel())
            )
            and self.labelled == ("labels" in inputs)
            and (self.class_range is None) == (not _are_classes(inputs.get("labels")))
        )

    def to(self, *_: object, **__: object) -> "BatchFacts":
        """Returns these facts unchanged, so that code may call `.to` on each value of a batch."""
        return self


def look(
    tensors: Mapping[str, Tensor], found: "Mapping[str, Presence] | None" = None
) -> BatchFacts:
    """Returns the facts of a batch, read from its tensors.

    It waits for the device once, or twice with multi-label labels.

    Args:
        tensors: input name -> tensor.
        found: modality -> which samples have it; None reads the flags and masks of `tensors`.
    """
    names = given_modalities(tensors)
    if found is None:
        found = {name: presence(MODALITIES[name], tensors) for name in names}
    parts = {name: flags for name in names if (flags := found[name].parts) is not None}
    columns = [found[name].present.long() for name in names]
    columns += [flags.long().flatten() for flags in parts.values()]
    mask, ids, labels = (tensors.get(name) for name in ("attention_mask", "input_ids", "labels"))
    mask = mask if "text" in names else None
    if mask is not None:
        here = found["text"].present.reshape(-1, *[1] * (mask.ndim - 1))
        real = mask.bool() & here
        columns.append(real.sum(-1).flatten())
        if _are_ids(ids) and ids is not None:
            # Padding counts as id 0, which every vocabulary has, so it never fails the check.
            columns.append(torch.stack(torch.where(real, ids, 0).aminmax()))
    if labels is not None and _are_classes(labels):
        columns.append(torch.stack(labels.long().aminmax()))
    device = columns[0].device
    numbers = iter(torch.cat([one.to(device) for one in columns]).tolist() if columns else [])
    rows = len(columns[0]) if columns else 0
    present = {name: tuple(map(bool, islice(numbers, rows))) for name in names}
    of_parts = {
        name: tuple(tuple(map(bool, islice(numbers, one.shape[1]))) for _ in range(rows))
        for name, one in parts.items()
    }
    windows = None
    if mask is not None:
        of_each = math.prod(mask.shape[1:-1])
        windows = [tuple(islice(numbers, of_each)) for _ in range(rows)]
    has_ids = mask is not None and _are_ids(ids)
    return BatchFacts(
        present=present,
        text_lengths=None if windows is None else tuple(map(sum, windows)),
        parts=of_parts,
        window_lengths=tuple(windows) if windows is not None and "text" in parts else None,
        token_range=(next(numbers), next(numbers)) if has_ids else None,
        class_range=(next(numbers), next(numbers)) if _are_classes(labels) else None,
        odd_label=_odd_label(labels),
        labelled=labels is not None,
    )


@final
class Presence(NamedTuple):
    """Which samples have a modality.

    Attributes:
        present: True where a sample has it [B].
        parts: True where a sample has the picture or window [B, V]; None without an axis of them.
    """

    present: Tensor
    parts: Tensor | None


def parts_of(modality: Modality, tensors: Mapping[str, Tensor]) -> int | None:
    """Returns how many places for pictures or windows a modality has; None without such an axis.

    Args:
        modality: of the table.
        tensors: input name -> tensor.
    """
    if modality.mask is not None:
        mask = tensors.get(modality.mask)
        return mask.shape[1] if mask is not None and mask.ndim == 3 else None
    values, flags = tensors.get(modality.values), tensors.get(modality.present)
    if values is not None:
        return values.shape[1] if values.ndim == 5 else None
    # A stored state may have any number of axes. The flags that come with it tell.
    return flags.shape[1] if flags is not None and flags.ndim == 2 else None


def presence(modality: Modality, tensors: Mapping[str, Tensor]) -> Presence:
    """Returns which samples have a modality; a text without a real token is missing.

    Args:
        modality: of the table.
        tensors: input name -> tensor; those of the modality, and its mask if it has one.

    Raises:
        ValueError: if there is not one flag per sample, or per picture of each sample.
    """
    first = main_input(tensors)
    rows, device = first.shape[0], first.device
    if not any(name in tensors for name in (modality.values, modality.state)):
        return Presence(torch.zeros(rows, dtype=torch.bool, device=device), None)
    places = parts_of(modality, tensors)
    flags = tensors.get(modality.present)
    if flags is None:
        flags = torch.ones(rows, dtype=torch.bool, device=device)
    of_each = modality.mask is None and places is not None and flags.shape == (rows, places)
    if flags.shape != (rows,) and not of_each:
        raise ValueError(
            f"presence must be one flag per sample [{rows}], got {tuple(flags.shape)}."
        )
    flags = flags.bool()
    if modality.mask is not None:
        real = tensors[modality.mask].bool().any(-1)
        if places is None:
            return Presence(flags & real, None)
        real = real & flags[:, None]
        return Presence(real.any(1), real)
    if places is None:
        return Presence(flags, None)
    flags = flags if flags.ndim == 2 else flags[:, None].expand(-1, places)
    return Presence(flags.any(1), flags)


def _are_classes(labels: Tensor | None) -> bool:
    """Returns whether labels are class indices, one at least."""
    if labels is None or labels.ndim != 1:
        return False
    return not labels.is_floating_point() and labels.numel() > 0


def _are_ids(ids: Tensor | None) -> bool:
    """Returns whether there are integer token ids; the embedding refuses ids of other types."""
    return ids is not None and not ids.is_floating_point() and ids.numel() > 0


def _odd_label(labels: Tensor | None) -> float | None:
    """Returns the first label of a multi-label batch that is neither 1, 0 nor NaN."""
    if labels is None or not labels.is_floating_point() or not labels.numel():
        return None
    flat = labels.flatten()
    is_odd = ~((flat == 0) | (flat == 1) | flat.isnan())
    # One transfer for both numbers: argmax finds the first odd label, or 0 where there is none.
    at = is_odd.int().argmax()
    any_odd, value = torch.stack([is_odd.any().to(flat.dtype), flat[at.unsqueeze(0)][0]]).tolist()
    return float(value) if any_odd else None
