"""Fusion: the base class of every strategy, with the head and the shapes to build it from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor, nn

from .mapper import EmbeddingMapper
from .tower import Tower
from .types import Fused


@final
@dataclass(frozen=True)
class TowerShapes:
    """The widths and depths of the towers, from which a strategy builds its parameters.

    Attributes:
        image_dim: width of the image tower's output.
        mapped_dim: width of the mapped text.
        image_block_dims: width of the state that enters each image block; empty if the tower can
            only run as a whole.
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


@final
class Head(nn.Module):
    """The classification head: LayerNorm per vector, concatenation, dropout, linear layer.

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
        """Returns the logits [B, C].

        Args:
            *vectors: [B, D] each, in the order of `dims`.
        """
        normed = [norm(vector) for norm, vector in zip(self.norms, vectors, strict=True)]
        return self.out(self.dropout(torch.cat(normed, dim=-1)))


class Fusion(nn.Module, ABC):
    """How two towers become logits.

    A strategy is made with its options, and gets its parameters by `build`.

    To add one of your own: subclass, pass your options to `super().__init__`, implement `forward`
    (and `build`, where you need other parameters than a head on both pooled vectors), and
    `register_fusion("name", YourFusion)`. `mmfusion.testing.check_fusion` checks it against the
    laws (docs/laws.md).

    Attributes:
        scheme: "early", "early to intermediate", "intermediate" or "late", for documentation.
        summary: what it does, in half a sentence, for documentation.
        options: the options it was made with, as they are saved.
        first_image_block: the first image block in which the strategy acts; `image_blocks` if it
            acts in none.
        first_text_block: the same of the text tower.
        uses_image_tokens: True if it needs the image's tokens; False if the pooled vector is
            enough.
        uses_text_tokens: True if it needs the mapped text's tokens; False if `mapper.pooled` is
            enough.
        needs_stand_in: whether a learned token must stand in for an absent modality.
        acts_in_both_towers: whether it needs two encoders that can be walked block by block.
    """

    scheme: ClassVar[str] = "intermediate"
    summary: ClassVar[str] = ""
    uses_image_tokens = True
    uses_text_tokens = True
    needs_stand_in = True
    acts_in_both_towers = False

    def __init__(self, **options: Any):
        super().__init__()
        self.options = options
        self.first_image_block = 0
        self.first_text_block = 0

    def build(self, shapes: TowerShapes) -> Self:
        """Returns this strategy with its parameters.

        By default it acts after the last block of both towers, and has a `head` on the pooled
        vectors of image and mapped text.

        Args:
            shapes: widths and depths of the towers.

        Raises:
            ValueError: when an option does not fit the towers.
        """
        self.first_image_block, self.first_text_block = shapes.image_blocks, shapes.text_blocks
        dims = [shapes.image_dim, shapes.mapped_dim]
        self.head = Head(dims, shapes.num_labels, shapes.head_dropout)
        return self

    @abstractmethod
    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """Returns the fused batch.

        Args:
            image: the image tower, not yet walked.
            text: the text tower, not yet walked.
            mapper: from the text's space into the image's.
        """


def require_image_width(shapes: TowerShapes, name: str) -> None:
    """Refuses a mapped text of another width than the image.

    Args:
        shapes: widths of the towers.
        name: the strategy's name.

    Raises:
        ValueError: when the widths differ.
    """
    if shapes.mapped_dim != shapes.image_dim:
        raise ValueError(
            f"mapper must be one that maps into the image's width ({shapes.image_dim}) for "
            f"{name!r}, got width "
            f"{shapes.mapped_dim}. Use 'linear', 'mlp' or 'cross_attention'."
        )
