"""The containers that the parts of a model pass on, and the masked mean."""

import pytest
import torch

from mmfusion.model.masking import masked_mean
from mmfusion.model.types import Encoded, FusionOutput, Hidden


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


def test_the_output_carries_only_what_was_asked_for() -> None:
    output = FusionOutput(logits=torch.zeros(1, 2))  # type: ignore[arg-type]
    assert list(output) == ["logits"] and len(output.to_tuple()) == 1


def test_hidden_defaults_say_that_every_place_is_real() -> None:
    hidden = Hidden(torch.zeros(1, 2, 3))
    assert hidden.mask is None and hidden.pooled is None


def test_encoded_unpacks_in_the_order_of_the_contract() -> None:
    tokens, mask, pooled = Encoded(
        torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 3)
    )
    assert (tokens.shape, mask.dtype, pooled.shape) == ((1, 2, 3), torch.bool, (1, 3))
