"""Which words each region of a picture attends to, where a cross-attention joins the two."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import sqrt
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ..model.attention import Attention, AttentionBlock
from ..model.modeling import FusionClassifier
from .attention_maps import grid_of
from .explain_gradients import Inputs
from .explain_words import Reading


def region_words(
    model: FusionClassifier, inputs: Inputs, reading: Reading
) -> list[Float[Tensor, "words h w"]]:
    """Returns how much each region of each picture attends to each word.

    The weights are means over the heads. Those of the tokens of a word are added. Over all words of
    a region they sum to 1, less what the special tokens take. Where learned queries stand between
    the two (a mapper "cross_attention" before a strategy "cross_attention"), the two matrices are
    multiplied.

    Args:
        model: the classifier.
        inputs: of one sample with a picture and a text.
        reading: which token belongs to which word.

    Returns:
        one map per word for each picture. An empty list if no region attends to the words: the
        classifier has no cross-attention, or only one whose queries are learned, or the picture is
        a single token.
    """
    encoder = model.image_encoder
    assert encoder is not None
    with torch.no_grad(), _recorded(model.mapper) as mapped, _recorded(model.fusion) as joined:
        model(**inputs)
    if not model.fusion.uses_text_tokens:
        # The attention of such a strategy is not that of the picture's tokens to the words.
        joined = []
    weights: Tensor | None = None
    if mapped and (joined or model.mapper.asks_image):
        weights = mapped[-1]
    for matrix in joined[-1:]:
        weights = matrix if weights is None else matrix @ weights
    if weights is None or weights.shape[-1] != len(reading.owners):
        return []
    maps = []
    # The tokens of several pictures stand side by side, each with its own prefix.
    for tokens in weights[0].chunk(int(inputs["image_present"].sum())):
        regions = reading.of_words(tokens[encoder.num_prefix :])
        if len(regions) < 2:
            return []
        height, width = grid_of(len(regions), inputs["pixel_values"])
        maps.append(rearrange(regions, "(h w) words -> words h w", h=height, w=width))
    return maps


@contextmanager
def _recorded(part: nn.Module) -> Iterator[list[Tensor]]:
    """Yields a list to which each cross-attention of a part appends its weights [B, Q, K]."""
    found: list[Tensor] = []

    def keep(attention: Any, inputs: tuple[Any, ...]) -> None:
        queries, context, mask = inputs[:3]
        found.append(attention_weights(attention, queries, context[:, mask[0]]))

    with ExitStack() as stack:
        for block in part.modules():
            if isinstance(block, AttentionBlock) and block.norm_context is not None:
                stack.callback(block.attention.register_forward_pre_hook(keep).remove)
        yield found


def attention_weights(attention: Attention, queries: Tensor, context: Tensor) -> Tensor:
    """Returns softmax(Q K^T / sqrt(d)), the mean over the heads, for a context without padding.

    Args:
        attention: of a mapper or a strategy.
        queries: [B, Q, D].
        context: [B, K, E].
    """
    heads = attention.num_heads
    q, k = (
        rearrange(values, "b n (h d) -> b h n d", h=heads)
        for values in (attention.query(queries), attention.key(context))
    )
    return torch.softmax(q @ k.mT / sqrt(q.shape[-1]), dim=-1).mean(1)
