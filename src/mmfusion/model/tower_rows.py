"""The rows of a batch that have a modality, and what stands in the others."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .graph import is_tracing
from .parts import Parts
from .types import Hidden


def rows_of(present: Tensor, flags: Sequence[bool]) -> Tensor | None:
    """Returns the rows that are present [P]; None where all are.

    Args:
        present: True where a sample has the modality [B].
        flags: the same on the host.
    """
    if all(flags):
        return None
    # With `size` given, nonzero_static does not wait for the device to count.
    return torch.nonzero_static(present, size=sum(flags)).squeeze(1)


def first_place(places: int, device: torch.device) -> Tensor:
    """Returns a mask [places] of which the first is True.

    Args:
        places: how many.
        device: where the mask is to lie.
    """
    return torch.arange(places, device=device) == 0


def chosen(condition: Tensor, this: Tensor, other: Tensor) -> Tensor:
    """Returns torch.where for bool tensors; onnxruntime has it only for numbers.

    Args:
        condition: True where `this` is taken.
        this: a bool tensor.
        other: a bool tensor.
    """
    return (condition & this) | (~condition & other)


def neutral(value: Tensor, present: Tensor) -> Tensor:
    """Returns an input with zero pixels, or one real token of id 0, in the absent rows.

    Args:
        value: pixels [B, C, H, W], token ids or their mask [B, L].
        present: True where a sample has the modality [B].
    """
    shape = present.view(-1, *[1] * (value.ndim - 1))
    if value.ndim == 2 and value.dtype == torch.bool:
        return chosen(shape, value, first_place(value.shape[1], value.device))
    return torch.where(shape, value, value.new_zeros(()))


def selected(
    inputs: tuple[Tensor, ...], present: Tensor, rows: Tensor | None, parts: Parts | None
) -> tuple[Tensor, ...]:
    """Returns the inputs of the samples, or parts of samples, that are encoded.

    In a graph these are all, with `neutral` inputs in the absent rows.

    Args:
        inputs: what the encoder takes, of the whole batch.
        present: True where a sample has the modality [B].
        rows: the rows that are present; None where all are.
        parts: which parts the samples have; None without an axis of them.
    """
    if parts is not None:
        inputs, present = tuple(map(parts.select, inputs)), parts.present.flatten()
    elif rows is not None:
        return tuple(value[rows] for value in inputs)
    if is_tracing():
        return tuple(neutral(value, present) for value in inputs)
    return inputs


def selected_state(start: Hidden, rows: Tensor | None, parts: Parts | None) -> Hidden:
    """Returns a stored state of the samples, or parts of samples, that are encoded.

    Args:
        start: of the whole batch.
        rows: the rows that are present; None where all are.
        parts: which parts the samples have; None without an axis of them.
    """
    if rows is None and parts is None:
        return start
    of_rows = (start.values, start.mask, start.pooled)
    select = parts.select if parts is not None else lambda value: value[rows]
    values, mask, pooled = (None if value is None else select(value) for value in of_rows)
    assert values is not None
    return Hidden(values, mask, pooled, start.lengths)
