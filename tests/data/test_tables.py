"""The reading of tables, through `load_manifest`: odd files that are good, and damaged files."""

from pathlib import Path

import pytest

from mmfusion.data.manifest import load_manifest


def write(folder: Path, content: str | bytes, name: str = "manifest.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\xef\xbb\xbftext\n007\n", "007"),
        (b"text\r\nclear\r\n", "clear"),
        (b"text\nclear", "clear"),
        (b'text\n"one, ""two""\nthree"\n', 'one, "two"\nthree'),
        (b'text\n"one\r\ntwo"\r\n', "one\ntwo"),
        ("text\nclear\x00lungs\x85\x1b\tno\n".encode(), "clear lungs  \tno"),
        (b"text\nNA\n", "NA"),
        ("text\nœdème 肺\n".encode(), "œdème 肺"),
        (b"text\n" + b"word " * 300_000, "word " * 300_000),
        (b'text\n5" nail\n', '5" nail'),
    ],
    ids=[
        "mark",
        "crlf",
        "no-end",
        "quoted",
        "quoted-crlf",
        "control",
        "NA",
        "unicode",
        "1.5MB",
        "inches",
    ],
)
def test_odd_but_good_csv(folder: Path, content: bytes, text: str) -> None:
    rows = load_manifest(write(folder, content), image=None, label=None)
    assert rows["text"][:] == [text]


BAD_FILES = {
    "nothing": ("m.csv", b"", r"m.csv must begin with a row of column names"),
    "header only": ("m.csv", b"image,text,label\n", r"at least one row, got 0 rows"),
    "ragged": (
        "m.csv", b"text,label\na,b\na,b,c\n",
        r"well-formed CSV.*Row #3: Expected 2 columns, got 3",
    ),
    "short row": ("m.csv", b"text,label\na\n", r"Row #2: Expected 2 columns, got 1"),
    "open quote": ("m.csv", b'text,label\n"a,b\nc,d\n', r"quotation mark closed|well-formed"),
    "open quote at the end": ("m.csv", b'text,label\na,b\nc,"d\n', r"one that stays open in row 2"),
    "open quote in the header": (
        "m.csv", b'text,"label\na,b\n',
        r"must be a table with at least|must have every|well",
    ),
    "column twice": (
        "m.csv", b"text,text,label\na,b,c\n",
        r"distinct column names, got \['text'\]",
    ),
    "latin-1": ("m.csv", b"text,label\na,b\n\xe9,b\n", r"UTF-8, got the byte 0xe9 in line 3"),
    "utf-16": (
        "m.csv", "text,label\na,b\n".encode("utf-16"),
        r"UTF-8, got the byte 0xff in line 1",
    ),
    "semicolons": ("m.csv", b"image;text;label\na;b;c\n", r"must be separated by commas"),
    "endless header": ("m.csv", b"x" * 200_000, r"begin with a row of column names"),
    "not JSON": (
        "m.jsonl", b'{"text": "a"}\n{text}\n',
        r"one JSON object per line, got '\{text\}' in line 2",
    ),
    "a JSON list": ("m.json", b'["a"]', r"one JSON object per line, got '\[\"a\"\]' in line 1"),
    "nested to death": ("m.jsonl", b"[" * 100_000, r"one JSON object per line"),
    "mixed kinds": (
        "m.jsonl", b'{"text": "a", "label": "x"}\n{"text": "b", "label": 1}',
        r"column 'label' of .* one kind, got int in row 2, str in row 1",
    ),
    "empty objects": ("m.jsonl", b"{}\n{}", r"at least one row"),
    "not Parquet": ("m.parquet", b"PAR1 not", r"m.parquet must be a Parquet file, got 8 bytes"),
    "empty Parquet": ("m.parquet", b"", r"must be a Parquet file, got 0 bytes"),
    "unknown suffix": ("m.xlsx", b"x", r"ends in .csv, .jsonl, .json, .parquet, got .*m.xlsx"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files(folder: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_manifest(write(folder, content, name), image=None)


@pytest.mark.parametrize("name", ["absent.csv", "images.csv"])
def test_unreadable_paths(folder: Path, name: str) -> None:
    (folder / "images.csv").mkdir()
    with pytest.raises(ValueError, match=f"readable file, got .*{name}"):
        load_manifest(folder / name)
