"""Which samples of a batch have an image, and which a text."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor


def presence(
    flags: Tensor | None, given: Tensor | None, batch: int, device: torch.device
) -> Bool[Tensor, " B"]:
    """True where a sample has the modality.

    Args:
        flags: what the caller says [B]; None means all have it where it is `given`.
        given: the modality's input; None means that no sample has it.
        batch: B.
        device: where the answer lies if nothing is given.

    Raises:
        ValueError: when there is not one flag per sample.
    """
    if given is None:
        return torch.zeros(batch, dtype=torch.bool, device=device)
    if flags is None:
        return torch.ones(batch, dtype=torch.bool, device=given.device)
    if flags.shape != (batch,):
        raise ValueError(
            f"presence must be one flag per sample [{batch}], got {tuple(flags.shape)}."
        )
    return flags.bool()


def check_presence(present: Mapping[str, Bool[Tensor, " B"]]) -> None:
    """Refuse samples that have none of the modalities; in a graph, which cannot look, nothing is refused.

    Args:
        present: modality -> True where a sample has it.

    Raises:
        ValueError: naming the rows.
    """
    some = torch.stack(list(present.values())).any(0)
    if not torch.compiler.is_compiling() and not bool(some.all()):
        rows = (~some).nonzero().flatten().tolist()
        needed = " or ".join(f"a{'n' if name == 'image' else ''} {name}" for name in present)
        raise ValueError(
            f"every sample must have {needed}, got none in rows {rows[:10]} of the batch. Leave them out."
        )


def without_one(
    image: Bool[Tensor, " B"], text: Bool[Tensor, " B"], probability: float
) -> tuple[Bool[Tensor, " B"], Bool[Tensor, " B"]]:
    """Presence after modality dropout: samples with both lose one of them, either with half the probability."""
    draw = torch.rand(image.shape, device=image.device)
    both = image & text
    loses_image = both & (draw < probability / 2)
    loses_text = both & (draw >= probability / 2) & (draw < probability)
    return image & ~loses_image, text & ~loses_text


def is_blank(value: object) -> bool:
    """Return whether a cell says nothing: None, NaN, or a string of white space.

    Args:
        value: Any cell.

    Example:
        >>> is_blank("  "), is_blank(float("nan")), is_blank(0)
        (True, True, False)
    """
    return value is None or value != value or (isinstance(value, str) and not value.strip())
