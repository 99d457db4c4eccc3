"""The model of a command, and the text of one sample: a file, standard input or the words."""

import io
import sys
from pathlib import Path

import pytest

from mmfusion import FusionProcessor
from mmfusion.cli import inputs


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
    assert inputs.read_text(Path("-")) == text
    assert inputs.read_text(tmp_path / "text.txt") == text


def test_standard_input_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    with pytest.raises(ValueError, match="--text must be UTF-8, got '-', which is not at byte 3"):
        inputs.read_text(Path("-"))
    with Path("/dev/zero").open() as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        with pytest.raises(ValueError, match="--text must have at most 16777216 bytes"):
            inputs.read_text(Path("-"))
    for closed in (None, endless):
        monkeypatch.setattr(sys, "stdin", closed)
        with pytest.raises(ValueError, match="standard input is closed"):
            inputs.read_text(Path("-"))


def test_a_reader_of_a_model_may_fail_in_any_way(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(name: str) -> None:
        raise KeyError("tensors")

    monkeypatch.setattr(FusionProcessor, "from_pretrained", torn)
    with pytest.raises(ValueError, match=r"must have whole files, got KeyError: .tensors.\. Copy"):
        inputs.open_model(str(small / "model"))


def test_words_are_told_from_names_of_files(tmp_path: Path) -> None:
    """A mistyped name is never taken for a text."""
    file = tmp_path / "a report of today"
    file.write_text("from the file")
    assert inputs.read_sample(None, str(file)) == "from the file"
    for words in ("no effusion", "Heart size is normal. No focal consolidation.", "a " * 3000):
        assert inputs.read_sample(None, words) == words
    for name in ("reprot.txt", "my reprot.txt", "two words/and a.json", "reprot", " reprot "):
        with pytest.raises(ValueError, match="--text must be a file, got"):
            inputs.read_sample(None, name)
