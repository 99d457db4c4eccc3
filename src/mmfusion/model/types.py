"""What flows between the rooms, and the legend of axis letters that every docstring uses.

| letter | axis |
| --- | --- |
| B | batch |
| N | image tokens (patches, prefix tokens, or the cells of a feature map) |
| L | text tokens |
| M | mapped tokens |
| D | width of an embedding |
| C | classes; channels where the axes are written C H W |
| H, W | pixels, or cells of a feature map |
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers.utils.generic import ModelOutput

from .graph import is_static


class Encoded(NamedTuple):
    """What every encoder and mapper returns and every fusion takes.

    Attributes:
        tokens: one embedding per token [B, N, D]; what stands where `mask` is False means nothing.
        mask: True where a token is real [B, N].
        pooled: one embedding per sample [B, D].
    """

    tokens: Float[Tensor, "B N D"]
    mask: Bool[Tensor, "B N"]
    pooled: Float[Tensor, "B D"]


class Hidden(NamedTuple):
    """The state of a tower between two of its blocks.

    Attributes:
        values: tokens [B, N, D], or a feature map [B, C, H, W].
        mask: True where a token is real [B, N]; None where every place is real.
        pooled: [B, D] once a tower whose inside is unknown has run as one block, else None.
    """

    values: Tensor
    mask: Bool[Tensor, "B N"] | None = None
    pooled: Float[Tensor, "B D"] | None = None


class Fused(NamedTuple):
    """What a fusion strategy returns.

    Attributes:
        embedding: the fused representation, one vector per sample [B, D].
        logits: [B, C]. Single-label: log-probabilities up to a constant per sample; multi-label:
            log-odds.
        image_embedding: the image's own pooled vector [B, D].
        text_embedding: the mapped text's pooled vector [B, D].
    """

    embedding: Float[Tensor, "B D"]
    logits: Float[Tensor, "B C"]
    image_embedding: Tensor
    text_embedding: Tensor


@dataclass
class FusionOutput(ModelOutput):
    """What `FusionClassifier` returns.

    Attributes:
        loss: mean loss over the batch, a scalar; only where labels were given.
        logits: [B, C].
        embedding: the fused embedding [B, D]; only with `output_embeddings=True`.
        image_embedding: the image tower's pooled vector [B, D]; only with `output_embeddings=True`.
        text_embedding: the pooled vector of the mapped text [B, D]; only with
            `output_embeddings=True`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    embedding: Tensor | None = None
    image_embedding: Tensor | None = None
    text_embedding: Tensor | None = None


def masked_mean(values: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B D"]:
    """The mean over the real tokens: sum_n m_n v_n / sum_n m_n.

    A row without a real token gives zeros.

    Example:
        >>> import torch
        >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
        tensor([[2.]])
    """
    return without_padding(values, mask).sum(1) / mask.sum(1, keepdim=True).clamp(min=1).to(
        values.dtype
    )


def without_padding(
    values: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]
) -> Float[Tensor, "B N D"]:
    """`values` with zeros where no token is real, whatever stands there.

    Example:
        >>> import torch
        >>> without_padding(torch.tensor([[[1.0], [float("nan")]]]), torch.tensor([[True, False]]))
        tensor([[[1.],
                 [0.]]])
    """
    # On a CPU a look at the mask costs nothing beside a copy of the values.
    if values.device.type == "cpu" and not is_static() and bool(mask.all()):
        return values
    # where, not a product: what stands in the padding may be infinite or NaN.
    return torch.where(mask.unsqueeze(-1), values, values.new_zeros(()))
