"""How a model runs for a while: in eval mode, on whole batches, as a graph that is being made."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

_WHOLE = ContextVar("whole batches", default=False)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """With all of `model` in eval mode, and each of its modules in its own mode again afterwards."""
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training


def is_static() -> bool:
    """Whether a graph is being compiled or exported, whose shapes may not depend on values."""
    return torch.compiler.is_compiling() or torch.compiler.is_exporting()


def is_exporting() -> bool:
    """Whether a graph is being exported, not compiled.

    By the tracer: torch 2.11 says that it exports while it compiles. What dynamo traces counts as
    compiled, also where torch.export asked it to (`strict=True`).
    """
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


@contextmanager
def whole_batches() -> Iterator[None]:
    """Without cutting a batch into groups: for who watches what a layer is given."""
    token = _WHOLE.set(True)
    try:
        yield
    finally:
        _WHOLE.reset(token)


def is_whole() -> bool:
    """Whether batches are to stay whole: inside `whole_batches`, and where several processes run.

    Processes that share a model's weights among them (FSDP, ZeRO) wait for each other in every
    layer, so that each must be called as often in all of them.
    """
    several = (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )
    return several or _WHOLE.get()
