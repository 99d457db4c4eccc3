"""Helpers of the laws: run a model in a fixed mode, and compare logits and weights."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..model.modeling import FusionClassifier
from .batches import Batch

TOLERANCE = 1e-5
"""The largest difference between float32 logits that still counts as equal."""


@contextmanager
def mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Sets `module` to training or eval mode inside the block, and restores its mode afterwards."""
    before = module.training
    module.train(training)
    try:
        yield
    finally:
        module.train(before)


def logits_of(model: FusionClassifier, batch: Batch) -> Tensor:
    """Returns the logits [B, C] of a batch, computed in eval mode without gradient."""
    # The labels are left out, so that the model computes no loss.
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with mode(model, False), torch.no_grad():
        logits: Tensor = model(**inputs).logits
    return logits


def picked(batch: Batch, rows: Sequence[int]) -> Batch:
    """Returns the batch of the given rows, in the given order."""
    return {name: value[list(rows)] for name, value in batch.items()}


def state_of(module: nn.Module) -> Batch:
    """Returns copies of all parameters and buffers of a module by name."""
    # Buffers that are not saved are not part of `state_dict`, but must not change either.
    return {
        name: value.clone()
        for name, value in itertools.chain(module.named_parameters(), module.named_buffers())
    }


def check_same_state(law: str, expected: Batch, got: Batch) -> None:
    """Raises an AssertionError that names the law if two states are not equal to the bit."""
    assert expected.keys() == got.keys(), (
        f"{law}: {sorted(expected.keys() ^ got.keys())[:5]} stand in one of the two only"
    )
    changed = [name for name, value in expected.items() if not torch.equal(value, got[name])]
    assert not changed, (
        f"{law}: {len(changed)} of {len(expected)} tensors changed, {changed[:3]} first"
    )


def agree(law: str, expected: Tensor, got: Tensor, tolerance: float) -> None:
    """Raises an AssertionError that names the law if two results differ.

    Args:
        law: the name of the law for the message.
        expected: the first result.
        got: the second result, of the same shape.
        tolerance: the largest allowed difference; NaN always counts as different.
    """
    assert expected.shape == got.shape, (
        f"{law}: shapes {tuple(expected.shape)} and {tuple(got.shape)}"
    )
    # The maximum of an empty tensor is an error in torch.
    figure = float((expected - got).detach().abs().max()) if expected.numel() else 0.0
    # A comparison with NaN is false, so NaN fails here as well.
    assert figure <= tolerance, (
        f"{law}: answers differ by {figure:.3g}, at most {tolerance:g} is allowed"
    )
