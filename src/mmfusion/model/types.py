"""What encoders, mappers and strategies pass to each other, and the axis letters of docstrings.

| letter | axis |
| --- | --- |
| B | batch |
| N | image tokens (patches, prefix tokens, or the cells of a feature map) |
| L | text tokens |
| M | mapped tokens |
| D | width of an embedding |
| C | classes; channels where the axes are written C H W |
| H, W | pixels, or cells of a feature map |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers.utils.generic import ModelOutput

Lengths = Sequence[int] | None
"""How many real tokens each row of a batch has, as numbers on the host; None if not known.

The device works asynchronously. Reading a number from it waits, so these numbers are read once and
then passed on.
"""


def is_full(lengths: Lengths, places: int) -> bool:
    """Returns whether the host knows that every place of a batch holds a real token.

    Args:
        lengths: how many real tokens each row has, or None.
        places: L.

    Example:
        >>> is_full([3, 3], 3), is_full([3, 2], 3), is_full(None, 3)
        (True, False, False)
    """
    return lengths is not None and all(length == places for length in lengths)


def on_device(
    numbers: Sequence[Any],
    device: torch.device,
    dtype: torch.dtype = torch.int64,
) -> Tensor:
    """Returns numbers of the host as a tensor on a device, without waiting for the device.

    Args:
        numbers: a few integers or flags, or lists of them.
        device: where the tensor is to lie.
        dtype: of the tensor.
    """
    return torch.tensor(numbers, dtype=dtype).to(device, non_blocking=True)


@final
class Encoded(NamedTuple):
    """The output of every encoder and mapper, and the input of every strategy.

    Attributes:
        tokens: one embedding per token [B, N, D]; values where `mask` is False have no meaning.
        mask: True where a token is real [B, N].
        pooled: one embedding per sample [B, D].
    """

    tokens: Float[Tensor, "B N D"]
    mask: Bool[Tensor, "B N"]
    pooled: Float[Tensor, "B D"]


@final
class Hidden(NamedTuple):
    """The state of a tower between two of its blocks.

    Attributes:
        values: tokens [B, N, D], or a feature map [B, C, H, W]; for a backbone that is a single
            block, the pixels or token ids before it runs.
        mask: True where a token is real [B, N]; None where every place is real.
        pooled: [B, D] after a backbone that is a single block, or from a cache; else None.
        lengths: how many real tokens each row has; None where the host does not know.
    """

    values: Tensor
    mask: Bool[Tensor, "B N"] | None = None
    pooled: Float[Tensor, "B D"] | None = None
    lengths: Lengths = None

    @property
    def attended(self) -> Bool[Tensor, "B N"] | None:
        """The mask that attention needs: None where the host knows that every token is real."""
        return None if is_full(self.lengths, self.values.shape[1]) else self.mask


@final
@dataclass(frozen=True)
class CachePoint:
    """The last point of a frozen tower whose output may be stored.

    Attributes:
        block: the block that the stored state enters.
        pooled: whether the whole tower is stored, its pooling included; `block` is then the number
            of blocks.
    """

    block: int
    pooled: bool = False

    @property
    def is_start(self) -> bool:
        """Whether nothing can be stored."""
        return self.block == 0 and not self.pooled


@final
class Fused(NamedTuple):
    """The output of a fusion strategy.

    Attributes:
        embedding: the fused representation, one vector per sample [B, D].
        logits: [B, C]. Single-label: log-probabilities up to a constant per sample. Multi-label:
            log-odds.
        image_embedding: the image's own pooled vector [B, D]. For `joint`, if `at` is a block of
            the tower: the mean of the tokens that enter it. For `late`: zeros if the image is
            absent.
        text_embedding: the mapped text's pooled vector [B, D]. For `late`: zeros if the text is
            absent.
        answers: the logits [B, C] of classifiers that are trained each by itself, with flags [B]
            that say which rows count for it. `logits` combines them, and the loss of `logits`
            trains only the parameters of the combination.
    """

    embedding: Float[Tensor, "B D"]
    logits: Float[Tensor, "B C"]
    image_embedding: Tensor
    text_embedding: Tensor
    answers: tuple[tuple[Tensor, Tensor], ...] = ()


@final
@dataclass
class FusionOutput(ModelOutput):
    """The output of `FusionClassifier`.

    Attributes:
        loss: mean loss over the batch, a scalar; only where labels were given.
        logits: [B, C].
        embedding: the fused embedding [B, D]; only with `output_embeddings=True`.
        image_embedding: as in `Fused` [B, D]; only with `output_embeddings=True`.
        text_embedding: as in `Fused` [B, D], not mapped if there is no image encoder; only with
            `output_embeddings=True`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    embedding: Tensor | None = None
    image_embedding: Tensor | None = None
    text_embedding: Tensor | None = None
