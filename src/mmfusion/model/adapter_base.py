"""Adapters: one for each family of backbones, so that a tower runs whole or block by block.

A walk is embed -> block 0 .. block n-1 -> pool. It equals the backbone's own forward. A backbone
whose inside is unknown is one block.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, final

import torch
from einops import rearrange
from torch import Tensor, nn

from .packing import Packing
from .types import Encoded, Hidden, Lengths


class Adapter(ABC):
    """How one family of backbones is run.

    Attributes:
        module: the backbone.
        dim: width D of tokens and pooled vector.
        num_blocks: how many blocks the walk has.
        takes_tokens: whether tokens of another modality may join the sequence between two blocks.
        packs: whether it implements `walk_packed` (text families also `forward_packed`).
        keeps_mask: whether the output mask equals the input mask (all True if there was none).
        num_prefix: how many tokens (class token, registers) stand before the patches.
        has_class_token: whether the first of those is a class token.
    """

    takes_tokens = False
    packs = False
    keeps_mask = True
    # Any: each adapter reaches for parts of its own backbone, which nn.Module declares as Tensor |
    # Module.
    module: Any
    layers: Any

    def __init__(self, module: nn.Module, dim: int, num_blocks: int):
        self.module = module
        self.dim = dim
        self.num_blocks = num_blocks
        self.num_prefix, self.has_class_token = prefix_tokens(module)

    @abstractmethod
    def forward(self, *inputs: Tensor, lengths: Lengths = None) -> Encoded:
        """Returns the encoded input, by the backbone's own forward.

        Args:
            *inputs: pixels, or token ids and mask.
            lengths: how many real tokens each text has, where the host knows.
        """

    @abstractmethod
    def embed(self, *inputs: Tensor) -> Hidden:
        """Returns the state that enters block 0."""

    @abstractmethod
    def block(self, index: int, hidden: Hidden) -> Hidden:
        """Returns the state that leaves block `index`."""

    @abstractmethod
    def pool(self, hidden: Hidden) -> Encoded:
        """Returns the encoded input, from the state that leaves the last block."""

    @abstractmethod
    def parts(self) -> tuple[list[list[nn.Module]], list[nn.Module]]:
        """Returns the modules of each block, and those that come after the last one."""

    @abstractmethod
    def block_dims(self) -> list[int]:
        """Returns the width of the state that enters each block.

        The list is empty if the backbone can only run as a whole.
        """

    def walk(self, start: int, stop: int, hidden: Hidden) -> Hidden:
        """Returns the state that enters block `stop`, from the one that enters block `start`."""
        for index in range(start, stop):
            hidden = self.block(index, hidden)
        return hidden

    def forward_packed(self, input_ids: Tensor, mask: Tensor, packing: Packing) -> Encoded:
        """Returns what `forward` gives, computed on the real tokens alone; zero in the padding."""
        raise NotImplementedError(f"{type(self).__name__} does not pack inputs.")

    def walk_packed(self, start: int, stop: int, hidden: Hidden, packing: Packing) -> Hidden:
        """Returns what `walk` gives, computed on the real tokens alone; zero in the padding."""
        raise NotImplementedError(f"{type(self).__name__} does not pack hidden states.")


@final
class OneBlock(Adapter):
    """A backbone whose inside is unknown: its whole forward is block 0.

    Args:
        module: the backbone.
        dim: width of its output.
        run: called with the module and the inputs; returns the `Encoded`. It holds no module of its
            own, so that a copy of the adapter runs the copied module.
        keeps_mask: as for `Adapter`; False for a module that may return a mask of its own.
    """

    def __init__(
        self,
        module: nn.Module,
        dim: int,
        run: Callable[..., Encoded],
        *,
        keeps_mask: bool = True,
    ):
        super().__init__(module, dim, 1)
        self.run = run
        self.keeps_mask = keeps_mask

    def forward(self, *inputs: Tensor, lengths: Lengths = None) -> Encoded:
        return self.run(self.module, *inputs)

    def embed(self, *inputs: Tensor) -> Hidden:
        return Hidden(inputs[0], inputs[1].bool() if len(inputs) > 1 else None)

    def block(self, index: int, hidden: Hidden) -> Hidden:
        inputs = (hidden.values,) if hidden.mask is None else (hidden.values, hidden.mask)
        encoded = self.run(self.module, *inputs)
        lengths = hidden.lengths if self.keeps_mask else None
        return Hidden(encoded.tokens, encoded.mask, encoded.pooled, lengths)

    def pool(self, hidden: Hidden) -> Encoded:
        assert hidden.mask is not None and hidden.pooled is not None
        return Encoded(hidden.values, hidden.mask, hidden.pooled)

    def parts(self) -> tuple[list[list[nn.Module]], list[nn.Module]]:
        return [[self.module]], []

    def block_dims(self) -> list[int]:
        return []


def features_to_encoded(features: Tensor, dim: int, pooled: Tensor | None = None) -> Encoded:
    """Returns `Encoded` from a feature map [B, D, H, W], tokens [B, N, D] or one vector [B, D].

    One vector per sample is the only token.

    Args:
        features: of the backbone.
        dim: D.
        pooled: [B, D]; None takes the mean of the tokens.

    Raises:
        ValueError: when the features are not `dim` wide.
    """
    tokens = rearrange(features, "b d h w -> b (h w) d") if features.ndim == 4 else features
    if tokens.ndim == 2:
        tokens = rearrange(tokens, "b d -> b 1 d")
    if tokens.ndim != 3 or tokens.shape[-1] != dim:
        raise ValueError(
            f"features must be [B, N, {dim}], [B, {dim}, H, W] or [B, {dim}], got "
            f"{tuple(features.shape)}. Is the backbone's declared width right?"
        )
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    return Encoded(tokens, mask, tokens.mean(1) if pooled is None else pooled)


def prefix_tokens(module: Any) -> tuple[int, bool]:
    """Returns how many tokens stand before the patches, and whether the first is a class token.

    If the module has `num_prefix_tokens`, the number is read from it. timm's vision transformers
    have this attribute, and a custom module may have it. Otherwise the parameters of the embeddings
    are counted, and the config's registers are added. transformers' vision models have these. Most
    other backbones have no such tokens.

    Args:
        module: an image or text backbone.
    """
    embeddings = getattr(module, "embeddings", module)
    class_names = ("cls_token", "class_embedding")
    has_class = any(getattr(embeddings, name, None) is not None for name in class_names)
    count = getattr(module, "num_prefix_tokens", None)
    if count is not None:
        return int(count), has_class
    names = (*class_names, "distillation_token")
    registers = getattr(getattr(module, "config", None), "num_register_tokens", 0) or 0
    return sum(getattr(embeddings, name, None) is not None for name in names) + registers, has_class
