"""The strategy `cross_attention`: image tokens attend to mapped text tokens."""

from typing import Self, final

import torch
from torch import nn

from .attention import AttentionBlock
from .fusion_base import Fusion, Head, TowerShapes
from .mapper import EmbeddingMapper
from .masking import masked_mean
from .packing import attends_one_by_one, groups_by_length, one_group, ungrouped
from .tower import Tower
from .types import Fused
from .validation import check_gate


@final
class CrossAttention(Fusion):
    """Image tokens attend to the mapped text tokens, and a gate scales the change.

    x' = x + tanh(g) (block(x, text) - x), with g starting at `gate`: small, but not zero, so that
    gradients reach the text. The embedding is the tower's pooled vector, moved by the
    mean of what the tokens took: p + mean(x') - mean(x). The gate is that of Flamingo (Alayrac et
    al. 2022, arXiv 2204.14198, section 2.2), which starts it at zero.

    Args:
        num_heads: attention heads.
        inner_dim: width of the attention; None means the image tower's, or 256 if that is above
            1,024.
        hidden_dim: width of the feed-forward layer; None means 4 x the image tower's, or 512 if
            that is above 1,024.
        gate: where g starts, not 0.
        dropout: probability in [0, 1) inside the block.

    Raises:
        ValueError: (from `build`) if `gate` is 0.
    """

    summary = "image tokens attend to mapped text tokens through a gate that starts small"

    def __init__(
        self,
        num_heads: int = 8,
        inner_dim: int | None = None,
        hidden_dim: int | None = None,
        gate: float = 0.1,
        dropout: float = 0.0,
    ):
        super().__init__(
            num_heads=num_heads,
            inner_dim=inner_dim,
            hidden_dim=hidden_dim,
            gate=gate,
            dropout=dropout,
        )

    def build(self, shapes: TowerShapes) -> Self:
        """Returns this strategy with its parameters."""
        self.first_image_block, self.first_text_block = shapes.image_blocks, shapes.text_blocks
        names = ("num_heads", "inner_dim", "hidden_dim", "dropout")
        widths = {name: self.options[name] for name in names}
        self.block = AttentionBlock(shapes.image_dim, shapes.mapped_dim, **widths)
        self.gate = nn.Parameter(torch.tensor([check_gate(self.options["gate"])]))
        self.head = Head([shapes.image_dim], shapes.num_labels, shapes.head_dropout)
        return self

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """Returns the fused batch."""
        own, encoded = image.encode(), text.encode()
        text_lengths = text.lengths_of(encoded)
        mapped = mapper(encoded, own, text_lengths)
        lengths = mapper.mapped_lengths(text_lengths, image.lengths_of(own))
        if attends_one_by_one(mapped.mask.device):
            # The attention leaves the padding out by itself, and takes the samples in their order.
            groups = one_group(mapped.mask)
        else:
            groups, lengths = groups_by_length(mapped.mask, lengths), None
        means = [
            self.block(
                own.tokens[rows],
                mapped.mask[rows, :end],
                mapped.tokens[rows, :end],
                over=own.mask[rows],
                lengths=lengths,
            )
            for rows, end in groups
        ]
        taken = ungrouped(groups, means) - masked_mean(own.tokens, own.mask)
        embedding = own.pooled + torch.tanh(self.gate) * taken
        return Fused(embedding, self.head(embedding), own.pooled, mapped.pooled)
