"""The parts of the commands: options that were given, one line for a mistake."""

import pytest
import typer

from mmfusion.cli import support


def test_options_that_were_not_given_are_left_out() -> None:
    assert support.given(a=None, b=0, c="x") == {"b": 0, "c": "x"}


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
