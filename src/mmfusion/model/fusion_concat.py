"""The strategy `concat`: the pooled vectors side by side."""

from typing import final

import torch

from .fusion_base import Fusion, pooled_vectors
from .mapper import EmbeddingMapper
from .tower import Tower
from .types import Fused


@final
class Concat(Fusion):
    """The pooled vectors side by side, then the head (Audebert et al. 2019, arXiv 1907.06370).

    Example:
        >>> Concat().options
        {}
    """

    summary = "pooled vectors side by side, then the head"
    uses_image_tokens = False
    uses_text_tokens = False

    def __init__(self) -> None:
        super().__init__()

    def is_linear(self, mapper: EmbeddingMapper) -> bool:
        """Returns whether the mapper is linear, as the head is."""
        return mapper.is_linear

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """Returns the fused batch."""
        own, mapped = pooled_vectors(image, text, mapper)
        return Fused(torch.cat([own, mapped], dim=-1), self.head(own, mapped), own, mapped)
