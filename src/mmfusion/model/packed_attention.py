"""Attention within each sequence of a packed row, registered with transformers by name.

transformers lets a library register an attention function by name. It hands that function the
keyword arguments of a model's forward. Here these carry the `Packing`, so that the code of BERT,
RoBERTa, DistilBERT and ModernBERT stays as it is.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .graph import is_exporting, is_tracing
from .packing import Packing, attends_one_by_one

PACKED_ATTENTION = "mmfusion_packed"
"""The name of the attention function in transformers.

Without a `Packing`, the function computes what "sdpa" computes.
"""


def use_packed_attention(module: nn.Module) -> None:
    """Lets a backbone call `packed_attention` in the place of "sdpa".

    A backbone without transformers' attention interface, or with another attention, is unchanged.

    A user who chose "eager" wants the attention matrices. With flash attention, that kernel removes
    the padding itself.

    Args:
        module: a text or image backbone.
    """
    if not isinstance(module, PreTrainedModel) or not module._supports_attention_backend:
        return
    # A decoder's attention is causal. "sdpa" gets that from a mask, and a packed row has none.
    if getattr(module.config, "is_decoder", False):
        return
    if module.config._attn_implementation == "sdpa":
        module.set_attn_implementation(PACKED_ATTENTION)


def attends_packed(module: nn.Module) -> bool:
    """Returns whether a backbone calls `packed_attention` now.

    Args:
        module: a text or image backbone.
    """
    config = getattr(module, "config", None)
    return getattr(config, "_attn_implementation", None) == PACKED_ATTENTION


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "b heads T d"],
    key: Float[Tensor, "b heads T d"],
    value: Float[Tensor, "b heads T d"],
    attention_mask: Tensor | None,
    *,
    packing: Packing | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "b T heads d"], None]:
    """Returns attention within each sequence of a row: softmax(Q K^T / sqrt(d)) V, one by one.

    On a CPU there is one call per sequence, also in a compiled graph if gradients are off. Nothing
    is padded, and only a sliding window needs a mask. On CUDA in half precision it is torch's
    variable-length kernel, which has no dropout. In all other cases the sequences are padded, but
    only inside the attention.

    Args:
        module: the layer that calls.
        query: [1, heads, T, d].
        key: [1, heads, T, d].
        value: [1, heads, T, d].
        attention_mask: for padded batches, as for "sdpa".
        packing: how the sequences lie in the row; None for a padded batch, which "sdpa" computes.
        dropout: probability of dropping an attention weight.
        scaling: of the scores; None means 1 / sqrt(d).
        sliding_window: tokens at least this far apart do not attend to each other; None means that
            all do.
        **kwargs: what else the layer sends, for "sdpa".
    """
    if packing is None:
        return ALL_ATTENTION_FUNCTIONS["sdpa"](
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            sliding_window=sliding_window,
            **kwargs,
        )
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling}
    if attends_one_by_one(query.device):
        return _text_by_text(query, key, value, packing.lengths, sliding_window, options), None
    # The kernel fills in nothing behind the last token, and nobody reads it.
    if not dropout and _kernel_runs(query) and (not is_tracing() or packing.is_longer):
        return _by_kernel(query, key, value, packing, sliding_window, scaling), None
    # The operator has no gradient, and an exported graph must run without this library.
    if (
        query.device.type == "cpu"
        and not packing.is_longer
        and not is_exporting()
        and not torch.is_grad_enabled()
    ):
        lengths = packing.mask.sum(1)
        return _text_by_text_operator(query, key, value, lengths, sliding_window, scaling), None
    return _padded(query, key, value, packing, sliding_window, options), None


def mask_of_padding(*args: Any, **kwargs: Any) -> Tensor | None:
    """Returns the mask of "sdpa", or None where nothing is masked; it reads no values.

    transformers' own function asks the device whether every token is real, and in an exported graph
    it always makes a mask. Here the caller leaves the mask out where every token is real.

    Args:
        *args: as transformers calls it.
        **kwargs: as transformers calls it.
    """
    whole = kwargs.get("allow_is_bidirectional_skip") and kwargs.get("attention_mask") is None
    window = kwargs.get("local_size")
    # A graph is made for texts of any length, so there a window always needs its mask.
    if whole and (not window or (not is_tracing() and kwargs["kv_length"] < window)):
        return None
    mask: Tensor | None = sdpa_mask(*args, **(kwargs | {"allow_is_bidirectional_skip": False}))
    return mask


# Register at import: a model that was sent to another process needs the name there.
AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, mask_of_padding)


def _text_by_text(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: list[int],
    window: int | None,
    options: dict[str, Any],
) -> Tensor:
    texts = zip(*(row.split(lengths, dim=2) for row in (query, key, value)), strict=True)
    attended = [
        F.scaled_dot_product_attention(
            q, k, v, attn_mask=_near(q.shape[2], window, q.device), **options
        )
        for q, k, v in texts
    ]
    # Transpose before concatenating: the next layer reads this order, so nothing is copied twice.
    return torch.cat([rearrange(text, "1 heads t d -> 1 t heads d") for text in attended], dim=1)


@torch.library.custom_op("mmfusion::text_by_text", mutates_args=())
def _text_by_text_operator(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor,
    window: int | None,
    scale: float | None,
) -> Tensor:
    """Returns `_text_by_text` for compiled graphs; a graph cannot split by values itself."""
    return _text_by_text(query, key, value, lengths.tolist(), window, {"scale": scale})


@_text_by_text_operator.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor,
    window: int | None,
    scale: float | None,
) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], query.shape[3])


def _kernel_runs(query: Tensor) -> bool:
    """Returns whether torch's variable-length kernel takes this type, device and head width."""
    if query.device.type != "cuda" or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    width = query.shape[-1]
    newer = torch.cuda.get_device_capability(query.device) >= (8, 0)
    # A graph cannot ask for this switch. It belongs to eager code.
    allowed = is_tracing() or torch.backends.cuda.flash_sdp_enabled()
    return newer and width % 8 == 0 and width <= 256 and allowed


def _by_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    window: int | None,
    scale: float | None,
) -> Tensor:
    # Imported here: it needs torch 2.11, registers operators, and serves CUDA alone.
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (rearrange(row, "1 heads t d -> t heads d") for row in (query, key, value))
    ends, longest = packing.cu_seqlens.to(q.device), packing.width
    reach = (-1, -1) if window is None else (window - 1, window - 1)
    # It returns a pair only where the logsumexp was asked for.
    attended: Any = varlen_attn(
        q, k, v, ends, ends, longest, longest, scale=scale, window_size=reach
    )
    return attended.unsqueeze(0)


def _padded(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    window: int | None,
    options: dict[str, Any],
) -> Tensor:
    q, k, v = (
        rearrange(
            packing.unpack(rearrange(row, "1 heads t d -> 1 t heads d")),
            "b l heads d -> b heads l d",
        )
        for row in (query, key, value)
    )
    mask = rearrange(packing.mask.to(q.device), "b l -> b 1 1 l")
    near = _near(packing.width, window, q.device)
    attended = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask if near is None else mask & near, **options
    )
    return packing.pack(rearrange(attended, "b heads l d -> b l heads d"))


def _near(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """Returns True where two places are less than `window` apart; None where all are."""
    # A graph is made for texts of any length.
    if window is None or (not is_tracing() and length <= window):
        return None
    places = torch.arange(length, device=device)
    return (places[:, None] - places).abs() < window
