"""Attention within each text of a packed row: every way computes the formula."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfusion.model.packed_attention import (
    _by_kernel,
    _padded,
    _text_by_text,
    packed_attention,
)
from mmfusion.model.packing import (
    Packing,
)


def batch(lengths: list[int], *, width: int) -> tuple[Tensor, Tensor]:
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    return mask.long(), mask


def one_by_one(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], window: int | None
) -> Tensor:
    """Returns softmax(Q K^T / sqrt(d)) V of each text, computed token by token.

    Shape:
        [1, heads, T, d] -> [1, T, heads, d].
    """
    attended, start = [], 0
    for length in lengths:
        for place in range(start, start + length):
            seen = [
                j for j in range(start, start + length) if window is None or abs(j - place) < window
            ]
            scores = (
                torch.einsum("hd,hjd->hj", query[0, :, place], key[0][:, seen])
                / query.shape[-1] ** 0.5
            )
            attended.append(torch.einsum("hj,hjd->hd", scores.softmax(-1), value[0][:, seen]))
        start += length
    return torch.stack(attended)[None]


def standing_in_for_the_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    **options: Any,
) -> Tensor:
    """Returns in plain torch the answer that `torch.nn.attention.varlen.varlen_attn` documents.

    The kernel itself runs only on CUDA.
    """
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and query.ndim == 3
    left, right = options["window_size"]
    attended = []
    for start, stop in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        assert stop - start <= max_q == max_k
        i, j = torch.arange(stop - start)[:, None], torch.arange(stop - start)
        seen = ((i - j <= left) if left >= 0 else i == i) & (
            (j - i <= right) if right >= 0 else j == j
        )
        q, k, v = (row[start:stop].transpose(0, 1) for row in (query, key, value))
        attended.append(
            F.scaled_dot_product_attention(
                q, k, v, attn_mask=seen, scale=options["scale"]
            ).transpose(0, 1)
        )
    return torch.cat(attended)


@pytest.mark.parametrize("window", [None, 1, 3, 50])
@pytest.mark.parametrize("road", ["text by text", "padded inside", "kernel"])
def test_every_road_of_the_attention_is_the_formula(
    road: str, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", standing_in_for_the_kernel)
    lengths = [5, 1, 8, 3]
    packing = Packing(batch(lengths, width=10)[1])
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randn(1, sum(lengths), 2, 4, generator=draw).transpose(1, 2) for _ in range(3)]
    options: dict[str, Any] = {"dropout_p": 0.0, "scale": None}
    if road == "kernel":
        found = _by_kernel(*rows, packing, window, None)
    else:
        how = packing if road == "padded inside" else packing.lengths
        found = (_padded if road == "padded inside" else _text_by_text)(*rows, how, window, options)
    torch.testing.assert_close(found, one_by_one(*rows, lengths, window), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 3])
def test_the_operator_of_compiled_graphs_is_the_formula(window: int | None) -> None:
    lengths = [5, 1, 8, 3]
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randn(1, sum(lengths), 2, 4, generator=draw).transpose(1, 2) for _ in range(3)]
    inputs = (*rows, torch.tensor(lengths), window, None)
    found = torch.ops.mmfusion.text_by_text(*inputs)
    torch.testing.assert_close(found, one_by_one(*rows, lengths, window), atol=1e-6, rtol=1e-5)
    # The answer must have the shape, strides and dtype that the operator declares to the compiler.
    torch.library.opcheck(
        torch.ops.mmfusion.text_by_text, inputs, test_utils=("test_schema", "test_faketensor")
    )


def test_without_a_packing_it_is_sdpa() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randn(2, 2, 5, 4, generator=draw) for _ in range(3)]
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])[:, None, None]
    found, weights = packed_attention(nn.Module(), *rows, mask, is_causal=False)
    assert weights is None
    torch.testing.assert_close(
        found, F.scaled_dot_product_attention(*rows, attn_mask=mask).transpose(1, 2)
    )
