"""A batch's inputs by modality, and which samples lack which modality.

This file completes and checks a batch (`complete_inputs`). It says which texts are missing: blank
ones (`is_blank`), and those whose attention mask holds only zeros. It drops modalities while
training (`drop_modalities`). What stands in for an absent modality is in `tower.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from .axes import check_axes
from .facts import BatchFacts, look, parts_of, presence
from .graph import is_tracing
from .modalities import MODALITIES, given_modalities, main_input
from .types import on_device


@final
@dataclass(frozen=True)
class BatchInputs:
    """A completed batch.

    Attributes:
        tensors: input name -> tensor; only what was given, and the mask of each given modality.
        present: modality -> True where a sample has it [B], on the device.
        parts: modality -> True where a sample has the picture of a study, or the window of a text
            [B, V]; only for modalities whose inputs have an axis of them.
        facts: what the host knows of the batch; None while a graph is traced, which cannot look at
            values.
    """

    tensors: Mapping[str, Tensor]
    present: Mapping[str, Bool[Tensor, " B"]]
    parts: Mapping[str, Bool[Tensor, "B V"]]
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
    first = main_input(tensors)
    # Not len(first): an exported graph would hold the batch size that it was traced with.
    rows, device = first.shape[0], first.device
    if not is_tracing():
        _check_rows(tensors, rows)
    for modality in (MODALITIES[name] for name in given_modalities(tensors)):
        if modality.mask is not None and modality.mask not in tensors:
            tokens = tensors[modality.values if modality.values in tensors else modality.state]
            axes = 2 if modality.state in tensors else tokens.ndim
            tensors[modality.mask] = torch.ones(
                tokens.shape[:axes], dtype=torch.bool, device=tokens.device
            )
    found = {name: presence(modality, tensors) for name, modality in MODALITIES.items()}
    present = {name: one.present for name, one in found.items()}
    parts = {name: one.parts for name, one in found.items() if one.parts is not None}
    if is_tracing():
        return BatchInputs(tensors, present, parts, None)
    if facts is None or not facts.fits(tensors):
        facts = look(tensors, found)
    elif device.type == "cpu" and facts != look(tensors, found):
        # On a CPU a look costs next to nothing, so facts of another batch are found out there.
        raise ValueError(
            "facts must be those of this batch, got those of another one. Leave them out of a "
            "call after you change the batch."
        )
    _check_somebody(modalities, facts, rows)
    return BatchInputs(tensors, present, parts, facts)


def with_views(given: Mapping[str, Tensor | None], num_views: int) -> dict[str, Tensor | None]:
    """Returns the inputs with an axis of views, if the classifier knows several.

    Args:
        given: input name -> tensor or None. Pictures without such an axis are the first views.
        num_views: the most pictures of one sample.

    Raises:
        TypeError: as for `check_axes`.
        ValueError: if there are more, or as for `check_axes`.
    """
    if not is_tracing():
        check_axes(given, parts=True)
    inputs, image = dict(given), MODALITIES["image"]
    places = parts_of(image, {name: value for name, value in given.items() if value is not None})
    if places is not None and places > num_views:
        raise ValueError(
            f"{image.values} must hold at most {num_views} pictures per sample, got {places}. Make "
            "the classifier with num_views=."
        )
    if num_views > 1 and places is None:
        flags = inputs.get(image.present)
        for name in (image.values, image.state, image.pooled):
            value = inputs.get(name)
            inputs[name] = None if value is None else value.unsqueeze(1)
        state = inputs.get(image.state)
        if flags is None and state is not None:
            flags = torch.ones(state.shape[0], dtype=torch.bool, device=state.device)
        inputs[image.present] = None if flags is None else flags.unsqueeze(1)
    return inputs


def graph_inputs(
    modalities: Sequence[str], given: Mapping[str, Tensor], num_views: int, facts: BatchFacts | None
) -> tuple[dict[str, Tensor], BatchFacts]:
    """Returns every input of a graph, completed and checked, and the facts of the batch.

    A graph takes a fixed set of inputs, and a fixed number of pictures per sample.

    Args:
        modalities: those that the classifier has a tower for.
        given: input name -> tensor, as a processor makes them.
        num_views: the most pictures of one sample.
        facts: what the host knows of this batch, or None.

    Raises:
        ValueError: as for `complete_inputs` and `with_views`.
    """
    batch = complete_inputs(modalities, with_views(given, num_views), facts)
    assert batch.facts is not None
    used = [MODALITIES[name] for name in modalities]
    inputs = {name: batch.tensors[name] for one in used for name in one.encoded}
    inputs |= {one.present: batch.present[one.name] for one in used}
    if "image" in batch.parts:
        image = MODALITIES["image"]
        inputs[image.present] = batch.parts["image"]
        lacking = num_views - inputs[image.values].shape[1]
        for name, axes in ((image.values, 3), (image.present, 0)):
            inputs[name] = nn.functional.pad(inputs[name], [0, 0] * axes + [0, lacking])
    return inputs, batch.facts


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
