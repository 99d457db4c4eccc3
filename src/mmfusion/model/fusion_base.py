"""Fusion: the base class of every strategy, with the head and the shapes to build it from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .attention import NARROW, WIDE
from .encoder_image import ImageEncoder
from .encoder_text import TextEncoder
from .mapper import EmbeddingMapper
from .tower import Tower
from .types import Encoded, Fused, Hidden, Lengths
from .validation import check_count


@final
@dataclass(frozen=True)
class TowerShapes:
    """The widths and depths of the towers, from which a strategy builds its parameters.

    Attributes:
        image_dim: width of the image tower's output.
        text_dim: width of the text tower's output.
        mapped_dim: width of the mapped text.
        image_block_dims: width of the state that enters each image block; empty if the tower can
            only run as a whole.
        text_block_dims: the same of the text tower.
        image_blocks: number of blocks of the image tower.
        text_blocks: number of blocks of the text tower.
        takes_tokens: whether foreign tokens may join the image tower's sequence.
        text_takes_tokens: whether they may join the text tower's sequence.
        num_labels: C.
        multi_label: whether each class is decided by itself (sigmoid) instead of against the others
            (softmax).
        head_dropout: probability in [0, 1).
    """

    image_dim: int
    text_dim: int
    mapped_dim: int
    image_block_dims: Sequence[int]
    text_block_dims: Sequence[int]
    image_blocks: int
    text_blocks: int
    takes_tokens: bool
    num_labels: int
    text_takes_tokens: bool = False
    multi_label: bool = False
    head_dropout: float = 0.0

    @classmethod
    def of(cls, image: ImageEncoder, text: TextEncoder, mapped_dim: int, **options: Any) -> Self:
        """Returns the shapes of two encoders.

        Args:
            image: the image encoder.
            text: the text encoder.
            mapped_dim: width of the mapped text.
            **options: `num_labels`, `multi_label` and `head_dropout`.
        """
        return cls(
            image_dim=image.dim,
            text_dim=text.dim,
            mapped_dim=mapped_dim,
            image_block_dims=image.block_dims,
            text_block_dims=text.block_dims,
            image_blocks=image.num_blocks,
            text_blocks=text.num_blocks,
            takes_tokens=image.takes_tokens,
            text_takes_tokens=text.takes_tokens,
            **options,
        )


@final
class Head(nn.Module):
    """The classification head: LayerNorm per vector, concatenation, dropout, linear layer.

    Args:
        dims: width of each vector.
        num_labels: C.
        dropout: probability in [0, 1).

    Example:
        >>> import torch
        >>> Head([3, 2], 4)(torch.zeros(5, 3), torch.zeros(5, 2)).shape
        torch.Size([5, 4])
    """

    def __init__(self, dims: Sequence[int], num_labels: int, dropout: float = 0.0):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(sum(dims), num_labels)

    def set_to_zero(self) -> None:
        """Sets the output layer to zero, so that the logits are zero."""
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, *vectors: Tensor) -> Tensor:
        """Returns the logits [B, C].

        Args:
            *vectors: [B, D] each, in the order of `dims`.
        """
        normed = [norm(vector) for norm, vector in zip(self.norms, vectors, strict=True)]
        return self.out(self.dropout(torch.cat(normed, dim=-1)))


@final
class Probe(nn.Module):
    """A linear classifier of the pooled vectors of the towers, for a warm start.

        logits = W [LN(v_1), ..., LN(v_k), sqrt(D_1) a_1, ..., sqrt(D_k) a_k] + b

    LN is a LayerNorm without parameters. Where modality i is absent, a_i is 1 and LN(v_i) is
    replaced by zeros; elsewhere a_i is 0. The factor sqrt(D_i) gives a_i the norm of LN(v_i), so
    that one strength of regularisation suits both. `mmfusion.fit` solves W and b as a regularised
    regression (linear probing, Kumar et al. 2022, arXiv 2202.10054).

    Args:
        dims: width D_i of each vector.
        num_labels: C.
        dropout: probability in [0, 1) of dropping a feature while training.

    Example:
        >>> import torch
        >>> both = torch.ones(5, dtype=torch.bool)
        >>> Probe([3], 4)([torch.zeros(5, 3)], [both]).shape
        torch.Size([5, 4])
    """

    def __init__(self, dims: Sequence[int], num_labels: int, dropout: float = 0.0):
        super().__init__()
        self.dims = tuple(dims)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(sum(dims) + len(dims), num_labels)

    def forward(self, vectors: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        """Returns the logits [B, C].

        Args:
            vectors: [B, D_i] each, in the order of `dims`.
            present: True where a sample has the modality, [B] each.
        """
        parts, flags = [], []
        for vector, here in zip(vectors, present, strict=True):
            normed = F.layer_norm(vector, vector.shape[-1:])
            here = here[:, None]
            parts.append(torch.where(here, normed, normed.new_zeros(())))
            flags.append((~here).to(normed.dtype) * vector.shape[-1] ** 0.5)
        return self.out(self.dropout(torch.cat([*parts, *flags], dim=-1)))


class Fusion(nn.Module, ABC):
    """How two towers become logits.

    A strategy is made with its options, and gets its parameters by `build`. Unless
    `has_own_probes` is set, the classifier adds the logits of a `Probe` of both towers' pooled
    vectors to those of the strategy. The strategy's own head then starts at zero. So a classifier
    starts with the answer of the probe, and the strategy learns what is missing in it.

    To add one of your own: subclass, pass your options to `super().__init__`, implement `forward`
    (and `build`, where you need other parameters than a head on both pooled vectors), and
    `register_fusion("name", YourFusion)`. `mmfusion.testing.check_fusion` checks it against the
    laws (docs/laws.md).

    Attributes:
        scheme: "early", "early to intermediate", "intermediate" or "late", for documentation.
        summary: what it does, in half a sentence, for documentation.
        options: the options it was made with, as they are saved.
        first_image_block: the first image block in which the strategy acts; `image_blocks` if it
            acts in none.
        first_text_block: the same of the text tower.
        uses_image_tokens: True if it needs the image's tokens; False if the pooled vector is
            enough.
        uses_text_tokens: True if it needs the mapped text's tokens; False if `mapper.pooled` is
            enough.
        needs_stand_in: whether a learned token must stand in for an absent modality.
        acts_in_both_towers: whether it needs two encoders that can be walked block by block.
        has_own_probes: whether the strategy brings the probes that it starts from, so that the
            classifier adds none.
        answers: the names of its probes whose logits `combined` combines; empty if it does not
            combine answers.
    """

    scheme: ClassVar[str] = "intermediate"
    summary: ClassVar[str] = ""
    uses_image_tokens = True
    uses_text_tokens = True
    needs_stand_in = True
    acts_in_both_towers = False
    has_own_probes = False
    answers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **options: Any):
        super().__init__()
        self.options = options
        self.first_image_block = 0
        self.first_text_block = 0

    def build(self, shapes: TowerShapes) -> Self:
        """Returns this strategy with its parameters.

        By default it acts after the last block of both towers, and has a `head` on the pooled
        vectors of image and mapped text.

        Args:
            shapes: widths and depths of the towers.

        Raises:
            ValueError: when an option does not fit the towers.
        """
        self.first_image_block, self.first_text_block = shapes.image_blocks, shapes.text_blocks
        dims = [shapes.image_dim, shapes.mapped_dim]
        self.head = Head(dims, shapes.num_labels, shapes.head_dropout)
        return self

    def build_answers(self, shapes: TowerShapes) -> None:
        """Makes what strategies that combine answers share: a probe per tower, and the prior.

        Args:
            shapes: widths and depths of the towers.
        """
        self.first_image_block, self.first_text_block = shapes.image_blocks, shapes.text_blocks
        self.multi_label = shapes.multi_label
        classes, dropout = shapes.num_labels, shapes.head_dropout
        self.image_probe = Probe([shapes.image_dim], classes, dropout)
        self.text_probe = Probe([shapes.text_dim], classes, dropout)
        self.register_buffer("log_prior", torch.zeros(classes))

    def is_linear(self, mapper: EmbeddingMapper) -> bool:
        """Returns whether the logits are a linear function of the pooled vectors of frozen towers.

        Such a classifier has learned all it can once its probes are solved.

        Args:
            mapper: of the same classifier.
        """
        return False

    def combined(self, scores: Float[Tensor, "K B C"], present: Bool[Tensor, "2 B"]) -> Tensor:
        """Returns the logits [B, C] that combine the logits of several answers.

        Args:
            scores: the logits of each of `answers`.
            present: whether a sample has its image, and its text.
        """
        raise NotImplementedError(f"{type(self).__name__} does not combine answers.")

    @abstractmethod
    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """Returns the fused batch.

        Args:
            image: the image tower, not yet walked.
            text: the text tower, not yet walked.
            mapper: from the text's space into the image's.
        """


def require_image_width(shapes: TowerShapes, name: str) -> None:
    """Refuses a mapped text of another width than the image.

    Args:
        shapes: widths of the towers.
        name: the strategy's name.

    Raises:
        ValueError: when the widths differ.
    """
    if shapes.mapped_dim != shapes.image_dim:
        raise ValueError(
            f"mapper must be one that maps into the image's width ({shapes.image_dim}) for "
            f"{name!r}, got width "
            f"{shapes.mapped_dim}. Use 'linear', 'mlp' or 'cross_attention'."
        )


def require_walked_towers(shapes: TowerShapes, name: str) -> None:
    """Refuses towers that can only run as a whole.

    Args:
        shapes: widths of the towers.
        name: the strategy's name.

    Raises:
        ValueError: when the inside of a tower is unknown.
    """
    for side, dims in (("image", shapes.image_block_dims), ("text", shapes.text_block_dims)):
        if not dims:
            raise ValueError(
                f"{side}_encoder must be a backbone that can be walked block by block "
                f"for {name!r}, got one whose inside is unknown. "
                "Use 'concat', 'cross_attention' or 'late' with it."
            )


def width_of(option: int | None, image_dim: int) -> int:
    """Returns the width that a strategy's option `dim` asks for.

    Args:
        option: the width; None takes that of the image tower, or 256 if that is above 1,024.
        image_dim: width of the image tower's output.

    Raises:
        ValueError: for a width below 1.
    """
    if option is None:
        return image_dim if image_dim <= WIDE else NARROW
    return check_count("dim", option)


def pooled_vectors(image: Tower, text: Tower, mapper: EmbeddingMapper) -> tuple[Tensor, Tensor]:
    """Returns the pooled vectors of the image [B, D] and of the mapped text [B, E].

    Args:
        image: the image tower, walked as far as the strategy acts in it.
        text: the text tower, likewise.
        mapper: from the text's space into the image's.
    """
    own, encoded = image.encode(), text.encode()
    return own.pooled, mapper.pooled(encoded, own, text.lengths_of(encoded))


def side_by_side(
    own: Encoded, mapped: Encoded, own_lengths: Lengths, mapped_lengths: Lengths
) -> Hidden:
    """Returns the image's tokens with the text's behind them.

    Args:
        own: the encoded image.
        mapped: the mapped text, of the same width.
        own_lengths: how many real tokens each image has, where the host knows.
        mapped_lengths: the same of the text.
    """
    tokens = torch.cat([own.tokens, mapped.tokens.to(own.tokens.dtype)], dim=1)
    lengths = None
    if own_lengths is not None and mapped_lengths is not None:
        lengths = [a + b for a, b in zip(own_lengths, mapped_lengths, strict=True)]
    return Hidden(tokens, torch.cat([own.mask, mapped.mask], dim=1), lengths=lengths)
