"""What a compiled classifier needs of torch: code, types, lengths, and room for graphs."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any, final

import torch
from einops import rearrange
from torch import Tensor, nn

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


def compile_options(backend: object, mode: str) -> dict[str, Any]:
    """Returns the options of `torch.compile` for a model that nobody changes.

    Before each call, torch checks whether the attributes of all modules are as they were when the
    graph was made. A compiled classifier owns its model and makes its graphs anew itself, so this
    check is left out.

    Args:
        backend: as `torch.compile` takes it.
        mode: as `torch.compile` takes it; it counts for "inductor" alone.
    """
    options = torch._inductor.list_mode_options(mode) if backend == "inductor" else {}
    return options | {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}


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


@final
class PatchProduct(nn.Conv2d):
    """A convolution whose windows do not overlap, computed as one matrix product.

    A window is one row of the product. On an H200, cuDNN took eight times as long for the patch
    embedding of a ViT-B/16 (docs/speed.md).

    Shape:
        [B, C, H, W] -> [B, D, H // h, W // w] with windows of h x w pixels.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Returns what the convolution returns.

        Args:
            input: [B, C, H, W].
        """
        h, w = self.kernel_size
        # A convolution leaves out the last rows and columns that fill no window.
        height, width = input.shape[2] // h * h, input.shape[3] // w * w
        windows = rearrange(
            input[:, :, :height, :width], "b c (y h) (x w) -> b y x (c h w)", h=h, w=w
        )
        made = nn.functional.linear(windows, self.weight.flatten(1), self.bias)
        return rearrange(made, "b y x d -> b d y x")


def convolutions_as_products(model: nn.Module) -> None:
    """Turns the convolutions whose windows neither overlap nor leave gaps into `PatchProduct`s.

    Args:
        model: changed in place; its weights and their names stay.
    """
    for module in model.modules():
        if (
            type(module) is nn.Conv2d
            and module.kernel_size == module.stride != (1, 1)
            and module.padding in ((0, 0), "valid")
            and module.dilation == (1, 1)
            and module.groups == 1
        ):
            module.__class__ = PatchProduct


def doubled(limit: int) -> list[int]:
    """Returns 64, 128, 256 ... up to a limit.

    Args:
        limit: the last number.
    """
    lengths = [64]
    while lengths[-1] < limit:
        lengths.append(2 * lengths[-1])
    return [min(length, limit) for length in lengths]


def row_length(tokens: int) -> int:
    """Returns the next length of a row of tokens: a multiple of 64 with four binary digits at most.

    So there are few lengths, and a long row is at most an eighth longer than needed.

    Args:
        tokens: how many real tokens there are, at least 1.

    Example:
        >>> [row_length(tokens) for tokens in (1, 65, 1000, 1025, 17_000)]
        [64, 128, 1024, 1152, 18432]
    """
    step = max(64, 2 ** (tokens.bit_length() - 4))
    return -(-tokens // step) * step


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
