"""What a training prints: one line an epoch, a bar on a terminal alone, nothing if asked."""

import re
from typing import Any

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState

from mmfusion import fit, predict
from mmfusion.training import progress


def printed(capsys: Any, compose: Any, rows: Any, arguments: Any, *, validates: bool = True) -> Any:
    """Returns the lines that a training and a prediction print."""
    model, processor = compose(rows)
    held_out = rows.select(range(30, 40)) if validates else None
    capsys.readouterr()
    fit(model, processor, rows.select(range(30)), held_out, arguments=arguments)
    predict(model, processor, rows.select(range(5)), arguments=arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    return [line for line in captured.err.splitlines() if line.strip()]


def test_one_line_an_epoch(capsys: Any, compose: Any, rows: Any, quiet: Any, tmp_path: Any) -> None:
    arguments = quiet(tmp_path, num_train_epochs=3, disable_tqdm=False)
    start, *epochs = printed(capsys, compose, rows, arguments)
    figures = r"validation loss \d\.\d{3}, accuracy \d\.\d{3}(, AUROC \d\.\d{3})?"
    assert re.fullmatch(f"warm start: {figures}", start)
    assert len(epochs) == 3
    for number, line in enumerate(epochs, start=1):
        assert re.fullmatch(
            rf"epoch {number} of 3: training loss \d\.\d{{3}}; {figures}; \d+ s", line
        )


def test_without_validation(
    capsys: Any, compose: Any, rows: Any, quiet: Any, tmp_path: Any
) -> None:
    arguments = quiet(tmp_path, num_train_epochs=2, disable_tqdm=False)
    lines = printed(capsys, compose, rows, arguments, validates=False)
    assert [re.sub(r"\d+\.\d+|\d+ s", "#", line) for line in lines] == [
        "epoch 1 of 2: training loss #; #",
        "epoch 2 of 2: training loss #; #",
    ]


def test_nothing_is_printed_if_asked(
    capsys: Any, compose: Any, rows: Any, quiet: Any, tmp_path: Any
) -> None:
    assert printed(capsys, compose, rows, quiet(tmp_path, disable_tqdm=True)) == []


def test_a_terminal_shows_a_bar_and_gets_its_cursor_back(
    monkeypatch: pytest.MonkeyPatch, compose: Any, rows: Any, quiet: Any, tmp_path: Any
) -> None:
    consoles = []

    def terminal(**options: Any) -> Console:
        consoles.append(Console(**options, force_terminal=True, record=True, width=80))
        return consoles[-1]

    monkeypatch.setattr(progress, "Console", terminal)
    monkeypatch.setattr("mmfusion.training.fit.Digests.on_save", broken)
    model, processor = compose(rows)
    arguments = quiet(tmp_path, disable_tqdm=False)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        fit(model, processor, rows.select(range(30)), rows.select(range(9)), arguments=arguments)
    assert len(consoles) == 1
    shown = consoles[0].export_text()
    assert "training" in shown and "epoch 1 of 1" in shown
    # Rich marks a console that a live display still holds.
    assert consoles[0]._live_stack == [] and not consoles[0].is_alt_screen


def broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("the disk is gone")


def test_other_processes_print_nothing(capsys: Any, quiet: Any, tmp_path: Any) -> None:
    lines = progress.EpochLines()
    state = TrainerState(is_world_process_zero=False, epoch=1.0, global_step=4)
    lines.on_evaluate(quiet(tmp_path), state, TrainerControl(), metrics={"eval_loss": 1.0})
    assert capsys.readouterr().err == ""
