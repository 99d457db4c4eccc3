"""The table of modalities: the names of the inputs that a batch has of each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor


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


def main_input(tensors: Mapping[str, Tensor]) -> Tensor:
    """Returns a tensor of a batch that has one row per sample.

    Args:
        tensors: input name -> tensor, of one modality at least.
    """
    names = [name for modality in MODALITIES.values() for name in (modality.values, modality.state)]
    return next(tensors[name] for name in names if name in tensors)


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
