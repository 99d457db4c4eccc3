"""What a compiled classifier needs of torch: code, types, lengths, and room for graphs."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import nn

# This counter gives each compiled copy of a function its own name.
_numbers = itertools.count()


def with_own_code(method: Any) -> Any:
    """Returns a bound method with its own code object.

    torch limits the number of graphs per code object. Without this, all instances would share one
    limit.

    Args:
        method: the bound method.
    """
    function = method.__func__
    code = function.__code__.replace(co_name=f"{function.__name__}_{next(_numbers)}")
    own = FunctionType(
        code, function.__globals__, code.co_name, function.__defaults__, function.__closure__
    )
    return own.__get__(method.__self__)


@torch.no_grad()
def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Casts parameters and saved buffers.

    Buffers that are not saved (rotary frequencies, for example) need single precision.

    Args:
        model: changed in place.
        dtype: a type of floating-point numbers.
    """
    saved = model.state_dict().keys()
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    for name, buffer in model.named_buffers():
        if name in saved and buffer.is_floating_point():
            buffer.data = buffer.data.to(dtype)


def doubled(limit: int) -> list[int]:
    """Returns 64, 128, 256 ... up to a limit.

    Args:
        limit: the last number.
    """
    lengths = [64]
    while lengths[-1] < limit:
        lengths.append(2 * lengths[-1])
    return [min(length, limit) for length in lengths]


@contextmanager
def graphs(count: int, *, for_cpu: bool, int8: bool = False) -> Iterator[None]:
    """Yields while torch allows one graph per shape, instead of 8 graphs per function.

    For a CPU, torch is also told to compile texts whose number of tokens depends on values, and to
    bring the weights into another layout once instead of in each call.

    Args:
        count: the number of shapes.
        for_cpu: whether the graphs are for a CPU with a recent torch.
        int8: whether they hold products of 8-bit integers, which then are scaled while they are
            written.
    """
    with ExitStack() as patched:
        patched.enter_context(
            torch._dynamo.config.patch(
                recompile_limit=max(count, torch._dynamo.config.recompile_limit)
            )
        )
        if for_cpu or int8:
            # Imported here, because the module is large and only compiled graphs need it.
            from torch._inductor import config as inductor
        if int8:
            patched.enter_context(inductor.patch(force_fuse_int_mm_with_mul=True))
        if for_cpu:
            patched.enter_context(torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True))
            patched.enter_context(inductor.patch(freezing=True))
        yield
