"""What trainings and predictions show: one line an epoch, and one bar on a terminal."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

_SHOWN = {"loss": "loss", "accuracy": "accuracy", "auroc": "AUROC"}
"""The figures of a validation that are shown, with their names on the screen."""


@contextmanager
def lines_of(trainer: Trainer) -> Iterator[None]:
    """Lets a Trainer print the lines of `EpochLines` in the place of its own progress bar.

    A Trainer without that bar stays as it is: in a notebook it shows a table, and with
    `disable_tqdm` nothing is wanted.

    Args:
        trainer: before it trains or predicts.
    """
    lines: Any = trainer.pop_callback(EpochLines)
    if lines is None and trainer.pop_callback(ProgressCallback) is not None:
        lines = EpochLines()
    if lines is not None:
        trainer.add_callback(lines)
    try:
        yield
    finally:
        # An error must not leave the terminal without a cursor.
        if lines is not None:
            lines.hide()


def error_console() -> Console:
    """Returns a console on the error stream, so that the output of a command can be piped."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def bar_on(console: Console) -> Progress:
    """Returns a progress bar that is gone when it is stopped; a file never sees it.

    Args:
        console: as `error_console` returns it.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shown = console.is_terminal
    return Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not shown
    )


@final
class EpochLines(TrainerCallback):
    """The callback that prints one line for each epoch, on the error stream.

    On a terminal, a bar below the lines shows the steps. It is gone when the training has ended.
    """

    def __init__(self) -> None:
        self._console = error_console()
        self._bar: Progress | None = None
        self._trains = False
        self._loss: float | None = None
        self._started = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Shows the bar."""
        self._trains = True
        self._show("training", state.max_steps, state.global_step, state)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Starts the clock of the epoch."""
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Moves the bar."""
        self._move(state.global_step)

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any
    ) -> None:
        """Shows and moves the bar of a prediction outside of a training."""
        if self._trains:
            return
        if self._bar is None:
            self._show("answering", len(eval_dataloader), 0, state)
        if self._bar is not None:
            self._move(self._bar.tasks[0].completed + 1)

    def on_predict(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        """Takes the bar of a prediction away."""
        self.hide()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keeps the loss of the epoch, or prints it where no validation follows."""
        if logs and "loss" in logs:
            self._loss = float(logs["loss"])
            if args.eval_strategy == IntervalStrategy.NO:
                self._print(state, args, {})

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        """Prints the line of the epoch, or of the warm start before the first one."""
        if not self._trains:
            self.hide()
        self._print(state, args, metrics or {})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Takes the bar away."""
        self.hide()

    def hide(self) -> None:
        """Takes the bar away, if there is one."""
        self._trains = False
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, state: Any, args: Any, metrics: dict[str, float]) -> None:
        if not state.is_world_process_zero:
            return
        # `state.epoch` is a fraction of steps, so rounding can put it just above a whole number.
        epoch = math.ceil((state.epoch or 0) - 1e-6) if state.global_step else 0
        seconds = time.perf_counter() - self._started
        # While a bar is shown, rich prints the lines of its console above the bar.
        self._console.print(
            epoch_line(epoch, int(args.num_train_epochs), self._loss, metrics, seconds)
        )
        self._loss = None

    def _show(self, what: str, total: int, done: int, state: Any) -> None:
        if self._console.is_terminal and state.is_world_process_zero:
            self._bar = bar_on(self._console)
            self._bar.add_task(what, total=total, completed=done)
            self._bar.start()

    def _move(self, completed: float) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=completed)


def epoch_line(
    epoch: int, epochs: int, loss: float | None, metrics: dict[str, float], seconds: float
) -> str:
    """Returns the line that tells of an epoch.

    Args:
        epoch: its number from 1; 0 is the warm start.
        epochs: the number of epochs at most.
        loss: the mean loss of the training steps, or None if there was none.
        metrics: the results of the validation, with the names of the Trainer.
        seconds: the duration; it is not shown for the warm start.

    Example:
        >>> epoch_line(2, 9, 0.51, {"eval_loss": 0.62, "eval_auroc": 0.8}, 7.4)
        'epoch 2 of 9: training loss 0.510; validation loss 0.620, AUROC 0.800; 7 s'
        >>> epoch_line(0, 9, None, {"eval_loss": 0.7, "eval_accuracy": 0.5}, 0.0)
        'warm start: validation loss 0.700, accuracy 0.500'
    """
    parts = [] if loss is None else [f"training loss {loss:.3f}"]
    shown = [(name, metrics.get(f"eval_{key}")) for key, name in _SHOWN.items()]
    found = [f"{name} {value:.3f}" for name, value in shown if value is not None]
    if found:
        parts.append("validation " + ", ".join(found))
    if epoch:
        parts.append(f"{seconds:.0f} s")
    return f"{f'epoch {epoch} of {epochs}' if epoch else 'warm start'}: {'; '.join(parts)}"
