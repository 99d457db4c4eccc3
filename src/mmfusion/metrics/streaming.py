"""The metrics as torchmetrics classes, for streams of batches on one process or several."""

from abc import ABC
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from .functional import dice_per_mask
from .weighted import Array, judge, read_samples, sample_losses


class _Mean(Metric, ABC):
    """The base of the classes below: a sum and a count, added up over batches and processes."""

    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Double precision, because a float32 sum over many batches would lose digits.
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def compute(self) -> Float[Tensor, ""]:
        """Returns the mean so far, over all processes; NaN if no label was known."""
        return self.total / self.count

    def _add(self, total: Float[Tensor, "B"], count: Float[Tensor, "B"]) -> None:
        """Adds a batch to the state, which may lie on another device."""
        self.total += total.sum().to(self.total.device)
        self.count += count.sum().to(self.count.device)


@final
class Dice(_Mean):
    """The metric `dice` over a stream of batches: the mean over all masks of all processes.

    Example:
        >>> metric = Dice()
        >>> metric.update(torch.ones(2, 4, 4), torch.ones(2, 4, 4))
        >>> metric.update(torch.ones(1, 4, 4), torch.zeros(1, 4, 4))
        >>> round(metric.compute().item(), 4)
        0.6667
    """

    higher_is_better = True

    def update(self, prediction: Array, target: Array) -> None:
        """Adds a batch of masks `[..., H, W]`, as `dice` takes them."""
        score = dice_per_mask(prediction, target)
        self._add(score, torch.ones_like(score))


@final
class Accuracy(_Mean):
    """The metric `accuracy` over a stream of batches: the share over all processes.

    Example:
        >>> metric = Accuracy()
        >>> metric.update(torch.tensor([[2.0, 1.0]]), torch.tensor([0]))
        >>> metric.update(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([1, 1]))
        >>> round(metric.compute().item(), 4)
        0.6667
    """

    higher_is_better = True

    def update(self, logits: Array, labels: Array) -> None:
        """Adds a batch of logits `[B, C]` and labels, as `accuracy` takes them."""
        correct, known = judge(*read_samples("logits", logits, labels))
        self._add(correct.sum(1), known.sum(1))


@final
class CrossEntropy(_Mean):
    """The metric `cross_entropy` over a stream: the mean over all known labels of all processes.

    Example:
        >>> metric = CrossEntropy()
        >>> metric.update(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
        >>> round(metric.compute().item(), 4)
        0.6931
    """

    higher_is_better = False

    def update(self, logits: Array, labels: Array) -> None:
        """Adds a batch of logits `[B, C]` and labels, as `cross_entropy` takes them."""
        self._add(*sample_losses(*read_samples("logits", logits, labels)))
