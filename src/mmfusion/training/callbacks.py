"""Trainer callbacks: best weights in memory, times, digests of checkpoints, epochs for the rows."""

import time
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from transformers import TrainerCallback, TrainingArguments

from ..data.collate import Augmented
from .resume import write_digests


@final
class BestInMemory(TrainerCallback):
    """The callback that keeps the weights of the best validation in memory.

    `fit` gives it the weights of the warm start by `take`.

    Args:
        arguments: they name the metric.
        follows: whether it also takes the weights of the epochs. With checkpoints, the Trainer does
            that.
    """

    def __init__(self, arguments: TrainingArguments, *, follows: bool) -> None:
        name = str(arguments.metric_for_best_model)
        self._metric = name if name.startswith("eval_") else f"eval_{name}"
        self._sign = 1 if arguments.greater_is_better else -1
        self._weights: dict[str, torch.Tensor] = {}
        self._taken = 0
        self._follows = follows
        self.value: float | None = None

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Copies the weights if the metric is better than at every earlier validation."""
        if self._follows:
            self.take(kwargs["model"], kwargs["metrics"])

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Makes the validation of the start the first one to be beaten.

        The Trainer forgets that validation when the training begins. Its early stopping would then
        compare the epochs only with each other. A resumed checkpoint knows it.
        """
        if state.best_metric is None:
            state.best_metric = self.value

    @property
    def is_first(self) -> bool:
        """Whether the weights that are kept are those of the first validation."""
        return self._taken == 1

    def is_beaten_by(self, value: float) -> bool:
        """Returns whether a value is better than the best one so far.

        Args:
            value: of the metric.
        """
        return self.value is None or self._sign * value > self._sign * self.value

    def take(self, model: torch.nn.Module, metrics: dict[str, Any]) -> None:
        """Copies the weights if the metric is better than at every earlier call.

        Args:
            model: as it was validated.
            metrics: the results of the validation.
        """
        value = metrics.get(self._metric)
        if value is not None and self.is_beaten_by(value):
            self.value = value
            self._taken += 1
            # Frozen parameters do not change, so a copy of them would only use memory. Buffers such
            # as batch-norm statistics can change, so they are copied.
            frozen = {
                name for name, parameter in model.named_parameters() if not parameter.requires_grad
            }
            self._weights = {
                name: tensor.detach().clone()
                for name, tensor in model.state_dict().items()
                if name not in frozen
            }

    def restore(self, model: torch.nn.Module) -> None:
        """Loads the best weights into the model; does nothing if no validation has run."""
        if self._weights:
            # The copy lacks the frozen parameters, so it is not a complete state dict.
            model.load_state_dict(self._weights, strict=False)


@final
class Clock(TrainerCallback):
    """The callback that times the epochs without their validation and checkpoints."""

    def __init__(self) -> None:
        self._started = 0.0
        self._seconds: list[float] = []

    @property
    def seconds_per_epoch(self) -> float:
        """The mean number of seconds per epoch, or NaN if no epoch was trained."""
        return float(np.mean(self._seconds)) if self._seconds else float("nan")

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Stops the clock; the Trainer calls this before it validates."""
        self._seconds.append(time.perf_counter() - self._started)


@final
class Digests(TrainerCallback):
    """The callback that writes the digests of each checkpoint, so that later damage is seen."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Writes the digests of the checkpoint that the Trainer has just completed."""
        if state.is_world_process_zero:
            write_digests(Path(args.output_dir) / f"checkpoint-{state.global_step}")


@final
class Epochs(TrainerCallback):
    """The callback that tells the augmented rows the number of the epoch.

    Accelerate also calls `set_epoch`, but not in an epoch that is resumed in the middle: there it
    wraps the batch sampler and does not reach the dataset.
    """

    def __init__(self, rows: Augmented) -> None:
        self._rows = rows

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Sets the number of the epoch that begins or is resumed."""
        # `state.epoch` is a fraction of steps, so rounding can put it just below a whole number.
        self._rows.set_epoch(int((state.epoch or 0) + 1e-6))
