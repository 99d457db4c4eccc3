"""The strategy `tokens`: a small transformer over the tokens of both towers."""

from typing import Self, final

import torch
import torch.nn.functional as F
from torch import nn

from .attention import AttentionBlock
from .fusion_base import Fusion, Head, TowerShapes, side_by_side
from .mapper import EmbeddingMapper
from .tower import Tower
from .types import Encoded, Fused
from .validation import check_count


@final
class TokenTransformer(Fusion):
    """A small transformer over the tokens of both towers (late-fusion transformer).

        x = [c, P_v v_1 + e_v, ..., P_v v_N + e_v, P_t t_1 + e_t, ..., P_t t_M + e_t]
        x <- block(x), `layers` times

    v_i are the image's tokens, t_j those of the mapped text, P_v and P_t linear layers into the
    width `dim`, e_v and e_t learned vectors that tell the modalities apart, and c a learned token.
    Each block attends to real tokens alone; one learned token stands in for an absent modality. The
    embedding is what becomes of c. The towers stay as they are, so they may be cached as a whole.

    Source: Vaswani et al. 2017 (arXiv 1706.03762) for the blocks, in the form that normalises
    first; the class token and the vectors of the modalities as in ViLT (Kim et al. 2021, arXiv
    2102.03334, section 3).

    Args:
        dim: width of the transformer, at least 1.
        layers: how many blocks, at least 1.
        num_heads: attention heads, a divisor of `dim`.
        dropout: probability in [0, 1) inside the blocks.

    Raises:
        ValueError: (from `build`) if an option is out of range.

    Example:
        >>> TokenTransformer(layers=1).options
        {'dim': 128, 'layers': 1, 'num_heads': 4, 'dropout': 0.0}
    """

    summary = "a small transformer over the tokens of both towers"

    def __init__(self, dim: int = 128, layers: int = 2, num_heads: int = 4, dropout: float = 0.0):
        super().__init__(dim=dim, layers=layers, num_heads=num_heads, dropout=dropout)

    def build(self, shapes: TowerShapes) -> Self:
        """Returns this strategy with its parameters."""
        self.first_image_block, self.first_text_block = shapes.image_blocks, shapes.text_blocks
        dim = check_count("dim", self.options["dim"])
        layers = check_count("layers", self.options["layers"])
        self.from_image = nn.Linear(shapes.image_dim, dim)
        self.from_text = nn.Linear(shapes.mapped_dim, dim)
        # The linear layers bring e_v and e_t as their biases.
        self.first = nn.Parameter(torch.randn(dim) * 0.02)
        options = {name: self.options[name] for name in ("num_heads", "dropout")}
        self.blocks = nn.ModuleList(AttentionBlock(dim, **options) for _ in range(layers))
        self.head = Head([dim], shapes.num_labels, shapes.head_dropout)
        return self

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """Returns the fused batch."""
        own, encoded = image.encode(), text.encode()
        text_lengths, image_lengths = text.lengths_of(encoded), image.lengths_of(own)
        mapped = mapper(encoded, own, text_lengths)
        tokens = self.from_image(own.tokens)
        first = self.first.to(tokens.dtype).expand(image.batch, 1, -1)
        joined = side_by_side(
            Encoded(torch.cat([first, tokens], 1), F.pad(own.mask, (1, 0), value=True), own.pooled),
            mapped._replace(tokens=self.from_text(mapped.tokens)),
            None if image_lengths is None else [length + 1 for length in image_lengths],
            mapper.mapped_lengths(text_lengths, image_lengths),
        )
        sequence, mask = joined.values, joined.mask
        assert mask is not None
        for block in self.blocks:
            sequence = block(sequence, mask, lengths=joined.lengths)
        embedding = sequence[:, 0]
        return Fused(embedding, self.head(embedding), own.pooled, mapped.pooled)
