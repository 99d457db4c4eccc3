"""The strategy `bottleneck`: a few shared tokens carry everything between the towers."""

from collections.abc import Sequence
from typing import Any, Self, final

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from .attention import NARROW, Attention, AttentionBlock
from .fusion_base import Fusion, Head, TowerShapes, pooled_vectors, require_walked_towers
from .graph import is_tracing
from .mapper import EmbeddingMapper
from .tower import Tower
from .types import Fused, Hidden, Lengths
from .validation import check_count, check_gate


@final
class Bottleneck(Fusion):
    """A few shared tokens carry everything between the towers in their last blocks.

    The bottleneck tokens z pass the last `layers` blocks of both towers. In block l, tower i has
    the tokens x_i:

        [x_i, y_i] <- block_i([x_i, P_i z])
        z <- z + mean over i of Q_i (y_i - P_i z)

    P_i and Q_i are linear layers into the width of the tower and back. Where a tower is as wide as
    z they are left out, and with towers of one width these are the equations of the paper: z <-
    mean of y_i. A tower whose blocks take no foreign tokens (a CNN, whose cells pass as tokens) has
    a unit of its own at the input of each block:

        y_i = transformer_block(z, attending to x_i)
        x_i <- x_i + tanh(g_i) attention(x_i, attending to z)

    and its change of z is y_i - z. An absent modality has no part in the mean. The pooled vectors
    of the image and of the mapped text, and the mean of z, enter the head side by side.

    Source: Nagrani et al. 2021, Attention Bottlenecks for Multimodal Fusion (arXiv 2107.00135),
    section 3. There the class tokens alone enter the heads; z enters here, so that one block
    suffices.

    Args:
        num_tokens: how many bottleneck tokens, at least 1.
        layers: in how many of the last blocks they pass, from 1 to the blocks of the shorter tower.
            None: a third of the shorter tower, at most 4.
        dim: width of the bottleneck tokens, at least 1; None means the text tower's.
        num_heads: attention heads of the units, at least 1.
        gate: where g_i starts, not 0.

    Raises:
        ValueError: (from `build`) if a tower can only run as a whole, or an option is out of range.

    Example:
        >>> Bottleneck(num_tokens=2).options
        {'num_tokens': 2, 'layers': None, 'dim': None, 'num_heads': 4, 'gate': 0.1}
    """

    summary = "a few shared tokens pass the last blocks of both towers"
    uses_image_tokens = False
    uses_text_tokens = False
    acts_in_both_towers = True

    def __init__(
        self,
        num_tokens: int = 4,
        layers: int | None = None,
        dim: int | None = None,
        num_heads: int = 4,
        gate: float = 0.1,
    ):
        super().__init__(
            num_tokens=num_tokens, layers=layers, dim=dim, num_heads=num_heads, gate=gate
        )

    def build(self, shapes: TowerShapes) -> Self:
        """Returns this strategy with its parameters."""
        require_walked_towers(shapes, "bottleneck")
        most = min(shapes.image_blocks, shapes.text_blocks)
        layers = self.options["layers"]
        layers = min(4, max(1, most // 3)) if layers is None else check_count("layers", layers)
        if layers > most:
            raise ValueError(
                f"layers must be in 1 .. {most} (the shorter tower's blocks), got {layers!r}."
            )
        dim = self.options["dim"]
        dim = shapes.text_dim if dim is None else check_count("dim", dim)
        self.first_image_block = shapes.image_blocks - layers
        self.first_text_block = shapes.text_blocks - layers
        self.layers = layers
        self.start = nn.Parameter(
            torch.randn(check_count("num_tokens", self.options["num_tokens"]), dim) * 0.02
        )
        units: dict[str, Any] = {
            "num_heads": check_count("num_heads", self.options["num_heads"]),
            "gate": check_gate(self.options["gate"]),
        }
        self.image_side = BottleneckSide(
            dim, shapes.image_block_dims[-layers:], shapes.takes_tokens, **units
        )
        self.text_side = BottleneckSide(
            dim, shapes.text_block_dims[-layers:], shapes.text_takes_tokens, **units
        )
        widths = [shapes.image_dim, shapes.mapped_dim, dim]
        self.head = Head(widths, shapes.num_labels, shapes.head_dropout)
        return self

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """Returns the fused batch."""
        # Each sample has a modality at least, so this is never zero.
        count = image.present.to(self.start.dtype) + text.present.to(self.start.dtype)
        count = rearrange(count, "b -> b 1 1")
        tokens = self.start.expand(image.batch, -1, -1)
        for layer in range(self.layers):
            image.advance(self.first_image_block + layer)
            text.advance(self.first_text_block + layer)
            change = self.image_side(image, tokens, layer) + self.text_side(text, tokens, layer)
            tokens = tokens + change / count
        own, mapped = pooled_vectors(image, text, mapper)
        vectors = (own, mapped, tokens.mean(1).to(own.dtype))
        return Fused(torch.cat(vectors, dim=-1), self.head(*vectors), own, mapped)


@final
class BottleneckSide(nn.Module):
    """What the bottleneck tokens exchange with one tower, block by block.

    Args:
        dim: width E of the bottleneck tokens.
        widths: of the state that enters each block.
        takes_tokens: whether the bottleneck tokens may pass the tower's own blocks.
        num_heads: attention heads of the units, where they may not.
        gate: where the gates of the units start.
    """

    def __init__(
        self, dim: int, widths: Sequence[int], takes_tokens: bool, *, num_heads: int, gate: float
    ):
        super().__init__()
        self.takes_tokens = takes_tokens
        if takes_tokens:
            # The blocks of such a tower have one width. Without biases, so that an absent modality
            # changes nothing.
            same = widths[0] == dim
            self.enter = nn.Identity() if same else nn.Linear(dim, widths[0], bias=False)
            self.leave = nn.Identity() if same else nn.Linear(widths[0], dim, bias=False)
        else:
            self.units = nn.ModuleList(
                BottleneckUnit(dim, width, num_heads=num_heads, gate=gate) for width in widths
            )

    def forward(
        self, tower: Tower, tokens: Float[Tensor, "B M E"], layer: int
    ) -> Float[Tensor, "B M E"]:
        """Returns how the next block of a tower changes the bottleneck tokens.

        Args:
            tower: walked to that block.
            tokens: the bottleneck tokens that enter it.
            layer: the number of the block among those that the tokens pass.
        """
        if not self.takes_tokens:
            return tower.meet(tokens, self.units[layer]).to(tokens.dtype)
        change = tower.attend(self.enter(tokens))
        return self.leave(change).to(tokens.dtype)


@final
class BottleneckUnit(nn.Module):
    """The exchange between bottleneck tokens and one block that takes no foreign tokens.

    Args:
        dim: width E of the bottleneck tokens.
        width: of the state that enters the block.
        num_heads: attention heads.
        gate: where the gate starts, not 0.
    """

    def __init__(self, dim: int, width: int, *, num_heads: int, gate: float):
        super().__init__()
        # Narrow, because a stage of a CNN may have many cells.
        inner_dim = num_heads * max(1, min(dim, width, NARROW) // (2 * num_heads))
        self.read = AttentionBlock(
            dim, width, num_heads=num_heads, inner_dim=inner_dim, hidden_dim=dim
        )
        self.norm = nn.LayerNorm(width)
        self.norm_tokens = nn.LayerNorm(dim)
        self.write = Attention(width, dim, num_heads=num_heads, inner_dim=inner_dim)
        self.gate = nn.Parameter(torch.tensor([gate]))

    def forward(self, hidden: Hidden, tokens: Tensor) -> tuple[Hidden, Tensor]:
        """Returns the state with what it takes from the tokens, and the change of the tokens.

        Args:
            hidden: the state that enters the block, R rows.
            tokens: bottleneck tokens of each row [R, M, E].
        """
        values, height = hidden.values, hidden.values.shape[-2]
        if values.ndim == 4:
            values = rearrange(values, "b c h w -> b (h w) c")
        mask, lengths = hidden.mask, hidden.lengths
        if mask is None:
            mask, lengths = _all_real(values)
        change = self.read(tokens, mask, values, lengths=lengths) - tokens
        taken = self.write(self.norm(values), self.norm_tokens(tokens), *_all_real(tokens))
        values = values + torch.tanh(self.gate) * taken
        if hidden.values.ndim == 4:
            values = rearrange(values, "b (h w) c -> b c h w", h=height)
        return hidden._replace(values=values.to(hidden.values.dtype)), change


def _all_real(tokens: Tensor) -> tuple[Tensor, Lengths]:
    """Returns the mask of tokens without padding [R, N], and how many each row has."""
    rows, places = tokens.shape[:2]
    mask = torch.ones(rows, places, dtype=torch.bool, device=tokens.device)
    # In a graph, the number of rows is no number of the host.
    return mask, None if is_tracing() else [places] * rows
