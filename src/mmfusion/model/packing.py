"""Padding-free text: the tokens of a batch in one row, and attention that stays within each text.

Linear layers and normalisations act on tokens one by one, so that they need no padding: of a batch
whose texts lie one after the other in a single row they compute the real tokens only. Attention
alone must know where a text ends. transformers lets a library name an attention function of its
own, and hands it the keyword arguments that a model's forward was given; here these carry the
`Packing`, so that the code of BERT, RoBERTa, DistilBERT and ModernBERT stays as it is.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .graph import is_exporting, is_static, is_whole

PACKED_ATTENTION = "mmfusion_packed"
"""The name under which transformers knows the attention function: without a `Packing` it is "sdpa"."""

WORTH_PACKING = 0.9
"""Of padded batches, "auto" packs those in which less than this share of the places holds a token."""

GROUPS, SMALLEST_GROUP = 4, 4
"""Into how many groups of like length a batch is cut at most, and how many samples a group has at least."""


class Packing:
    """How the texts of a padded batch lie in one row: one after the other, without what is not real.

    Args:
        mask: True where a token is real [B, L].

    Attributes:
        mask: as it was given.
        positions: the place of each token in its row of the batch [1, T], T tokens in all.
        row_mask: what the model is given for an attention mask: nothing is masked in the row.

    Example:
        >>> packing = Packing(torch.tensor([[True, True, False], [True, True, True]]))
        >>> row = packing.pack(torch.tensor([[5, 6, 0], [7, 8, 9]]))
        >>> row.tolist(), packing.positions.tolist()
        ([[5, 6, 7, 8, 9]], [[0, 1, 0, 1, 2]])
        >>> packing.unpack(row.unsqueeze(-1)).squeeze(-1).tolist()
        [[5, 6, 0], [7, 8, 9]]
    """

    def __init__(self, mask: Bool[Tensor, "B L"]):
        self.batch, self.width = mask.shape
        self.mask = mask
        rows, columns = mask.nonzero().unbind(1)
        self._places = rows * self.width + columns
        self._lengths: list[int] | None = None
        self._boundaries: Tensor | None = None
        self.positions: Int[Tensor, "1 T"] = columns.unsqueeze(0)
        # A mask of four axes is the only one that transformers hands on as it is, for every model
        # and layer.
        self.row_mask = mask.new_ones(1, 1, 1, 1)

    @property
    def lengths(self) -> list[int]:
        """How many tokens each text has; B integers."""
        if self._lengths is None:
            self._lengths = self.mask.sum(1).tolist()
        return self._lengths

    @property
    def share(self) -> float:
        """The share of the padded batch's places that hold a token, in [0, 1]; 1 of an empty batch."""
        places = self.batch * self.width
        return sum(self.lengths) / places if places else 1.0

    @property
    def boundaries(self) -> Int[Tensor, " N"]:
        """Where each text begins in the row, and where the last one ends: B + 1 numbers, int32."""
        if self._boundaries is None:
            ends = torch.tensor([0, *self.lengths]).cumsum(0)
            self._boundaries = ends.to(self._places.device, torch.int32)
        return self._boundaries

    def pack(self, values: Shaped[Tensor, "B L ..."]) -> Shaped[Tensor, "1 T ..."]:
        """The real tokens of a padded batch, in one row."""
        return values.flatten(0, 1).index_select(0, self._places.to(values.device)).unsqueeze(0)

    def unpack(self, row: Shaped[Tensor, "1 T ..."]) -> Shaped[Tensor, "B L ..."]:
        """The padded batch again, zero where there is no token."""
        padded = row.new_zeros(self.batch * self.width, *row.shape[2:]).index_copy_(
            0, self._places.to(row.device), row[0]
        )
        return padded.unflatten(0, (self.batch, self.width))


def packing_of(
    mask: Bool[Tensor, "B L"], *, always: bool, in_graphs: bool = False
) -> Packing | None:
    """How to pack a batch; None where it had better stay padded.

    A graph cannot look. An exported one, which takes any number of tokens, is always packed; a
    compiled one stays padded, unless it was asked for and has more than one text.

    Args:
        mask: True where a token is real [B, L], at least one per row.
        always: pack even where less than a tenth is padding.
        in_graphs: pack in a compiled graph, where torch may compile shapes that depend on values.
    """
    if is_exporting():
        return Packing(mask)
    if is_static():
        return _packing_in_a_graph(mask) if in_graphs and mask.shape[0] > 1 else None
    packing = Packing(mask)
    return packing if always or 0 < packing.share < WORTH_PACKING else None


def _packing_in_a_graph(mask: Tensor) -> Packing:
    packing = Packing(mask)
    # Each text has a token. Were a single one possible in all, the compiler could not tell how a
    # row lies in memory.
    torch._check(packing.positions.shape[1] >= mask.shape[0])
    return packing


def token_by_token(
    run: Callable[[Tensor], Tensor], tokens: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L E"]:
    """What `run` makes of each token, computed for the real ones alone where that pays; elsewhere the padding means nothing.

    Args:
        run: a function of tokens one by one: [..., D] -> [..., E].
        tokens: [B, L, D].
        mask: True where a token is real [B, L].

    Example:
        >>> tokens, mask = torch.ones(1, 4, 1), torch.tensor([[True, True, False, False]])
        >>> token_by_token(lambda real: real * len(real[0]), tokens, mask).flatten().tolist()
        [2.0, 2.0, 0.0, 0.0]
    """
    # Of a single place (a text's mean) nothing can be left out, and to look would wait for the GPU.
    packing = None if is_static() or mask.shape[1] == 1 else packing_of(mask, always=False)
    return run(tokens) if packing is None else packing.unpack(run(packing.pack(tokens)))


def groups_by_length(mask: Bool[Tensor, "B L"]) -> list[tuple[Any, int]]:
    """Which samples of a batch are about equally long, and how many places each group needs.

    A sequence that other models' layers must take padded (an image's tokens and a text's after
    them) loses most of its padding when it passes them group by group.

    Args:
        mask: True where a token is real [B, L].

    Returns:
        For each group an index of its rows, and a length up to L that holds all its real tokens;
        one group with every row where groups do not pay, and while a graph is made.

    Example:
        >>> mask = torch.arange(6) < torch.tensor([1, 6, 1, 1, 6, 6, 1, 6]).unsqueeze(1)
        >>> [(rows.tolist(), places) for rows, places in groups_by_length(mask)]
        [([1, 4, 5, 7], 6), ([0, 2, 3, 6], 1)]
    """
    batch, width = mask.shape
    if is_static() or is_whole() or batch < 2 * SMALLEST_GROUP:
        return one_group(mask)
    ends = (mask * torch.arange(1, width + 1, device=mask.device)).amax(1)
    order = ends.argsort(descending=True, stable=True)
    groups = order.tensor_split(min(GROUPS, batch // SMALLEST_GROUP))
    places = torch.stack([ends[rows[0]] for rows in groups]).clamp(min=1).tolist()
    needed = sum(len(rows) * length for rows, length in zip(groups, places, strict=True))
    return (
        list(zip(groups, places, strict=True))
        if needed < WORTH_PACKING * batch * width
        else one_group(mask)
    )


def one_group(mask: Bool[Tensor, "B L"]) -> list[tuple[Any, int]]:
    """The whole batch as the only group, as `groups_by_length` gives it."""
    return [(slice(None), mask.shape[1])]


def ungrouped(groups: list[tuple[Any, int]], values: list[Tensor]) -> Tensor:
    """What was computed for each of `groups`, as one batch in its order.

    Args:
        groups: from `groups_by_length`.
        values: one for each group [b, ...].
    """
    if len(groups) == 1:
        return values[0]
    return torch.cat(values)[torch.cat([rows for rows, _ in groups]).argsort()]


def attends_one_by_one(device: torch.device) -> bool:
    """Whether attention had better take its samples one after the other, each as long as it is: on a CPU, but not in a graph."""
    return device.type == "cpu" and not is_static()


def can_pack(module: nn.Module) -> bool:
    """Whether a backbone takes its attention from transformers' interface, and now takes "sdpa" or the packed one from it.

    A user who chose "eager" wants its matrices, one who chose flash attention has it unpad by
    itself.
    """
    if not isinstance(module, PreTrainedModel) or not module._supports_attention_backend:
        return False
    # A decoder's attention is causal, which "sdpa" is told by the mask that a row has not.
    if getattr(module.config, "is_decoder", False):
        return False
    return module.config._attn_implementation in ("sdpa", PACKED_ATTENTION)


def use_packed_attention(module: PreTrainedModel) -> None:
    """Let a backbone that `can_pack` call `packed_attention`."""
    if module.config._attn_implementation != PACKED_ATTENTION:
        module.set_attn_implementation(PACKED_ATTENTION)


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
    """Attention within each text of a row: softmax(Q K^T / sqrt(d)) V, text by text.

    On a CPU each text is a call of its own, in a compiled graph without gradients too: nothing is
    padded, masked or copied. On CUDA in half precision it is torch's variable-length kernel, which
    has no dropout. Elsewhere (other devices, dropout or float32 on CUDA, where the kernel does not
    run, other graphs) the texts are padded inside the attention alone.

    Args:
        module: the layer that asks.
        query: [1, heads, T, d].
        key: [1, heads, T, d].
        value: [1, heads, T, d].
        attention_mask: for padded batches, as for "sdpa".
        packing: how the texts lie in the row; None for a padded batch, which "sdpa" computes.
        dropout: probability of dropping an attention weight.
        scaling: of the scores; None means 1 / sqrt(d).
        sliding_window: tokens at least this far apart do not see each other; None means that all
            do.
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
    # The operator has no gradient, and an exported graph must run without this library.
    if query.device.type == "cpu" and not is_exporting() and not torch.is_grad_enabled():
        return _text_by_text_operator(
            query, key, value, packing.mask.sum(1), sliding_window, scaling
        ), None
    if not is_static() and not dropout and _kernel_runs(query):
        return _by_kernel(query, key, value, packing, sliding_window, scaling), None
    return _padded(query, key, value, packing, sliding_window, options), None


# At import, not on first use: a model that was sent to another process asks for the name without
# having been built there.
AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)


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
    # Turned before they are joined: as the next layer reads them, so that it copies nothing.
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
    """`_text_by_text` as a compiled graph calls it, which cannot split by values."""
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
    """Whether torch's variable-length kernel takes these: half precision, on CUDA from Ampere on, heads of a width it knows."""
    if query.device.type != "cuda" or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    width = query.shape[-1]
    newer = torch.cuda.get_device_capability(query.device) >= (8, 0)
    return newer and width % 8 == 0 and width <= 256 and torch.backends.cuda.flash_sdp_enabled()


def _by_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    window: int | None,
    scale: float | None,
) -> Tensor:
    # Imported where it is used: it needs torch 2.11, registers operators, and serves CUDA alone.
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (rearrange(row, "1 heads t d -> t heads d") for row in (query, key, value))
    ends, longest = packing.boundaries.to(q.device), packing.width
    reach = (-1, -1) if window is None else (window - 1, window - 1)
    # It answers with a pair only where the logsumexp was asked for.
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
    """True where two places are less than `window` apart [length, length]; None where all are."""
    # A graph is made for texts of any length.
    if window is None or (not is_static() and length <= window):
        return None
    places = torch.arange(length, device=device)
    return (places[:, None] - places).abs() < window
