"""The parts of the commands: options that were given, one line for a mistake."""

import io
import json
import sys
from pathlib import Path

import pytest

from mmfusion import FusionProcessor
from mmfusion.cli import options, support


def test_options_that_were_not_given_are_left_out() -> None:
    assert support.given(a=None, b=0, c="x") == {"b": 0, "c": "x"}


def test_a_misspelt_part_is_refused_where_it_is_not_used(small: Path) -> None:
    """A classifier of one modality has no fusion, so it would take any name."""
    rows = support.load_rows(small / "rows.csv")
    for wrong in ({"fusion": "concta", "mapper": "linear"}, {"fusion": "late", "mapper": "liner"}):
        with pytest.raises(ValueError, match=r"must be one of .* Did you mean '(concat|linear)'"):
            support.compose(
                rows, "test_vit", None, what=options.Train.all, pretrained=False, seed=0, **wrong
            )


def test_json_has_no_words_that_json_lacks() -> None:
    value = {"a": [float("nan"), 1.5, {"b": (float("inf"), "NaN")}], "c": None, "d": True}
    text = support.to_json(value)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    found = json.loads(text, parse_constant=refuse)
    assert found == {"a": [None, 1.5, {"b": [None, "NaN"]}], "c": None, "d": True}


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"clear\r\nlungs", "clear\nlungs"), (b"\xef\xbb\xbfclear", "clear"), ("肺".encode(), "肺")],
)
def test_a_text_is_the_same_from_a_file_and_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, text: str
) -> None:
    # The locale of a terminal may be another one.
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
    (tmp_path / "text.txt").write_bytes(content)
    assert support.read_text(Path("-")) == text
    assert support.read_text(tmp_path / "text.txt") == text


def test_standard_input_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    with pytest.raises(ValueError, match="--text must be UTF-8, got '-', which is not at byte 3"):
        support.read_text(Path("-"))
    with Path("/dev/zero").open() as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        with pytest.raises(ValueError, match="--text must have at most 16777216 bytes"):
            support.read_text(Path("-"))
    for closed in (None, endless):
        monkeypatch.setattr(sys, "stdin", closed)
        with pytest.raises(ValueError, match="standard input is closed"):
            support.read_text(Path("-"))


def test_a_reader_of_a_model_may_fail_in_any_way(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(name: str) -> None:
        raise KeyError("tensors")

    monkeypatch.setattr(FusionProcessor, "from_pretrained", torn)
    with pytest.raises(ValueError, match=r"must have whole files, got KeyError: .tensors.\. Copy"):
        support.open_model(str(small / "model"))
