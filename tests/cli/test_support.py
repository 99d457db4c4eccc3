"""The parts of the commands: rows that can be used, class frequencies, one line for a mistake."""

import math

import datasets
import numpy as np
import pytest
import typer

from mmfusion.cli import support


def test_rows_with_one_of_the_modalities_can_be_used() -> None:
    rows = datasets.Dataset.from_dict(
        {"image": ["a.png", None, None, "b.png"], "text": ["x", "y", None, None]}
    )
    assert support.rows_with(rows, ("image", "text")) == [0, 1, 3]
    assert support.rows_with(rows, ("text",)) == [0, 1]
    assert support.rows_with(rows.remove_columns("image"), ("image", "text")) == [0, 1]


def test_log_odds_leave_the_unknown_out_and_stay_finite() -> None:
    labels = [[1.0, math.nan, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, math.nan, 1.0]]
    odds = support._log_odds(labels)
    assert np.allclose(odds[:2], [math.log(0.25 / 0.75), 0.0])
    assert math.isfinite(odds[2]) and odds[2] > 10


def test_a_mistake_is_one_line_and_a_bug_is_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(error: Exception) -> None:
        raise error

    with pytest.raises(typer.Exit):
        support.user_errors(fails)(ValueError("names must be [a, b]"))
    assert capsys.readouterr().err == "error: names must be [a, b]\n"
    with pytest.raises(KeyError):
        support.user_errors(fails)(KeyError("a bug"))
    monkeypatch.setenv("MMFUSION_DEBUG", "1")
    with pytest.raises(ValueError, match="names must be"):
        support.user_errors(fails)(ValueError("names must be [a, b]"))
