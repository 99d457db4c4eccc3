"""What a compiled classifier needs of torch."""

import torch
from torch import nn
from torch._inductor import config

from mmfusion.inference.compiled_graphs import cast, doubled, graphs, with_own_code


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
