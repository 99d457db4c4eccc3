"""The strategy `gated`: a learned gate weighs image and text, channel by channel."""

from typing import Self, final

import torch
from torch import nn

from .fusion_base import Fusion, Head, TowerShapes, pooled_vectors, width_of
from .mapper import EmbeddingMapper
from .tower import Tower
from .types import Fused


@final
class Gated(Fusion):
    """A gate between image and text, for each channel of a common space.

        h_v = tanh(W_v v), h_t = tanh(W_t t)
        z = sigmoid(W_z [v, t])
        h = z * h_v + (1 - z) * h_t

    v is the image's pooled vector and t that of the mapped text. The embedding is h. Where the
    image is absent, z is 0; where the text is absent, z is 1.

    Source: Arevalo et al. 2017, Gated Multimodal Units (arXiv 1702.01992), section 3.1 (the unit
    of two modalities).

    Args:
        dim: width of h; None means the image tower's, or 256 if that is above 1,024.

    Example:
        >>> Gated(dim=64).options
        {'dim': 64}
    """

    summary = "a learned gate weighs both pooled vectors, channel by channel"
    uses_image_tokens = False
    uses_text_tokens = False
    needs_stand_in = False

    def __init__(self, dim: int | None = None):
        super().__init__(dim=dim)

    def build(self, shapes: TowerShapes) -> Self:
        """Returns this strategy with its parameters."""
        self.first_image_block, self.first_text_block = shapes.image_blocks, shapes.text_blocks
        dim = width_of(self.options["dim"], shapes.image_dim)
        self.image = nn.Linear(shapes.image_dim, dim, bias=False)
        self.text = nn.Linear(shapes.mapped_dim, dim, bias=False)
        self.gate = nn.Linear(shapes.image_dim + shapes.mapped_dim, dim, bias=False)
        self.head = Head([dim], shapes.num_labels, shapes.head_dropout)
        return self

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """Returns the fused batch."""
        own, mapped = pooled_vectors(image, text, mapper)
        gate = torch.sigmoid(self.gate(torch.cat([own, mapped], dim=-1)))
        gate = torch.where(text.present[:, None], gate, gate.new_ones(()))
        gate = torch.where(image.present[:, None], gate, gate.new_zeros(()))
        of_image, of_text = torch.tanh(self.image(own)), torch.tanh(self.text(mapped))
        embedding = gate * of_image + (1 - gate) * of_text
        return Fused(embedding, self.head(embedding), own, mapped)
