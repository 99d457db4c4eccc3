"""The strategy `mmtm`: both towers are squeezed and re-weighted at paired blocks."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Self, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .fusion_base import Fusion, Head, TowerShapes, pooled_vectors, require_walked_towers
from .mapper import EmbeddingMapper
from .tower import Tower
from .types import Fused
from .validation import check_count


@final
class MMTM(Fusion):
    """The strategy that squeezes and re-weights both towers at the input of paired blocks.

    The unit of one pair takes the features A of one tower and B of the other:

        S_A, S_B = the means of A and B over their places
        Z = relu(W [S_A, S_B] + b)
        E_A = W_A Z + b_A, E_B = W_B Z + b_B
        A <- 2 sigmoid(E_A) * A, B <- 2 sigmoid(E_B) * B

    The output of the text tower is then mapped, and the pooled vectors of both sides enter the head
    side by side. A learned vector replaces the squeeze of a missing modality.

    Source: Joze et al. 2019, arXiv 1911.08670, eq. 1 to 4.

    Args:
        pairs: how many of the last blocks of both towers are paired. The last block is paired with
            the last block.
        blocks: the pairs [(image block, text block), ...], instead of `pairs`.
        ratio: the width of Z is (C_A + C_B) / ratio.

    Raises:
        ValueError: (from `build`) if a tower can only run as a whole, has no such block, or `ratio`
            is no whole number of at least 1.
    """

    summary = "both towers are squeezed and re-weighted at paired blocks"
    uses_image_tokens = False
    uses_text_tokens = False
    acts_in_both_towers = True

    def __init__(
        self, pairs: int = 2, blocks: Sequence[Sequence[int]] | None = None, ratio: int = 4
    ):
        super().__init__(
            pairs=pairs,
            blocks=None if blocks is None else [list(pair) for pair in blocks],
            ratio=ratio,
        )

    def build(self, shapes: TowerShapes) -> Self:
        """Returns this strategy with its parameters.

        Args:
            shapes: the widths and blocks of both towers.

        Raises:
            ValueError: if a tower can only run as a whole, or has no such block.
        """
        require_walked_towers(shapes, "mmtm")
        self.blocks = self._pairs(shapes)
        self.first_image_block, self.first_text_block = self.blocks[0]
        ratio = check_count("ratio", self.options["ratio"])
        self.units = nn.ModuleList(
            MMTMUnit(shapes.image_block_dims[i], shapes.text_block_dims[j], ratio)
            for i, j in self.blocks
        )
        self.head = Head(
            [shapes.image_dim, shapes.mapped_dim], shapes.num_labels, shapes.head_dropout
        )
        return self

    def _pairs(self, shapes: TowerShapes) -> list[tuple[int, int]]:
        """Returns the pairs of blocks that the options ask for."""
        limits = (shapes.image_blocks, shapes.text_blocks)
        blocks = self.options["blocks"]
        if blocks is None:
            pairs = self.options["pairs"]
            if not isinstance(pairs, int) or not 1 <= pairs <= min(limits):
                raise ValueError(
                    f"pairs must be in 1 .. {min(limits)} (the shorter tower's blocks), "
                    f"got {pairs!r}."
                )
            return [(limits[0] - k, limits[1] - k) for k in range(pairs, 0, -1)]
        # A tower only walks forward, so the blocks of a later pair must come later in both towers.
        rising = all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(blocks))
        within = all(
            len(pair) == 2 and 0 <= pair[0] < limits[0] and 0 <= pair[1] < limits[1]
            for pair in blocks
        )
        if not blocks or not rising or not within:
            raise ValueError(
                f"blocks must be rising pairs of an image block below {limits[0]} "
                f"and a text block below {limits[1]}, "
                f"got {blocks!r}. For example [[{limits[0] - 1}, {limits[1] - 1}]]."
            )
        return [(int(i), int(j)) for i, j in blocks]

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """Returns the fused batch.

        Args:
            image: the image tower, before its first block.
            text: the text tower, before its first block.
            mapper: the mapper of the text's embeddings.
        """
        unit: MMTMUnit
        pairs = zip(self.blocks, self.units, strict=True)
        for (image_block, text_block), unit in pairs:  # type: ignore[assignment]
            image.advance(image_block)
            text.advance(text_block)
            gates = unit(image.squeeze(unit.absent_image), text.squeeze(unit.absent_text))
            image.scale(gates[0])
            text.scale(gates[1])
        own, mapped = pooled_vectors(image, text, mapper)
        return Fused(torch.cat([own, mapped], dim=-1), self.head(own, mapped), own, mapped)


@final
class MMTMUnit(nn.Module):
    """The squeeze and excitation of one pair of blocks.

    Shape:
        squeezed image [B, I], squeezed text [B, T] -> gates in (0, 2), [B, I] and [B, T].
    """

    def __init__(self, image_dim: int, text_dim: int, ratio: int):
        super().__init__()
        width = max(1, (image_dim + text_dim) // ratio)
        self.squeeze = nn.Linear(image_dim + text_dim, width)
        self.excite_image = nn.Linear(width, image_dim)
        self.excite_text = nn.Linear(width, text_dim)
        # These replace the squeeze of a missing modality. They are learned.
        self.absent_image = nn.Parameter(torch.randn(image_dim) * 0.02)
        self.absent_text = nn.Parameter(torch.randn(text_dim) * 0.02)

    def forward(
        self, image: Float[Tensor, "B I"], text: Float[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B I"], Float[Tensor, "B T"]]:
        """Returns the gates of both towers.

        Args:
            image: the mean of the image's features over their places.
            text: the mean of the text's features over their places.
        """
        joint = F.relu(self.squeeze(torch.cat([image, text.to(image.dtype)], dim=-1)))
        # Times 2, so that an excitation of 0 leaves the features as they are.
        image_gate = 2 * torch.sigmoid(self.excite_image(joint))
        return image_gate, 2 * torch.sigmoid(self.excite_text(joint))
