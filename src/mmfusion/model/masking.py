"""Arithmetic on tokens: means over real ones, zeros in the padding, and normalisation."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .types import Encoded


def masked_mean(values: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B D"]:
    """Returns the mean over the real tokens: sum_n m_n v_n / sum_n m_n.

    A row without a real token gives zeros.

    Args:
        values: [B, N, D].
        mask: True where a token is real [B, N].

    Example:
        >>> values = torch.tensor([[[1.0], [3.0], [9.0]]])
        >>> masked_mean(values, torch.tensor([[True, True, False]]))
        tensor([[2.]])
    """
    count = mask.sum(1, keepdim=True).clamp(min=1).to(values.dtype)
    return without_padding(values, mask).sum(1) / count


def without_padding(
    values: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]
) -> Float[Tensor, "B N D"]:
    """Returns `values` with zeros where no token is real.

    Args:
        values: [B, N, D]; it may hold NaN or infinity where no token is real.
        mask: True where a token is real [B, N].

    Example:
        >>> values = torch.tensor([[[1.0], [float("nan")]]])
        >>> without_padding(values, torch.tensor([[True, False]]))
        tensor([[[1.],
                 [0.]]])
    """
    # torch.where instead of a product: NaN * 0 is NaN.
    return torch.where(mask.unsqueeze(-1), values, values.new_zeros(()))


def real_tokens_first(
    input_ids: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], pad_id: int
) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Returns token ids and mask with the real tokens of each text first, in their order.

    Args:
        input_ids: [B, L]; ids where no token is real may be anything.
        mask: True where a token is real [B, L].
        pad_id: the id that stands behind the real tokens.

    Example:
        >>> ids, mask = torch.tensor([[7, 5, 6]]), torch.tensor([[False, True, True]])
        >>> [value.tolist() for value in real_tokens_first(ids, mask, 0)]
        [[[5, 6, 0]], [[True, True, False]]]
    """
    input_ids = torch.where(mask, input_ids, pad_id)
    # Each token's new place is counted instead of found by sorting, because ONNX has no stable
    # sort.
    counts = mask.sum(1, keepdim=True)
    places = torch.where(mask, mask.cumsum(1), counts + (~mask).cumsum(1)) - 1
    moved = torch.zeros_like(input_ids).scatter(1, places, input_ids)
    return moved, torch.arange(mask.shape[1], device=mask.device) < counts


def normalized(encoded: Encoded) -> Encoded:
    """Returns an encoder's output after a LayerNorm without parameters.

    Each token and the pooled vector x become (x - mean(x)) / sqrt(var(x) + 1e-5) over their width
    (Ba et al. 2016, arXiv 1607.06450).

    Args:
        encoded: tokens [B, N, D] and pooled [B, D].
    """
    width = (encoded.pooled.shape[-1],)
    tokens, pooled = (F.layer_norm(x, width) for x in (encoded.tokens, encoded.pooled))
    return Encoded(tokens, encoded.mask, pooled)
