"""The fusion strategies, each with its head, and the table of their names."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .attention import AttentionBlock
from .configuration import closest
from .encoder_base import Encoder
from .fusion_base import Fusion, Head, TowerShapes
from .mapper import EmbeddingMapper
from .packing import attends_one_by_one, groups_by_length, one_group, ungrouped
from .tower import Tower
from .types import Encoded, Fused, Hidden, masked_mean


class Concat(Fusion):
    """The pooled vectors side by side, then the head (Audebert et al. 2019, arXiv 1907.06370).

    Example:
        >>> Concat().options
        {}
    """

    uses_image_tokens = False
    uses_text_tokens = False

    def __init__(self) -> None:
        super().__init__()

    def build(self, shapes: TowerShapes) -> Self:
        """This strategy with its parameters."""
        self._act_after_the_towers(shapes)
        self.head = Head(
            [shapes.image_dim, shapes.mapped_dim], shapes.num_labels, shapes.head_dropout
        )
        return self

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """The fused batch."""
        seen = image.encode()
        read = mapper.pooled(text.encode(), seen)
        return Fused(
            torch.cat([seen.pooled, read], dim=-1), self.head(seen.pooled, read), seen.pooled, read
        )


class Joint(Fusion):
    """Mapped text tokens join the image tower's sequence before block `at`: 0 is early fusion, later ones are intermediate.

    Through the rest of the tower the tokens of both modalities attend to each other; the image
    tower's own pooling then gives the embedding. With `shared_blocks` the joined sequence passes
    transformer blocks of the strategy's own after the tower, and the mean over all real tokens is
    the embedding.

    Args:
        at: 0 .. number of image blocks. None means the last quarter of a tower that takes foreign
            tokens, else after the tower.
        shared_blocks: transformer blocks after the tower; None means 0, or 1 where `at` is after
            the tower, the least possible there.
        num_heads: attention heads of the shared blocks.
        inner_dim: width of their attention; None means the image tower's.
        hidden_dim: width of their feed-forward layers; None means 4 x the image tower's.

    Raises:
        ValueError: (from `build`) when the tower takes no foreign tokens at `at`, or the mapped
            text has another width.
    """

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
        """This strategy with its parameters."""
        depth = shapes.image_blocks
        at, shared = self.options["at"], self.options["shared_blocks"]
        if at is None:
            at = depth - max(1, depth // 4) if shapes.takes_tokens else depth
        if not isinstance(at, int) or not 0 <= at <= depth:
            raise ValueError(
                f"at must be in 0 .. {depth} (the image tower's blocks), got {at!r}. {depth} is after the last one."
            )
        if at < depth and not shapes.takes_tokens:
            raise ValueError(
                f"at must be {depth} for an image tower that takes no foreign tokens, got {at!r}. Leave it out."
            )
        shared = (1 if at == depth else 0) if shared is None else shared
        if shared < (1 if at == depth else 0):
            raise ValueError(
                f"shared_blocks must be at least {1 if at == depth else 0} with at={at}, got {shared!r}. Leave it out."
            )
        _same_width(shapes, "joint")
        self.at, self.first_image_block, self.first_text_block = at, at, shapes.text_blocks
        widths = {name: self.options[name] for name in ("num_heads", "inner_dim", "hidden_dim")}
        self.blocks = nn.ModuleList(
            AttentionBlock(shapes.image_dim, **widths) for _ in range(shared)
        )
        self.head = Head([shapes.image_dim], shapes.num_labels, shapes.head_dropout)
        return self

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """The fused batch."""
        if self.at == image.encoder.num_blocks:
            seen = image.encode()
            alone = seen.pooled
        else:
            image.advance(self.at)
            seen = image.tokens()
            alone = masked_mean(seen.tokens, seen.mask)
        read = mapper(text.encode(), seen)
        values, mask = _joined(seen, read)
        walks_packed = not len(self.blocks) and image.encoder.can_pack
        groups = one_group(mask) if walks_packed else groups_by_length(mask)
        places = seen.tokens.shape[1]
        embedding = ungrouped(
            groups,
            [
                self._embedded(image.encoder, values[rows, :end], mask[rows, :end], places)
                for rows, end in groups
            ],
        )
        return Fused(embedding, self.head(embedding), alone, read.pooled)

    def _embedded(
        self, encoder: Encoder, values: Tensor, mask: Tensor, image_places: int
    ) -> Tensor:
        """The embedding of joined sequences, from the state that enters block `at`."""
        values = encoder.walk(self.at, encoder.num_blocks, Hidden(values, mask)).values
        if not len(self.blocks):
            # An absent image holds its stand-in at every place, so a mean over places is that of
            # one of them.
            return encoder.pool(Hidden(values[:, :image_places])).pooled
        if self.at < encoder.num_blocks:
            values = encoder.pool(Hidden(values, mask)).tokens
        *blocks, last = self.blocks
        for block in blocks:
            values = block(values, mask)
        embedding: Tensor = last(values, mask, over=mask)
        return embedding


class CrossAttention(Fusion):
    """Image tokens attend to the mapped text tokens, and a gate says how much of that they take.

    x' = x + tanh(g) (block(x, text) - x), with g starting at `gate` (small, not zero, so that both
    sides learn from the first step);
    the embedding is the tower's pooled vector, moved by the mean of what the tokens took: p +
    mean(x') - mean(x). The gate as in Flamingo (Alayrac et al. 2022, arXiv 2204.14198, section
    2.2), which starts it at zero.

    Args:
        num_heads: attention heads.
        inner_dim: width of the attention; None means the image tower's.
        hidden_dim: width of the feed-forward layer; None means 4 x the image tower's.
        gate: where g starts, not 0.
        dropout: probability in [0, 1) inside the block.
    """

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
        """This strategy with its parameters."""
        self._act_after_the_towers(shapes)
        if self.options["gate"] == 0:
            raise ValueError(
                "gate must be other than 0, got 0. A gate at zero lets no gradient through to the text."
            )
        widths = {
            name: self.options[name] for name in ("num_heads", "inner_dim", "hidden_dim", "dropout")
        }
        self.block = AttentionBlock(shapes.image_dim, shapes.mapped_dim, **widths)
        self.gate = nn.Parameter(torch.tensor([float(self.options["gate"])]))
        self.head = Head([shapes.image_dim], shapes.num_labels, shapes.head_dropout)
        return self

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """The fused batch."""
        seen = image.encode()
        read = mapper(text.encode(), seen)
        groups = (
            one_group(read.mask)
            if attends_one_by_one(read.mask.device)
            else groups_by_length(read.mask)
        )
        means = [
            self.block(
                seen.tokens[rows],
                read.mask[rows, :end],
                read.tokens[rows, :end],
                over=seen.mask[rows],
            )
            for rows, end in groups
        ]
        taken = ungrouped(groups, means) - masked_mean(seen.tokens, seen.mask)
        embedding = seen.pooled + torch.tanh(self.gate) * taken
        return Fused(embedding, self.head(embedding), seen.pooled, read.pooled)


class MMTM(Fusion):
    """Both towers squeezed and re-weighted where paired blocks begin (Joze et al. 2019, arXiv 1911.08670, eq. 1 to 4).

    S_A, S_B = means over places; Z = relu(W [S_A, S_B] + b); E_A = W_A Z + b_A, E_B = W_B Z + b_B;
    A <- 2 sigmoid(E_A) * A, the same for B. What leaves the towers is mapped (the text) and meets
    the head side by side. Where a modality is absent a learned vector stands in for its squeeze.

    Args:
        pairs: how many of the last blocks of both towers are paired, last with last.
        blocks: the pairs themselves, [(image block, text block), ...], instead of `pairs`.
        ratio: Z is (C_A + C_B) / ratio wide.

    Raises:
        ValueError: (from `build`) when a tower cannot be entered, or has no such block.
    """

    uses_image_tokens = False
    uses_text_tokens = False

    def __init__(
        self, pairs: int = 2, blocks: Sequence[Sequence[int]] | None = None, ratio: int = 4
    ):
        super().__init__(
            pairs=pairs,
            blocks=None if blocks is None else [list(pair) for pair in blocks],
            ratio=ratio,
        )

    def build(self, shapes: TowerShapes) -> Self:
        """This strategy with its parameters."""
        for side, dims in (("image", shapes.image_block_dims), ("text", shapes.text_block_dims)):
            if not dims:
                raise ValueError(
                    f"{side}_encoder must be a backbone that can be walked block by block for 'mmtm', got one whose inside is "
                    "unknown. Use 'concat', 'cross_attention' or 'late' with it."
                )
        self.blocks = self._pairs(shapes)
        self.first_image_block, self.first_text_block = self.blocks[0]
        self.units = nn.ModuleList(
            MMTMUnit(shapes.image_block_dims[i], shapes.text_block_dims[j], self.options["ratio"])
            for i, j in self.blocks
        )
        self.head = Head(
            [shapes.image_dim, shapes.mapped_dim], shapes.num_labels, shapes.head_dropout
        )
        return self

    def _pairs(self, shapes: TowerShapes) -> list[tuple[int, int]]:
        limits = (shapes.image_blocks, shapes.text_blocks)
        blocks = self.options["blocks"]
        if blocks is None:
            pairs = self.options["pairs"]
            if not isinstance(pairs, int) or not 1 <= pairs <= min(limits):
                raise ValueError(
                    f"pairs must be in 1 .. {min(limits)} (the shorter tower's blocks), got {pairs!r}."
                )
            return [(limits[0] - k, limits[1] - k) for k in range(pairs, 0, -1)]
        rising = all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(blocks))
        within = all(
            len(pair) == 2 and 0 <= pair[0] < limits[0] and 0 <= pair[1] < limits[1]
            for pair in blocks
        )
        if not blocks or not rising or not within:
            raise ValueError(
                f"blocks must be rising pairs of an image block below {limits[0]} and a text block below {limits[1]}, "
                f"got {blocks!r}. For example [[{limits[0] - 1}, {limits[1] - 1}]]."
            )
        return [(int(i), int(j)) for i, j in blocks]

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """The fused batch."""
        unit: MMTMUnit
        for (image_block, text_block), unit in zip(self.blocks, self.units, strict=True):  # type: ignore[assignment]
            image.advance(image_block)
            text.advance(text_block)
            gates = unit(image.squeeze(unit.absent_image), text.squeeze(unit.absent_text))
            image.scale(gates[0])
            text.scale(gates[1])
        seen = image.finish()
        read = mapper.pooled(text.finish(), seen)
        return Fused(
            torch.cat([seen.pooled, read], dim=-1), self.head(seen.pooled, read), seen.pooled, read
        )


class MMTMUnit(nn.Module):
    """The squeeze and excitation of one pair of blocks: two squeezed vectors in, two gates in (0, 2) out."""

    def __init__(self, image_dim: int, text_dim: int, ratio: int):
        super().__init__()
        width = max(1, (image_dim + text_dim) // ratio)
        self.squeeze = nn.Linear(image_dim + text_dim, width)
        self.excite_image = nn.Linear(width, image_dim)
        self.excite_text = nn.Linear(width, text_dim)
        self.absent_image = nn.Parameter(torch.randn(image_dim) * 0.02)
        self.absent_text = nn.Parameter(torch.randn(text_dim) * 0.02)

    def forward(
        self, image: Float[Tensor, "B I"], text: Float[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B I"], Float[Tensor, "B T"]]:
        """The gates of both towers."""
        joint = F.relu(self.squeeze(torch.cat([image, text.to(image.dtype)], dim=-1)))
        return 2 * torch.sigmoid(self.excite_image(joint)), 2 * torch.sigmoid(
            self.excite_text(joint)
        )


class Late(Fusion):
    """A head per modality (the text's after the mapper), their probabilities joined; an absent modality has no say.

    | combine | p(class) |
    | --- | --- |
    | `mean` | sum_m p_m / number of modalities present |
    | `learned` | sum_m w_m p_m, w = softmax of learned weights over the modalities present |
    | `product` | product of experts: prod_m p_m, normalised (Hinton 2002, eq. 1) |

    p_m is the softmax of the modality's logits, or the sigmoid of each of them where labels are
    multi-label. The logits that come back are log p (single-label), or log p - log(1 - p)
    (multi-label).

    Args:
        combine: "mean", "learned" or "product".
    """

    uses_image_tokens = False
    uses_text_tokens = False
    needs_stand_in = False

    def __init__(self, combine: str = "mean"):
        super().__init__(combine=combine)
        allowed = ["mean", "learned", "product"]
        if combine not in allowed:
            raise ValueError(
                f"combine must be one of {allowed}, got {combine!r}. {closest(combine, allowed)}"
            )
        self.combine = combine

    def build(self, shapes: TowerShapes) -> Self:
        """This strategy with its parameters."""
        self._act_after_the_towers(shapes)
        self.multi_label = shapes.multi_label
        self.image_head = Head([shapes.image_dim], shapes.num_labels, shapes.head_dropout)
        self.text_head = Head([shapes.mapped_dim], shapes.num_labels, shapes.head_dropout)
        if self.combine == "learned":
            self.weights = nn.Parameter(torch.zeros(2))
        return self

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """The fused batch."""
        seen = image.encode()
        read = mapper.pooled(text.encode(), seen)
        # float32: under autocast a sum of probabilities in half precision would lose what decides
        # between classes.
        scores = torch.stack([self.image_head(seen.pooled), self.text_head(read)]).float()
        present = torch.stack([image.present, text.present])
        parts = [
            torch.where(tower.present[:, None], pooled, pooled.new_zeros(()))
            for tower, pooled in ((image, seen.pooled), (text, read))
        ]
        return Fused(torch.cat(parts, dim=-1), self._joined(scores, present), *parts)

    def _joined(self, scores: Float[Tensor, "2 B C"], present: Tensor) -> Float[Tensor, "B C"]:
        """The joint logits of the modalities' logits; `present` [2, B]."""
        here = present[:, :, None]
        if self.combine == "product":
            experts = scores if self.multi_label else F.log_softmax(scores, dim=-1)
            return torch.where(here, experts, experts.new_zeros(())).sum(0)
        weights = self.weights.float() if self.combine == "learned" else scores.new_zeros(2)
        log_weights = F.log_softmax(torch.where(present, weights[:, None], float("-inf")), dim=0)[
            :, :, None
        ]
        if not self.multi_label:
            return torch.logsumexp(log_weights + F.log_softmax(scores, dim=-1), dim=0)
        return torch.logsumexp(log_weights + F.logsigmoid(scores), dim=0) - torch.logsumexp(
            log_weights + F.logsigmoid(-scores), dim=0
        )


def _joined(seen: Encoded, read: Encoded) -> tuple[Tensor, Tensor]:
    tokens = torch.cat([seen.tokens, read.tokens.to(seen.tokens.dtype)], dim=1)
    return tokens, torch.cat([seen.mask, read.mask], dim=1)


def _same_width(shapes: TowerShapes, name: str) -> None:
    if shapes.mapped_dim != shapes.image_dim:
        raise ValueError(
            f"mapper must be one that maps into the image's width ({shapes.image_dim}) for {name!r}, got width "
            f"{shapes.mapped_dim}. Use 'linear', 'mlp' or 'cross_attention'."
        )


def make_fusion(name: str, **options: Any) -> Fusion:
    """The strategy called `name`, not yet built.

    Raises:
        ValueError: for an unknown name or option (the closest one is named).

    Example:
        >>> make_fusion("late", combine="product").options
        {'combine': 'product'}
        >>> make_fusion("conact")
        Traceback (most recent call last):
            ...
        ValueError: fusion must be a known strategy, got 'conact'. Did you mean 'concat'?
    """
    if name not in FUSIONS:
        raise ValueError(
            f"fusion must be a known strategy, got {name!r}. {closest(name, list(FUSIONS))}"
        )
    strategy = FUSIONS[name]
    try:
        return strategy(**options)
    except TypeError as error:
        raise ValueError(
            f"options of fusion {name!r} must be what {strategy.__name__} takes, got {options!r}: {error}."
        ) from error


def name_of(fusion: Fusion) -> str:
    """The name under which the class of `fusion` is known.

    Raises:
        ValueError: when it was not registered.
    """
    for name, strategy in FUSIONS.items():
        if type(fusion) is strategy:
            return name
    raise ValueError(
        f"fusion must be of a registered class, got {type(fusion).__name__}. "
        f"Call register_fusion('a-name', {type(fusion).__name__}) first, so that the classifier can be saved and rebuilt."
    )


def register_fusion(name: str, strategy: type[Fusion]) -> None:
    """Make a strategy of your own known by name.

    Raises:
        TypeError: when it is no subclass of Fusion.
        ValueError: when the name is taken.

    Example:
        >>> register_fusion("concat", Concat)  # the same class again does no harm
    """
    if not (isinstance(strategy, type) and issubclass(strategy, Fusion)):
        raise TypeError(
            f"strategy must be a subclass of Fusion, got {strategy!r}. Subclass mmfusion.Fusion."
        )
    if FUSIONS.get(name, strategy) is not strategy:
        raise ValueError(
            f"name must be new, got {name!r}, which {FUSIONS[name].__name__} has. Choose another name."
        )
    FUSIONS[name] = strategy


FUSIONS: dict[str, type[Fusion]] = {
    "concat": Concat,
    "joint": Joint,
    "cross_attention": CrossAttention,
    "mmtm": MMTM,
    "late": Late,
}
"""The table of strategies: name -> class."""
