"""The strategy `joint`: text tokens join the image tower's sequence."""

from typing import Self, final

from torch import Tensor, nn

from .attention import AttentionBlock
from .fusion_base import Fusion, Head, TowerShapes, require_image_width, side_by_side
from .mapper import EmbeddingMapper
from .masking import masked_mean
from .packing import groups_by_length, longest_first, ungrouped
from .tower import Tower
from .types import Fused, Hidden, Lengths


@final
class Joint(Fusion):
    """Mapped text tokens join the image tower's sequence before block `at`.

    `at=0` is early fusion, a larger `at` is intermediate fusion. From block `at` on, all tokens
    attend to each other. Then the image tower pools the places of its own tokens. The result is the
    embedding. With `shared_blocks`, the strategy runs that many transformer blocks of its own after
    the tower, and the embedding is the mean over all real tokens.

    Args:
        at: 0 .. number of image blocks. None: before the last quarter if the tower takes foreign
            tokens, else after the tower.
        shared_blocks: transformer blocks after the tower; None: 0, or 1 if `at` is after the tower,
            where at least 1 is needed.
        num_heads: attention heads of the shared blocks.
        inner_dim: width of their attention; None means the image tower's, or 256 if that is above
            1,024.
        hidden_dim: width of their feed-forward layers; None means 4 x the image tower's, or 512 if
            that is above 1,024.

    Raises:
        ValueError: (from `build`) when `at` or `shared_blocks` is out of range, the tower takes no
            foreign tokens at `at`, or the mapped text has another width.
    """

    scheme = "early to intermediate"
    summary = "mapped text tokens join the image tower's sequence before block `at`"

    def __init__(
        self,
        at: int | None = None,
        shared_blocks: int | None = None,
        num_heads: int = 8,
        inner_dim: int | None = None,
        hidden_dim: int | None = None,
    ):
        super().__init__(
            at=at,
            shared_blocks=shared_blocks,
            num_heads=num_heads,
            inner_dim=inner_dim,
            hidden_dim=hidden_dim,
        )

    def build(self, shapes: TowerShapes) -> Self:
        """Returns this strategy with its parameters."""
        depth = shapes.image_blocks
        at, shared = self.options["at"], self.options["shared_blocks"]
        if at is None:
            at = depth - max(1, depth // 4) if shapes.takes_tokens else depth
        if not isinstance(at, int) or not 0 <= at <= depth:
            raise ValueError(
                f"at must be in 0 .. {depth} (the image tower's blocks), got {at!r}. {depth} is "
                "after the last one."
            )
        if at < depth and not shapes.takes_tokens:
            raise ValueError(
                f"at must be {depth} for an image tower that takes no foreign tokens, got {at!r}. "
                "Leave it out."
            )
        least = 1 if at == depth else 0
        shared = least if shared is None else shared
        if shared < least:
            raise ValueError(
                f"shared_blocks must be at least {least} with at={at}, got {shared!r}. Leave it "
                "out."
            )
        require_image_width(shapes, "joint")
        self.at, self.depth = at, depth
        self.first_image_block, self.first_text_block = at, shapes.text_blocks
        widths = {name: self.options[name] for name in ("num_heads", "inner_dim", "hidden_dim")}
        self.blocks = nn.ModuleList(
            AttentionBlock(shapes.image_dim, **widths) for _ in range(shared)
        )
        self.head = Head([shapes.image_dim], shapes.num_labels, shapes.head_dropout)
        return self

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """Returns the fused batch."""
        if self.at == self.depth:
            own = image.encode()
            alone = own.pooled
        else:
            image.advance(self.at)
            own = image.tokens()
            alone = masked_mean(own.tokens, own.mask)
        encoded = text.encode()
        text_lengths = text.lengths_of(encoded)
        image_lengths = image.lengths_of(own)
        mapped = mapper(encoded, own, text_lengths)
        mapped_lengths = mapper.mapped_lengths(text_lengths, image_lengths)
        joined = side_by_side(own, mapped, image_lengths, mapped_lengths)
        embedding = self._embedding(image, joined, own.tokens.shape[1], mapped_lengths)
        if image.pooled is None:
            # The tower was walked on with foreign tokens, so only this vector came out of it.
            image.pooled = embedding
        return Fused(embedding, self.head(embedding), alone, mapped.pooled)

    def _embedding(
        self, image: Tower, joined: Hidden, places: int, mapped_lengths: Lengths
    ) -> Tensor:
        """Returns the embedding; the image's tokens are the first `places` of each sequence."""
        mask = joined.mask
        assert mask is not None
        # Order in a row: image places, then real mapped tokens, then padding.
        ends = None if mapped_lengths is None else [places + n for n in mapped_lengths]
        packs = not len(self.blocks) and image.packs_joined
        groups = groups_by_length(mask, ends, whole=packs or image.keeps_whole)
        lengths = joined.lengths
        if len(groups) > 1 and lengths is not None and ends is not None:
            lengths = [lengths[row] for row in longest_first(ends)]
        embeddings, first = [], 0
        for rows, end in groups:
            group = Hidden(joined.values[rows, :end], mask[rows, :end])
            if lengths is not None:
                following = first + len(group.values)
                group, first = group._replace(lengths=lengths[first:following]), following
            embeddings.append(self._group_embedding(image, group, places))
        return ungrouped(groups, embeddings)

    def _group_embedding(self, image: Tower, joined: Hidden, places: int) -> Tensor:
        walked = image.walk_joined(joined, self.at)
        if not len(self.blocks):
            assert joined.mask is not None
            own = Hidden(walked.values[:, :places], joined.mask[:, :places])
            return image.pool_joined(own)
        values = walked.values if self.at == self.depth else image.norm_joined(walked)
        mask, lengths = joined.mask, joined.lengths
        *blocks, last = self.blocks
        for block in blocks:
            values = block(values, mask, lengths=lengths)
        embedding: Tensor = last(values, mask, over=mask, lengths=lengths)
        return embedding
