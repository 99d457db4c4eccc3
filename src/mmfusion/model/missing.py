"""A batch's inputs by modality, and which samples lack which modality.

This file names the inputs of each modality (`MODALITIES`). It completes and checks a batch
(`complete_inputs`). It says which texts are missing: blank ones (`is_blank`), and those whose
attention mask holds only zeros. It drops modalities while training (`drop_modalities`). What stands
in for an absent modality is in `tower.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool
from torch import Tensor

from .graph import is_tracing
from .types import on_device


@final
@dataclass(frozen=True)
class Modality:
    """The names of one modality's inputs.

    Attributes:
        name: "image" or "text".
        values: what the processor makes of the modality.
        mask: name of the input that marks the real tokens; None if the modality has no mask.
        present: which samples have it.
        state: what `mmfusion.cache_features` stored instead of `values`.
        pooled: name of the stored pooled vectors; used if `state` was stored after the last block.
    """

    name: str
    values: str
    mask: str | None
    present: str
    state: str
    pooled: str

    @property
    def processed(self) -> tuple[str, ...]:
        """The names of what a processor makes."""
        return (*self.encoded, self.present)

    @property
    def encoded(self) -> tuple[str, ...]:
        """The names of what the encoder takes."""
        return (self.values,) if self.mask is None else (self.values, self.mask)


MODALITIES: dict[str, Modality] = {
    "image": Modality(
        "image", "pixel_values", None, "image_present", "image_state", "image_pooled"
    ),
    "text": Modality(
        "text", "input_ids", "attention_mask", "text_present", "text_state", "text_pooled"
    ),
}
"""The table of modalities: name -> its inputs."""


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
        token_range: the smallest and the largest token id; padding counts as id 0. None without
            token ids.
        class_range: the smallest and the largest label, where labels are class indices; else None.
        odd_label: a multi-label label that is neither 1, 0 nor NaN; None if there is none.
        labelled: whether the batch had labels.
    """

    present: Mapping[str, tuple[bool, ...]]
    text_lengths: tuple[int, ...] | None = None
    token_range: tuple[int, int] | None = None
    class_range: tuple[int, int] | None = None
    odd_label: float | None = None
    labelled: bool = False

    def fits(self, inputs: Mapping[str, Tensor]) -> bool:
        """Returns whether these can be the facts of `inputs`, judged by shapes and types alone.

        `nn.DataParallel` hands the facts of a whole batch to each of its parts, where they do not
        fit.

        Args:
            inputs: the tensors of a batch, masks included.
        """
        given = given_modalities(inputs)
        rows = next(inputs[name].shape[0] for name in _main_inputs(MODALITIES) if name in inputs)
        mask = inputs.get("attention_mask") if "text" in given else None
        lengths = () if self.text_lengths is None else self.text_lengths
        return (
            set(self.present) == set(given)
            and all(len(flags) == rows for flags in self.present.values())
            and (self.text_lengths is None) == (mask is None)
            and (
                mask is None or (len(lengths) == rows and max(lengths, default=0) <= mask.shape[1])
            )
            and self.labelled == ("labels" in inputs)
            and (self.class_range is None) == (not _are_classes(inputs.get("labels")))
        )

    def to(self, *_: object, **__: object) -> "BatchFacts":
        """Returns these facts unchanged, so that code may call `.to` on each value of a batch."""
        return self


@final
@dataclass(frozen=True)
class BatchInputs:
    """A completed batch.

    Attributes:
        tensors: input name -> tensor; only what was given, and the mask of each given modality.
        present: modality -> True where a sample has it [B], on the device.
        facts: what the host knows of the batch; None while a graph is traced, which cannot look at
            values.
    """

    tensors: Mapping[str, Tensor]
    present: Mapping[str, Bool[Tensor, " B"]]
    facts: BatchFacts | None


def is_blank(value: object) -> bool:
    """Returns whether a cell is blank: None, NaN, or a string of white space.

    A blank text is a missing text.

    Args:
        value: any cell.

    Example:
        >>> is_blank("  "), is_blank(float("nan")), is_blank(0)
        (True, True, False)
    """
    return value is None or bool(value != value) or (isinstance(value, str) and not value.strip())


def complete_inputs(
    modalities: Sequence[str],
    given: Mapping[str, Tensor | None],
    facts: BatchFacts | None = None,
) -> BatchInputs:
    """Returns a batch with every mask and presence flag filled in, after checking it.

    A forward pass reads values only here, before any tower runs, because each read waits for the
    device. With fitting `facts`, only a batch on a CPU is read, to check them. (Exception: a custom
    encoder may return another mask. Its lengths are read after it has run.)

    Args:
        modalities: those that the classifier has a tower for.
        given: input name -> tensor or None, as `FusionClassifier.forward` takes them, labels
            included.
        facts: what the collator knows of this batch. None: they are read from the tensors.

    Raises:
        ValueError: when an input has no tower, nothing is given, there is not one flag per sample,
            a sample has none of the modalities, or `facts` belong to another batch (checked on a
            CPU only).
    """
    tensors = {name: value for name, value in given.items() if value is not None}
    _check_names(modalities, tensors)
    first = next(tensors[name] for name in _main_inputs(MODALITIES) if name in tensors)
    # Not len(first): an exported graph would hold the batch size that it was traced with.
    rows, device = first.shape[0], first.device
    if not is_tracing():
        _check_rows(tensors, rows)
    for modality in (MODALITIES[name] for name in given_modalities(tensors)):
        if modality.mask is not None and modality.mask not in tensors:
            tokens = tensors[modality.values if modality.values in tensors else modality.state]
            tensors[modality.mask] = torch.ones(
                tokens.shape[:2], dtype=torch.bool, device=tokens.device
            )
    present = {
        name: _presence(modality, tensors, rows, device) for name, modality in MODALITIES.items()
    }
    if is_tracing():
        return BatchInputs(tensors, present, None)
    if facts is None or not facts.fits(tensors):
        facts = look(tensors, present)
    elif device.type == "cpu" and facts != look(tensors, present):
        # On a CPU a look costs next to nothing, so facts of another batch are found out there.
        raise ValueError(
            "facts must be those of this batch, got those of another one. Leave them out of a "
            "call after you change the batch."
        )
    _check_somebody(modalities, facts, rows)
    return BatchInputs(tensors, present, facts)


def look(
    tensors: Mapping[str, Tensor], present: Mapping[str, Bool[Tensor, " B"]] | None = None
) -> BatchFacts:
    """Returns the facts of a batch, read from its tensors.

    It waits for the device once, or twice with multi-label labels.

    Args:
        tensors: input name -> tensor.
        present: modality -> True where a sample has it [B]; None reads the flags and masks of
            `tensors`.
    """
    names = given_modalities(tensors)
    if present is None:
        first = next(tensors[name] for name in _main_inputs(MODALITIES) if name in tensors)
        present = {
            name: _presence(MODALITIES[name], tensors, first.shape[0], first.device)
            for name in names
        }
    parts = [present[name].long() for name in names]
    mask, ids, labels = (tensors.get(name) for name in ("attention_mask", "input_ids", "labels"))
    mask = mask if "text" in names else None
    if mask is not None:
        real = mask.bool() & present["text"].unsqueeze(1)
        parts.append(real.sum(1))
        if _are_ids(ids) and ids is not None:
            # Padding counts as id 0, which every vocabulary has, so it never fails the check.
            parts.append(torch.stack(torch.where(real, ids, 0).aminmax()))
    if labels is not None and _are_classes(labels):
        parts.append(torch.stack(labels.long().aminmax()))
    device = parts[0].device
    numbers = iter(torch.cat([part.to(device) for part in parts]).tolist() if parts else [])
    rows = len(parts[0]) if parts else 0
    flags = {name: tuple(bool(next(numbers)) for _ in range(rows)) for name in names}
    has_ids = mask is not None and _are_ids(ids)
    return BatchFacts(
        present=flags,
        text_lengths=None if mask is None else tuple(next(numbers) for _ in range(rows)),
        token_range=(next(numbers), next(numbers)) if has_ids else None,
        class_range=(next(numbers), next(numbers)) if _are_classes(labels) else None,
        odd_label=_odd_label(labels),
        labelled=labels is not None,
    )


def drop_modalities(batch: BatchInputs, probability: float) -> BatchInputs:
    """Returns the batch after modality dropout.

    With `probability`, a sample with both modalities loses one. Image and text are equally likely.
    The host draws, so it knows the remaining modalities without waiting for the device. A graph
    draws on the device.

    Args:
        batch: of two modalities.
        probability: in [0, 1).
    """
    image, text = batch.present["image"], batch.present["text"]
    if batch.facts is None:
        draw = torch.rand(image.shape, device=image.device)
    elif len(batch.facts.present) < 2:
        return batch
    else:
        draw = torch.rand(len(image))
    loses_image, loses_text = (
        draw < probability / 2,
        (draw >= probability / 2) & (draw < probability),
    )
    if batch.facts is None:
        both = image & text
        present = {"image": image & ~(both & loses_image), "text": text & ~(both & loses_text)}
        return replace(batch, present=present)
    flags = batch.facts.present
    rows = list(
        zip(flags["image"], flags["text"], loses_image.tolist(), loses_text.tolist(), strict=True)
    )
    has_image = tuple(i and not (t and lost) for i, t, lost, _ in rows)
    has_text = tuple(t and not (i and lost) for i, t, _, lost in rows)
    lengths = tuple(
        length if has else 0
        for length, has in zip(batch.facts.text_lengths or (), has_text, strict=True)
    )
    facts = replace(
        batch.facts, present={"image": has_image, "text": has_text}, text_lengths=lengths
    )
    present = {
        name: on_device(flags, image.device, torch.bool) for name, flags in facts.present.items()
    }
    return replace(batch, present=present, facts=facts)


def _main_inputs(table: Mapping[str, Modality]) -> list[str]:
    """Returns the inputs that prove a modality is in the batch: its values or its state."""
    return [name for modality in table.values() for name in (modality.values, modality.state)]


def given_modalities(tensors: Iterable[str]) -> list[str]:
    """Returns the modalities that a batch has inputs of."""
    names = set(tensors)
    return [
        name
        for name, modality in MODALITIES.items()
        if modality.values in names or modality.state in names
    ]


def describes_itself(tensors: Iterable[str]) -> bool:
    """Returns whether each modality in the batch comes with its mask and its presence flags.

    A user's processor may omit masks and flags; the classifier then adds them.

    Args:
        tensors: the names of the inputs.
    """
    names = set(tensors)
    given = [MODALITIES[name] for name in given_modalities(names)]
    companions = [name for one in given for name in (one.mask, one.present) if name is not None]
    return bool(given) and names.issuperset(companions)


def _check_names(modalities: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    for modality in MODALITIES.values():
        for name in (modality.values, modality.state):
            if name in tensors and modality.name not in modalities:
                raise ValueError(
                    f"{name} must be left out of a classifier of {modalities[0]} alone, got a "
                    "tensor."
                )
    if not given_modalities(tensors):
        raise ValueError(
            "pixel_values or input_ids must be given, got neither. A sample needs an image or a "
            "text."
        )


def _check_rows(tensors: Mapping[str, Tensor], rows: int) -> None:
    for modality in MODALITIES.values():
        for name in (*modality.encoded, modality.state, modality.pooled):
            if name in tensors and tensors[name].shape[0] != rows:
                raise ValueError(
                    f"{name} must have one row per sample ({rows}), got "
                    f"{tuple(tensors[name].shape)}."
                )


def _presence(
    modality: Modality, tensors: Mapping[str, Tensor], rows: int, device: torch.device
) -> Bool[Tensor, " B"]:
    """Returns True where a sample has the modality; a text without a real token is missing."""
    inputs = [tensors[name] for name in (modality.values, modality.state) if name in tensors]
    if not inputs:
        return torch.zeros(rows, dtype=torch.bool, device=device)
    flags = tensors.get(modality.present)
    if flags is None:
        flags = torch.ones(rows, dtype=torch.bool, device=inputs[0].device)
    if flags.shape != (rows,):
        raise ValueError(
            f"presence must be one flag per sample [{rows}], got {tuple(flags.shape)}."
        )
    if modality.mask is None:
        return flags.bool()
    return flags.bool() & tensors[modality.mask].bool().any(1)


def _check_somebody(modalities: Sequence[str], facts: BatchFacts, rows: int) -> None:
    """Refuses samples that have none of the modalities."""
    absent = (False,) * rows
    flags = [facts.present.get(name, absent) for name in modalities]
    empty = [row for row in range(rows) if not any(of_modality[row] for of_modality in flags)]
    if empty:
        needed = " or ".join(f"a{'n' if name == 'image' else ''} {name}" for name in modalities)
        raise ValueError(
            f"every sample must have {needed}, got none in rows {empty[:10]} of the batch. Leave "
            "them out."
        )


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
