"""The strategy `film`: the text scales and shifts the image's features."""

from typing import Self, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fusion_base import Fusion, Head, TowerShapes
from .mapper import EmbeddingMapper
from .tower import Tower
from .types import Fused
from .validation import check_count


@final
class FiLM(Fusion):
    """The text scales and shifts each channel of the image's features before block `at`.

        [g, b] = W_2 relu(W_1 t + b_1) + b_2
        A <- (1 + g) * A + b

    t is the text tower's pooled vector and A what enters the block: the map of a CNN, or the tokens
    of a ViT. W_2 and b_2 start at zero, so the image tower starts as it is. Without a text, the
    features stay as they are. With `with_image`, W_1 takes [mean(A), t], so that the change depends
    on the picture too, as in DAFT. After the tower, the pooled vectors of the image and of the
    mapped text enter the head side by side.

    Source: Perez et al. 2018, FiLM (arXiv 1709.07871), eq. 1 and 2; for `with_image`, Wolf et al.
    2022, DAFT (NeuroImage 260, 119505).

    Args:
        at: 0 .. number of image blocks, which is after the last one. None: before the last block,
            or after the tower if it can only run as a whole.
        with_image: whether the image's mean features have a say in the change.
        hidden_dim: width of the layer between; None means a quarter of what goes in.

    Raises:
        ValueError: (from `build`) if `at` is no such block, or `hidden_dim` is below 1.

    Example:
        >>> FiLM(with_image=True).options
        {'at': None, 'with_image': True, 'hidden_dim': None}
    """

    summary = "the text scales and shifts the image's features before block `at`"
    uses_image_tokens = False
    uses_text_tokens = False

    def __init__(
        self, at: int | None = None, with_image: bool = False, hidden_dim: int | None = None
    ):
        super().__init__(at=at, with_image=with_image, hidden_dim=hidden_dim)

    def build(self, shapes: TowerShapes) -> Self:
        """Returns this strategy with its parameters."""
        depth, dims = shapes.image_blocks, list(shapes.image_block_dims)
        at = self.options["at"]
        if at is None:
            at = depth - 1 if dims else depth
        allowed = range(depth + 1) if dims else (depth,)
        if isinstance(at, bool) or at not in allowed:
            raise ValueError(
                f"at must be in {allowed[0]} .. {depth} (the image tower's blocks), got {at!r}. "
                f"{depth} is after the last one."
            )
        self.at, self.depth = int(at), depth
        self.first_image_block, self.first_text_block = self.at, shapes.text_blocks
        self.with_image: bool = self.options["with_image"]
        self.channels = channels = dims[self.at] if self.at < depth else shapes.image_dim
        width = shapes.text_dim + (channels if self.with_image else 0)
        hidden = self.options["hidden_dim"]
        hidden = max(1, width // 4) if hidden is None else check_count("hidden_dim", hidden)
        self.squeeze = nn.Linear(width, hidden)
        self.change = nn.Linear(hidden, 2 * channels)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)
        widths = [shapes.image_dim, shapes.mapped_dim]
        self.head = Head(widths, shapes.num_labels, shapes.head_dropout)
        return self

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """Returns the fused batch."""
        encoded = text.encode()
        if self.at == self.depth:
            own = image.encode()
            # The pooled vector is a mean of the features, so it changes as they do.
            scale, shift = self._change(own.pooled, encoded.pooled, text)
            own = own._replace(pooled=own.pooled * scale + shift)
        else:
            image.advance(self.at)
            mean = image.squeeze(encoded.pooled.new_zeros(self.channels))
            scale, shift = self._change(mean, encoded.pooled, text)
            image.scale(scale)
            image.shift(shift)
            own = image.finish()
        mapped = mapper.pooled(encoded, own, text.lengths_of(encoded))
        embedding = torch.cat([own.pooled, mapped], dim=-1)
        return Fused(embedding, self.head(own.pooled, mapped), own.pooled, mapped)

    def _change(self, image: Tensor, words: Tensor, text: Tower) -> tuple[Tensor, Tensor]:
        """Returns the factor and the summand of each channel [B, C], 1 and 0 without a text."""
        read = torch.cat([image, words.to(image.dtype)], -1) if self.with_image else words
        change = self.change(F.relu(self.squeeze(read)))
        change = torch.where(text.present[:, None], change, change.new_zeros(()))
        scale, shift = change.chunk(2, dim=-1)
        return 1 + scale, shift
