"""The masked attention that mappers and fusion strategies share."""

from typing import final

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .masking import masked_mean, without_padding
from .packing import Packing, attends_one_by_one, packing_of
from .types import Lengths

WIDE, NARROW = 1024, 256
"""From which width on layers of this library get narrow ones by default, and their width."""


@final
class Attention(nn.Module):
    """Multi-head attention over the real tokens of a context.

    softmax(Q K^T / sqrt(d)) V per head (Vaswani et al. 2017, eq. 1), with padding left out of the
    softmax. The key projection has no bias: a key bias adds the same number to every score of a
    query, and the softmax cancels it.

    Args:
        dim: width of queries and output.
        context_dim: width of the context; None means `dim`.
        num_heads: a divisor of `inner_dim`.
        inner_dim: width of queries, keys and values over all heads; None means `dim`. A smaller one
            makes attention between wide embeddings cheap.
        dropout: probability in [0, 1) of dropping an attention weight while training.

    Raises:
        ValueError: when `inner_dim` is not a multiple of `num_heads`.

    Example:
        >>> import torch
        >>> attention = Attention(8, num_heads=2)
        >>> mask = torch.ones(1, 5, dtype=torch.bool)
        >>> attention(torch.zeros(1, 3, 8), torch.zeros(1, 5, 8), mask).shape
        torch.Size([1, 3, 8])
    """

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        *,
        num_heads: int = 8,
        inner_dim: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        inner_dim = dim if inner_dim is None else inner_dim
        if num_heads < 1 or inner_dim < 1 or inner_dim % num_heads:
            divisors = [h for h in range(1, min(inner_dim, 64) + 1) if inner_dim % h == 0]
            raise ValueError(
                f"num_heads must be a divisor of the width {inner_dim}, got {num_heads!r}. "
                f"Choose one of {divisors}."
            )
        context_dim = dim if context_dim is None else context_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(dim, inner_dim)
        self.key = nn.Linear(context_dim, inner_dim, bias=False)
        self.value = nn.Linear(context_dim, inner_dim)
        self.out = nn.Linear(inner_dim, dim)

    def forward(
        self,
        queries: Float[Tensor, "B Q D"],
        context: Float[Tensor, "B K E"],
        mask: Bool[Tensor, "B K"],
        lengths: Lengths = None,
    ) -> Float[Tensor, "B Q D"]:
        """Returns for each query what it takes from the context.

        Args:
            queries: [B, Q, D].
            context: [B, K, E].
            mask: True where a context token is real; at least one per row.
            lengths: how many real tokens each row of the context has; None: counted here on a CPU.
        """
        dropout = self.dropout if self.training else 0.0
        packing = None
        if attends_one_by_one(context.device):
            packing = packing_of(mask, lengths=lengths, always=False)
        if packing is not None:
            return self.out(self._one_by_one(queries, packing.pack(context), packing, dropout))
        # The padding may hold NaN or infinity. A masked score (NaN - inf) and a weight of zero (0 *
        # NaN) would both let it through.
        context = without_padding(context, mask)
        q, k, v = (
            self._heads(x) for x in (self.query(queries), self.key(context), self.value(context))
        )
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=rearrange(mask, "b k -> b 1 1 k"), dropout_p=dropout
        )
        return self.out(rearrange(attended, "b h n d -> b n (h d)"))

    def _one_by_one(self, queries: Tensor, row: Tensor, packing: Packing, dropout: float) -> Tensor:
        """Returns attention sample by sample, with the real context tokens in a row [1, T, E]."""
        q = self._heads(self.query(queries)).split(1)
        k, v = (
            self._heads(x).split(packing.lengths, dim=2) for x in (self.key(row), self.value(row))
        )
        attended = [
            F.scaled_dot_product_attention(*sample, dropout_p=dropout)
            for sample in zip(q, k, v, strict=True)
        ]
        # Transpose before concatenating, to avoid a second copy.
        return torch.cat([rearrange(sample, "1 h n d -> 1 n (h d)") for sample in attended])

    def _heads(self, values: Tensor) -> Tensor:
        return rearrange(values, "b n (h d) -> b h n d", h=self.num_heads)


@final
class FeedForward(nn.Sequential):
    """Two linear layers with GELU between them: W2 gelu(W1 x + b1) + b2.

    Args:
        dim: width in.
        hidden_dim: width between; None means 4 x dim.
        dropout: probability in [0, 1) after each layer while training.
        out_dim: width out; None means `dim`.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int | None = None,
        dropout: float = 0.0,
        *,
        out_dim: int | None = None,
    ):
        hidden_dim = 4 * dim if hidden_dim is None else hidden_dim
        super().__init__(
            nn.Linear(dim, hidden_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, dim if out_dim is None else out_dim),
            nn.Dropout(dropout),
        )

    @property
    def ends_linearly(self) -> bool:
        """Whether the mean of the outputs equals the last layer applied to the mean of its inputs.

        False if an adapter has replaced the last layer: LoRA's may drop features token by token.
        False, too, while the dropout after the last layer is active.
        """
        drops = self.training and isinstance(self[4], nn.Dropout) and self[4].p > 0
        return type(self[3]) is nn.Linear and not drops


@final
class AttentionBlock(nn.Module):
    """A pre-norm transformer block.

    x <- x + attention(norm(x), context), then x <- x + feed_forward(norm(x)).
    With no context given, the tokens attend to themselves.

    Args:
        dim: width of the tokens.
        context_dim: width of the context; None builds a block of self-attention.
        num_heads: a divisor of `inner_dim`.
        inner_dim: width of queries, keys and values over all heads; None means `dim`, or about 256
            if `dim` is above 1,024.
        hidden_dim: width of the feed-forward layer; None means 4 x dim, or 512 if `dim` is above
            1,024.
        dropout: probability in [0, 1).
    """

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        *,
        num_heads: int = 8,
        inner_dim: int | None = None,
        hidden_dim: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        # Wide embeddings come from convolutional networks. Attention of their width would take far
        # longer than the network itself.
        if dim > WIDE and num_heads >= 1:
            narrow = num_heads * max(1, NARROW // num_heads)
            inner_dim = narrow if inner_dim is None else inner_dim
            hidden_dim = 2 * NARROW if hidden_dim is None else hidden_dim
        self.norm = nn.LayerNorm(dim)
        self.norm_context = None if context_dim is None else nn.LayerNorm(context_dim)
        self.attention = Attention(
            dim, context_dim, num_heads=num_heads, inner_dim=inner_dim, dropout=dropout
        )
        self.norm_out = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, hidden_dim, dropout)

    def forward(
        self,
        tokens: Float[Tensor, "B Q D"],
        mask: Bool[Tensor, "B K"],
        context: Float[Tensor, "B K E"] | None = None,
        over: Bool[Tensor, "B Q"] | None = None,
        lengths: Lengths = None,
    ) -> Tensor:
        """Returns the tokens after attending [B, Q, D], or their mean [B, D].

        The mean of W2 h + b2 is W2 mean(h) + b2. For a mean, the last layer therefore computes one
        vector a sample.

        Args:
            tokens: [B, Q, D].
            mask: which tokens of the context are real, or of `tokens` if there is no context; at
                least one per row.
            context: [B, K, E]; required if the block was built with a `context_dim`, else None.
            over: the tokens whose mean is asked for, at least one per row; None asks for all
                tokens.
            lengths: how many tokens of `mask` are real in each row; None: counted here on a CPU.
        """
        normed = self.norm(tokens)
        if self.norm_context is not None and context is not None:
            attended_to = self.norm_context(context)
        else:
            attended_to = normed
        tokens = tokens + self.attention(normed, attended_to, mask, lengths)
        inner = self.norm_out(tokens)
        plain = type(self.feed_forward) is FeedForward and self.feed_forward.ends_linearly
        if over is None or not plain:
            tokens = tokens + self.feed_forward(inner)
            return tokens if over is None else masked_mean(tokens, over)
        *first, last, _ = self.feed_forward
        for layer in first:
            inner = layer(inner)
        return masked_mean(tokens, over) + last(masked_mean(inner, over))
