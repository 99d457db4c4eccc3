"""Callbacks of the Trainer: the best weights in memory, the clock, the epoch of augmented rows."""

import time
from typing import Any, final

import numpy as np
import torch
from transformers import TrainerCallback, TrainingArguments

from ..data.collate import Augmented


@final
class BestInMemory(TrainerCallback):
    """Keeps what trained, as it was at the best validation, where no checkpoints are written."""

    def __init__(self, arguments: TrainingArguments) -> None:
        name = str(arguments.metric_for_best_model)
        self._metric = name if name.startswith("eval_") else f"eval_{name}"
        self._sign = 1 if arguments.greater_is_better else -1
        self._weights: dict[str, torch.Tensor] = {}
        self.value: float | None = None

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Keep the weights if the metric is better than ever."""
        model, value = given["model"], given["metrics"].get(self._metric)
        if value is not None and (
            self.value is None or self._sign * value > self._sign * self.value
        ):
            self.value = value
            frozen = {
                name for name, parameter in model.named_parameters() if not parameter.requires_grad
            }
            self._weights = {
                k: v.detach().clone() for k, v in model.state_dict().items() if k not in frozen
            }

    def restore(self, model: torch.nn.Module) -> None:
        """Put the best weights back."""
        if self._weights:
            model.load_state_dict(self._weights, strict=False)


@final
class Clock(TrainerCallback):
    """Times the epochs without their validation and checkpoints."""

    def __init__(self) -> None:
        self._started = 0.0
        self._seconds: list[float] = []

    @property
    def seconds_per_epoch(self) -> float:
        """The mean, or NaN where no epoch was trained."""
        return float(np.mean(self._seconds)) if self._seconds else float("nan")

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Stop it, before validation begins."""
        self._seconds.append(time.perf_counter() - self._started)


@final
class Epochs(TrainerCallback):
    """Tells the augmented rows the epoch.

    Accelerate does so too, but not in an epoch that is resumed in its middle, whose batch sampler
    it wraps.
    """

    def __init__(self, rows: Augmented) -> None:
        self._rows = rows

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell the epoch that begins, or goes on."""
        self._rows.set_epoch(int((state.epoch or 0) + 1e-6))
