"""Families of backbones: one small adapter each, so that a tower can be run whole or walked block by block.

A tower is walked as embed -> block 0 .. block n-1 -> pool, and that walk equals the backbone's own
forward. A backbone whose inside is unknown is one block.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .types import Encoded, Hidden


class Family(ABC):
    """How one family of backbones is run.

    Attributes:
        module: the backbone.
        dim: width D of tokens and pooled vector.
        num_blocks: how many blocks the walk has.
        takes_tokens: whether tokens of another modality may join the sequence between two blocks.
        num_prefix: how many tokens (class token, registers) stand before the patches.
    """

    takes_tokens = False
    num_prefix = 0
    # Any: each family reaches for the parts of its own backbone, which nn.Module declares as Tensor
    # | Module.
    module: Any
    layers: Any

    def __init__(self, module: nn.Module, dim: int, num_blocks: int):
        self.module = module
        self.dim = dim
        self.num_blocks = num_blocks

    @abstractmethod
    def forward(self, *inputs: Tensor) -> Encoded:
        """The encoded input, by the backbone's own forward."""

    @abstractmethod
    def embed(self, *inputs: Tensor) -> Hidden:
        """The state that enters block 0."""

    @abstractmethod
    def block(self, index: int, hidden: Hidden) -> Hidden:
        """The state that leaves block `index`."""

    def walk(self, start: int, stop: int, hidden: Hidden) -> Hidden:
        """The state that enters block `stop`, from the one that enters block `start`."""
        for index in range(start, stop):
            hidden = self.block(index, hidden)
        return hidden

    @abstractmethod
    def pool(self, hidden: Hidden) -> Encoded:
        """The encoded input, from the state that leaves the last block."""

    @abstractmethod
    def parts(self) -> tuple[list[list[nn.Module]], list[nn.Module]]:
        """The modules of each block, and those that come after the last one."""

    @abstractmethod
    def block_dims(self) -> list[int]:
        """The width of the state that enters each block; empty where the blocks cannot be entered."""


class OneBlock(Family):
    """A backbone whose inside is unknown: its whole forward is block 0.

    Args:
        module: the backbone.
        dim: width of its output.
        run: called with the module and the inputs; gives the `Encoded`. It holds no module of its
            own, so that a copy runs the copy.
    """

    def __init__(self, module: nn.Module, dim: int, run: Callable[..., Encoded]):
        super().__init__(module, dim, 1)
        self.run = run

    def forward(self, *inputs: Tensor) -> Encoded:
        return self.run(self.module, *inputs)

    def embed(self, *inputs: Tensor) -> Hidden:
        return Hidden(inputs[0], inputs[1].bool() if len(inputs) > 1 else None)

    def block(self, index: int, hidden: Hidden) -> Hidden:
        return Hidden(*self.run(self.module, *(x for x in hidden[:2] if x is not None)))

    def pool(self, hidden: Hidden) -> Encoded:
        assert hidden.mask is not None and hidden.pooled is not None
        return Encoded(hidden.values, hidden.mask, hidden.pooled)

    def parts(self) -> tuple[list[list[nn.Module]], list[nn.Module]]:
        return [[self.module]], []

    def block_dims(self) -> list[int]:
        return []


def features_to_encoded(features: Tensor, dim: int, pooled: Tensor | None = None) -> Encoded:
    """Encoded from a feature map [B, D, H, W] or from tokens [B, N, D]; `pooled` is the mean where none is given.

    Raises:
        ValueError: when the features are not `dim` wide.
    """
    tokens = rearrange(features, "b d h w -> b (h w) d") if features.ndim == 4 else features
    if tokens.shape[-1] != dim:
        raise ValueError(
            f"features must be {dim} wide, got {tuple(features.shape)}. Is the backbone's declared width right?"
        )
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    return Encoded(tokens, mask, tokens.mean(1) if pooled is None else pooled)
