"""What every fusion strategy is: options first, parameters once the towers are known, and a head of its own."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from .mapper import EmbeddingMapper
from .tower import Tower
from .types import Fused


@dataclass(frozen=True)
class TowerShapes:
    """What a strategy must know of the towers to build its parameters.

    Attributes:
        image_dim: width of the image tower's output.
        mapped_dim: width of the mapped text.
        image_block_dims: width of the state entering each image block; empty where the tower cannot
            be entered.
        text_block_dims: the same of the text tower.
        image_blocks: number of blocks of the image tower.
        text_blocks: number of blocks of the text tower.
        takes_tokens: whether foreign tokens may join the image tower's sequence.
        num_labels: C.
        multi_label: whether each class is decided by itself (sigmoid) instead of against the others
            (softmax).
        head_dropout: probability in [0, 1).
    """

    image_dim: int
    mapped_dim: int
    image_block_dims: Sequence[int]
    text_block_dims: Sequence[int]
    image_blocks: int
    text_blocks: int
    takes_tokens: bool
    num_labels: int
    multi_label: bool = False
    head_dropout: float = 0.0


class Head(nn.Module):
    """Logits from one or more vectors: each layer-normed, side by side, dropout, one affine map.

    Args:
        dims: width of each vector.
        num_labels: C.
        dropout: probability in [0, 1).

    Example:
        >>> import torch
        >>> Head([3, 2], 4)(torch.zeros(5, 3), torch.zeros(5, 2)).shape
        torch.Size([5, 4])
    """

    def __init__(self, dims: Sequence[int], num_labels: int, dropout: float = 0.0):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(sum(dims), num_labels)

    def forward(self, *vectors: Tensor) -> Tensor:
        """The logits [B, C] of vectors [B, D] each."""
        normed = [norm(vector) for norm, vector in zip(self.norms, vectors, strict=True)]
        return self.out(self.dropout(torch.cat(normed, dim=-1)))


class Fusion(nn.Module, ABC):
    """How two towers become logits. A strategy is made with its options, and given its parameters by `build`.

    To add one of your own: subclass, pass your options to `super().__init__`, implement `build` and
    `forward`, and `register_fusion("name", YourFusion)`; `mmfusion.testing.check_fusion` holds it
    against the laws.

    Attributes:
        options: the options it was made with, as they are saved.
        first_image_block: the first block of the image tower it acts in (the number of blocks if
            none).
        first_text_block: the same of the text tower.
        uses_image_tokens: whether it needs the image's tokens, not its pooled vector alone.
        uses_text_tokens: whether it needs the mapped text's tokens, not `mapper.pooled` alone.
        needs_stand_in: whether a learned token must stand in for an absent modality.
    """

    uses_image_tokens = True
    uses_text_tokens = True
    needs_stand_in = True

    def __init__(self, **options: Any):
        super().__init__()
        self.options = options
        self.first_image_block = 0
        self.first_text_block = 0

    def _act_after_the_towers(self, shapes: TowerShapes) -> None:
        self.first_image_block, self.first_text_block = shapes.image_blocks, shapes.text_blocks

    @abstractmethod
    def build(self, shapes: TowerShapes) -> Self:
        """This strategy with its parameters.

        Raises:
            ValueError: when an option does not fit the towers.
        """

    @abstractmethod
    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """The fused batch.

        Args:
            image: the image tower, not yet walked.
            text: the text tower, not yet walked.
            mapper: from the text's space into the image's.
        """
