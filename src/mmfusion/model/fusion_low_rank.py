"""The strategy `low_rank`: a bilinear product of both pooled vectors, of low rank."""

from typing import Self, final

import torch
from einops import rearrange
from torch import Tensor, nn

from .fusion_base import Fusion, Head, TowerShapes, pooled_vectors, width_of
from .mapper import EmbeddingMapper
from .tower import Tower
from .types import Fused
from .validation import check_count


@final
class LowRank(Fusion):
    """A bilinear product of both pooled vectors, written as a sum of `rank` simple ones.

        h = sum_r (W_v^r [v, 1]) * (W_t^r [t, 1])

    v is the image's pooled vector, t that of the mapped text, and * multiplies channel by channel.
    It equals a full bilinear form [v, 1]^T A_c [t, 1] for each channel c whose matrix A_c has the
    rank `rank`. The appended 1 keeps what each modality says alone. An absent modality counts as a
    vector of zeros.

    Source: Liu et al. 2018, Efficient Low-rank Multimodal Fusion (arXiv 1806.00064), section 3.

    Args:
        rank: how many products are added, at least 1.
        dim: width of h; None means the image tower's, or 256 if that is above 1,024.

    Raises:
        ValueError: (from `build`) if `rank` or `dim` is below 1.

    Example:
        >>> LowRank(rank=2).options
        {'rank': 2, 'dim': None}
    """

    summary = "a bilinear product of both pooled vectors, of low rank"
    uses_image_tokens = False
    uses_text_tokens = False
    needs_stand_in = False

    def __init__(self, rank: int = 4, dim: int | None = None):
        super().__init__(rank=rank, dim=dim)

    def build(self, shapes: TowerShapes) -> Self:
        """Returns this strategy with its parameters."""
        self.first_image_block, self.first_text_block = shapes.image_blocks, shapes.text_blocks
        self.rank = check_count("rank", self.options["rank"])
        dim = width_of(self.options["dim"], shapes.image_dim)
        # The bias of each layer is the factor of the appended 1.
        self.image = nn.Linear(shapes.image_dim, self.rank * dim)
        self.text = nn.Linear(shapes.mapped_dim, self.rank * dim)
        self.head = Head([dim], shapes.num_labels, shapes.head_dropout)
        return self

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """Returns the fused batch."""
        own, mapped = pooled_vectors(image, text, mapper)
        # The mapper's bias would make something of an absent text.
        read = torch.where(text.present[:, None], mapped, mapped.new_zeros(()))
        embedding = (self._factors(self.image(own)) * self._factors(self.text(read))).sum(1)
        return Fused(embedding, self.head(embedding), own, mapped)

    def _factors(self, values: Tensor) -> Tensor:
        return rearrange(values, "b (r d) -> b r d", r=self.rank)
