"""What a compiled classifier needs of torch."""

import pytest
import torch
from torch import nn
from torch._inductor import config

from mmfusion.inference.compiled_graphs import (
    PatchProduct,
    cast,
    convolutions_as_products,
    doubled,
    graphs,
    row_length,
    with_own_code,
)


class Counter:
    def __init__(self, number: int):
        self.number = number

    def read(self) -> int:
        return self.number


def test_lengths_double_up_to_the_limit() -> None:
    assert doubled(300) == [64, 128, 256, 300] and doubled(40) == [40]


def test_a_method_with_its_own_code_answers_as_before() -> None:
    first, second = Counter(1), Counter(2)
    methods = [with_own_code(first.read), with_own_code(second.read)]
    assert [method() for method in methods] == [1, 2]
    assert methods[0].__func__.__code__ is not methods[1].__func__.__code__


def test_buffers_that_are_not_saved_keep_their_type() -> None:
    module = nn.Linear(1, 1)
    module.register_buffer("saved", torch.ones(1))
    module.register_buffer("frequencies", torch.ones(1), persistent=False)
    module.register_buffer("count", torch.ones(1, dtype=torch.int64))
    cast(module, torch.bfloat16)
    assert module.weight.dtype == module.saved.dtype == torch.bfloat16
    assert (module.frequencies.dtype, module.count.dtype) == (torch.float32, torch.int64)


def test_settings_of_torch_hold_inside_alone() -> None:
    before = (config.freezing, config.force_fuse_int_mm_with_mul)
    with graphs(3, for_cpu=True, int8=True):
        assert config.freezing and config.force_fuse_int_mm_with_mul
    with graphs(3, for_cpu=False):
        assert (config.freezing, config.force_fuse_int_mm_with_mul) == before
    assert (config.freezing, config.force_fuse_int_mm_with_mul) == before


@pytest.mark.parametrize("window", [2, (3, 2)])
@pytest.mark.parametrize("padding", [0, "valid"])
def test_a_product_answers_as_the_convolution(window, padding) -> None:
    convolution = nn.Conv2d(3, 5, window, stride=window, padding=padding, bias=padding == 0)
    # The last row fills no window.
    pixels = torch.randn(2, 3, 7, 12)
    expected, names = convolution(pixels), list(convolution.state_dict())
    convolutions_as_products(convolution)
    assert type(convolution) is PatchProduct and list(convolution.state_dict()) == names
    torch.testing.assert_close(convolution(pixels), expected)


def test_other_convolutions_stay() -> None:
    others = nn.Sequential(
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 2, stride=2, padding=1),
        nn.Conv2d(4, 4, 2, stride=2, dilation=2),
        nn.Conv2d(4, 4, 2, stride=2, groups=2),
        nn.Conv2d(4, 4, 1),
        nn.Conv1d(4, 4, 2, stride=2),
    )
    convolutions_as_products(others)
    assert not any(isinstance(module, PatchProduct) for module in others)


def test_rows_are_long_enough_and_of_few_lengths() -> None:
    lengths = [row_length(tokens) for tokens in range(1, 70_000)]
    for tokens, length in enumerate(lengths, 1):
        assert tokens <= length <= max(tokens + 63, 1.125 * tokens) and length % 64 == 0
    assert len(set(lengths)) == 65
