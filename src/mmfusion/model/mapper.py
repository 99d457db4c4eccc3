"""EmbeddingMapper: text embeddings into the image's embedding space."""

from collections.abc import Mapping
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .attention import AttentionBlock, FeedForward
from .masking import masked_mean
from .packing import token_by_token
from .types import Encoded, Lengths
from .validation import check_choice, check_probability

MAPPERS: dict[str, str] = {
    "linear": "one affine map per token",
    "mlp": "two layers with GELU per token",
    "cross_attention": "learned queries, or the image's tokens, attend to the text tokens",
    "identity": "nothing: the text stays as its encoder returned it",
}
"""The table of mappers: name -> what it does to the text."""


@final
class EmbeddingMapper(nn.Module):
    """Text embeddings in the image's space; `pooled` is the mean of the mapped tokens.

    | kind | mapped tokens |
    | --- | --- |
    | `linear` | W t + b, one affine map per text token |
    | `mlp` | W2 gelu(W1 t + b1) + b2 per text token |
    | `cross_attention` | queries, learned or the image's tokens, attend to the text tokens |
    | `identity` | the text tokens unchanged; `pooled` stays the encoder's own |

    Args:
        kind: "linear", "mlp", "cross_attention" or "identity".
        in_dim: width of the text embeddings.
        out_dim: width of the image embeddings (for `identity` equal to `in_dim`).
        num_queries: how many learned queries, hence mapped tokens M, `cross_attention` has.
        queries: "learned", or "image" for one mapped token per image token.
        num_heads: attention heads of `cross_attention`, a divisor of inner_dim.
        inner_dim: width of queries, keys and values over all heads in `cross_attention`; None means
            out_dim, or 256 if that is above 1,024.
        hidden_dim: width between the layers of `mlp` and of `cross_attention`'s feed-forward; None:
            2 * out_dim for `mlp`, 4 * out_dim for `cross_attention`, or 512 for the latter if
            out_dim is above 1,024.
        dropout: probability in [0, 1) while training.

    Raises:
        ValueError: for an unknown kind or kind of queries (the closest is named), or widths that do
            not fit.

    Shape:
        text tokens [B, L, in_dim] -> mapped tokens [B, M, out_dim]; M is L, or the number of
        queries.

    Example:
        >>> import torch
        >>> from mmfusion import Encoded
        >>> mask = torch.ones(2, 5, dtype=torch.bool)
        >>> text = Encoded(torch.zeros(2, 5, 3), mask, torch.zeros(2, 3))
        >>> EmbeddingMapper("linear", 3, 8)(text).tokens.shape
        torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        kind: str,
        in_dim: int,
        out_dim: int,
        *,
        num_queries: int = 16,
        queries: str = "learned",
        num_heads: int = 8,
        inner_dim: int | None = None,
        hidden_dim: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_choice("kind", kind, MAPPERS)
        check_choice("queries", queries, ["learned", "image"])
        if queries == "image" and kind != "cross_attention":
            raise ValueError(
                f"queries must be 'learned' for kind {kind!r}, got 'image'. Only cross_attention "
                "asks queries."
            )
        if kind == "identity" and in_dim != out_dim:
            raise ValueError(
                f"out_dim must be in_dim ({in_dim}) for kind 'identity', got {out_dim!r}. Use kind "
                "'linear'."
            )
        if num_queries < 1:
            raise ValueError(
                f"num_queries must be at least 1, got {num_queries!r}. 16 is the default."
            )
        check_probability("dropout", dropout)
        self.kind, self.in_dim, self.out_dim = kind, in_dim, out_dim
        self.options = {
            "name": kind,
            "num_queries": num_queries,
            "queries": queries,
            "num_heads": num_heads,
            "inner_dim": inner_dim,
            "hidden_dim": hidden_dim,
            "dropout": dropout,
        }
        self.asks_image = queries == "image"
        if kind == "linear":
            self.map = nn.Sequential(nn.Linear(in_dim, out_dim), nn.Dropout(dropout))
        elif kind == "mlp":
            hidden_dim = 2 * out_dim if hidden_dim is None else hidden_dim
            self.map = FeedForward(in_dim, hidden_dim, dropout, out_dim=out_dim)
        elif kind == "cross_attention":
            self.block = AttentionBlock(
                out_dim,
                in_dim,
                num_heads=num_heads,
                inner_dim=inner_dim,
                hidden_dim=hidden_dim,
                dropout=dropout,
            )
            self.norm = nn.LayerNorm(out_dim)
            if not self.asks_image:
                self.queries = nn.Parameter(torch.randn(num_queries, out_dim) * 0.02)

    def forward(
        self, text: Encoded, image: Encoded | None = None, lengths: Lengths = None
    ) -> Encoded:
        """Returns the text in the image's space.

        Args:
            text: tokens [B, L, in_dim] with at least one real token per row.
            image: tokens [B, N, out_dim], needed where the image's tokens are the queries.
            lengths: how many real tokens each text has (`Tower.lengths_of`); None: counted when
                needed, which waits for the device.

        Raises:
            ValueError: when the image's tokens are the queries and no image is given.
        """
        if self.kind == "identity":
            return text
        if self.kind in ("linear", "mlp"):
            tokens = token_by_token(self.map, text.tokens, text.mask, lengths)
            return Encoded(tokens, text.mask, masked_mean(tokens, text.mask))
        queries, mask = self._queries(text, image)
        tokens = self.norm(self.block(queries, text.mask, text.tokens, lengths=lengths))
        return Encoded(tokens, mask, masked_mean(tokens, mask))

    def check_widths(self, text_dim: int, image_dim: int) -> None:
        """Refuses towers of other widths than the mapper's; `identity` is not checked.

        Args:
            text_dim: width of the text tower.
            image_dim: width of the image tower.

        Raises:
            ValueError: when the widths differ.
        """
        if self.kind == "identity" or (self.in_dim, self.out_dim) == (text_dim, image_dim):
            return
        raise ValueError(
            f"mapper must map width {text_dim} (text) to {image_dim} (image), got {self.in_dim} "
            f"to {self.out_dim}. Give its kind as a name, and the widths are inferred."
        )

    def mapped_lengths(self, text: Lengths, image: Lengths) -> Lengths:
        """Returns how many real tokens each row has after mapping, where the host knows.

        Args:
            text: how many each text has.
            image: how many each image has.
        """
        if self.kind != "cross_attention":
            return text
        if self.asks_image or text is None:
            return image if self.asks_image else None
        return [self.queries.shape[0]] * len(text)

    @property
    def is_linear(self) -> bool:
        """Whether the mapped text is a linear function of the text."""
        return self.kind in ("linear", "identity")

    @property
    def maps_the_mean(self) -> bool:
        """Whether `pooled` can be computed from the mean text token (affine map, no dropout)."""
        is_linear = self.kind == "linear" and not self.options["dropout"]
        return is_linear and type(self.map[0]) is nn.Linear

    def pooled(
        self, text: Encoded, image: Encoded | None = None, lengths: Lengths = None
    ) -> Float[Tensor, "B D"]:
        """Returns what `forward` gives as `pooled`, for strategies that need no mapped tokens.

        The mean of W t + b is W mean(t) + b. An affine map therefore computes one vector a sample
        instead of one a token.

        Args:
            text: as for `forward`.
            image: as for `forward`.
            lengths: as for `forward`.
        """
        if self.maps_the_mean:
            # Call the module and not `self.map`, so that forward hooks run.
            mean = masked_mean(text.tokens, text.mask)
            mask = text.mask.any(1, keepdim=True)
            text, lengths = Encoded(mean.unsqueeze(1), mask, text.pooled), None
        pooled: Tensor = self(text, image, lengths).pooled
        return pooled

    def _queries(
        self, text: Encoded, image: Encoded | None
    ) -> tuple[Float[Tensor, "B M D"], Tensor]:
        if not self.asks_image:
            batch = text.tokens.shape[0]
            mask = text.mask.new_ones(batch, self.queries.shape[0])
            return self.queries.to(text.tokens.dtype).expand(batch, -1, -1), mask
        if image is None:
            raise ValueError(
                "image must be given where queries='image', got None. "
                "Use queries='learned' with this strategy."
            )
        return image.tokens, image.mask


def make_mapper(options: Mapping[str, Any], in_dim: int, out_dim: int) -> EmbeddingMapper:
    """Returns the mapper that a config describes.

    Args:
        options: `name`, the kind, and its options.
        in_dim: width of the text.
        out_dim: width of the image; `identity` keeps the text's.

    Raises:
        ValueError: for an unknown kind or option.
    """
    options = dict(options)
    name = options.pop("name")
    try:
        return EmbeddingMapper(name, in_dim, in_dim if name == "identity" else out_dim, **options)
    except TypeError as error:
        raise ValueError(
            f"options of mapper {name!r} must be what EmbeddingMapper takes, got {options!r}: "
            f"{error}."
        ) from error
