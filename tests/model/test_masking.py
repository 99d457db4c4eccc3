"""Arithmetic with masks: means over real tokens, zeros in the padding, real tokens first."""

import pytest
import torch

from mmfusion.model.masking import masked_mean, real_tokens_first, without_padding


def test_masked_mean_equals_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 6, 3, generator=generator)
    mask = torch.rand(4, 6, generator=generator) < 0.5
    mask[0] = True
    expected = torch.zeros(4, 3)
    for row in range(4):
        real = [values[row, n] for n in range(6) if mask[row, n]]
        if real:
            expected[row] = sum(real) / len(real)  # type: ignore[assignment]
    torch.testing.assert_close(masked_mean(values, mask), expected)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_masked_mean_ignores_what_stands_in_the_padding(garbage: float) -> None:
    values = torch.tensor([[[1.0], [3.0], [garbage]]])
    assert masked_mean(values, torch.tensor([[True, True, False]])).item() == 2


def test_masked_mean_gives_no_gradient_to_the_padding() -> None:
    values = torch.ones(1, 3, 2, requires_grad=True)
    masked_mean(values, torch.tensor([[True, True, False]])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[[0.5, 0.5], [0.5, 0.5], [0, 0]]]


def test_masked_mean_of_nothing_is_zero_and_keeps_the_dtype() -> None:
    mean = masked_mean(
        torch.ones(1, 2, 3, dtype=torch.bfloat16), torch.zeros(1, 2, dtype=torch.bool)
    )
    assert mean.dtype == torch.bfloat16 and mean.tolist() == [[0, 0, 0]]


def test_padding_becomes_zero_and_the_rest_stays() -> None:
    values = torch.tensor([[[1.0, -2.0], [float("nan"), float("inf")], [3.0, 0.5]]])
    mask = torch.tensor([[True, False, True]])
    assert without_padding(values, mask).tolist() == [[[1, -2], [0, 0], [3, 0.5]]]
    assert without_padding(values.bfloat16(), mask).dtype == torch.bfloat16


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_real_tokens_first_equals_a_loop(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (16, 9), generator=generator)
    mask = torch.rand(16, 9, generator=generator) < share
    moved, moved_mask = real_tokens_first(ids, mask, 77)
    for row in range(16):
        real = [
            token for token, kept in zip(ids[row].tolist(), mask[row].tolist(), strict=True) if kept
        ]
        assert moved[row].tolist() == real + [77] * (9 - len(real))
        assert moved_mask[row].tolist() == [True] * len(real) + [False] * (9 - len(real))
