"""Evaluation mode inside a `with` block, and checks of how the model runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts `model` in evaluation mode, and afterwards each of its modules back in its own."""
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training


def is_tracing() -> bool:
    """Returns whether a graph is being made, whose shapes may not depend on values."""
    return torch.compiler.is_compiling() or torch.compiler.is_exporting()


def is_exporting() -> bool:
    """Returns whether a graph is being exported and not compiled.

    In torch 2.11, `torch.compiler.is_exporting()` is True while a graph is compiled, too. So what
    dynamo traces counts as compiled here, also if torch.export uses dynamo (`strict=True`).
    """
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def runs_in_several_processes() -> bool:
    """Returns whether torch.distributed runs with more than one process.

    Processes that share a model's weights among them (FSDP, ZeRO) wait for each other in every
    layer. Each layer must then be called equally often in all of them.
    """
    distributed = torch.distributed
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )
