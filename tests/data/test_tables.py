"""The reading of tables, through `load_manifest`: odd files that are good, and damaged files."""

import json
import os
import socket
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from mmfusion.data import tables
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


LONE = {
    "cell": ('{"text": "\\ud83d"}', r"column 'text' of .* got '\\ud83d' in row 1"),
    "later row": ('{"text": "a"}\n{"text": "\\udc00b"}', r"'\\udc00b' in row 2"),
    "nested": ('{"text": "a", "more": ["\\ud800"]}', r"column 'more' of .* in row 1"),
    "name": ('{"te\\ud800xt": "a"}', r"column's name of .* whole characters"),
}


@pytest.mark.parametrize(("content", "message"), LONE.values(), ids=LONE)
def test_half_a_character_of_json_is_named(folder: Path, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_manifest(write(folder, content, "m.jsonl"), image=None, label=None)


def test_a_pair_of_halves_is_a_character(folder: Path) -> None:
    path = write(folder, '{"text": "\\ud83e\\udec1"}', "m.jsonl")
    assert load_manifest(path, image=None, label=None)["text"][:] == ["\U0001fac1"]


def test_a_json_object_names_a_column_once(folder: Path) -> None:
    path = write(folder, '{"text": "a", "label": "ill", "label": "well"}', "m.jsonl")
    with pytest.raises(ValueError, match=r"in line 1 \(it names 'label' twice\)"):
        load_manifest(path, image=None)


def test_nan_that_json_wrote_for_nothing_is_nothing(folder: Path) -> None:
    frame = pd.DataFrame({"text": ["a", None], "label": ["x", "y"], "age": [45.0, None]})
    frame = frame.astype({"text": object}).replace({None: float("nan")})
    lines = "\n".join(json.dumps(row) for row in frame.to_dict("records"))
    assert "NaN" in lines
    with pytest.raises(ValueError, match="a picture or a text in every row, got None in row 2"):
        load_manifest(write(folder, lines, "m.jsonl"), image=None)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()], ids=str)
def test_bytes_of_parquet_that_are_no_text_are_named(folder: Path, kind: pa.DataType) -> None:
    wide = pa.large_binary() if kind == pa.large_string() else pa.binary()
    cells = pa.array([b"clear", b"caf\xe9", b"\xff"], wide).view(kind)
    pa.parquet.write_table(pa.table({"text": cells}), folder / "m.parquet")
    message = r"'text' of .* must be text in UTF-8, got b'caf\\xe9' in row 2, b'\\xff' in row 3"
    with pytest.raises(ValueError, match=message):
        load_manifest(folder / "m.parquet", image=None, label=None)


def test_bytes_of_a_categorical_and_of_a_list_are_refused(folder: Path) -> None:
    bad = pa.array([b"\xff"], pa.binary()).view(pa.string())
    for cells in (bad.dictionary_encode(), pa.ListArray.from_arrays([0, 1], bad)):
        pa.parquet.write_table(pa.table({"text": ["a"], "more": cells}), folder / "m.parquet")
        with pytest.raises(ValueError, match=r"column 'more' of .* must be sound, got: .*UTF8"):
            load_manifest(folder / "m.parquet", image=None, label=None)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device", "socket"])
def test_what_never_ends_is_refused_before_it_is_opened(
    folder: Path, suffix: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / f"m{suffix}"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        # The name of a socket is short, and pytest's folders are deep.
        listening = socket.socket(socket.AF_UNIX)
        monkeypatch.chdir(folder)
        listening.bind(path.name)
        listening.close()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"readable file, got .*\(it is a pipe, a socket or a dev"):
        load_manifest(path)


def test_a_file_that_is_too_large_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A sparse file: it takes no room on the disk.
    for name in ("m.csv", "m.parquet"):
        with open(folder / name, "wb") as file:
            file.truncate(tables.MAX_BYTES + 1)
        monkeypatch.setattr(Path, "read_bytes", None)
        with pytest.raises(ValueError, match=rf"at most .* got {tables.MAX_BYTES + 1} bytes"):
            load_manifest(folder / name)


def test_a_small_file_must_not_unfold_to_a_large_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MAX_BYTES", 2**24)
    word = pa.DictionaryArray.from_arrays(pa.array([0] * 4_000, pa.int32()), ["x" * 10_000])
    pa.parquet.write_table(pa.table({"text": word.cast(pa.string())}), folder / "m.parquet")
    nothing = pa.nulls(tables.MAX_ROWS + 1)
    pa.parquet.write_table(pa.table({"text": nothing}), folder / "n.parquet")
    lines = "\n".join(f'{{"c{number}": 1}}' for number in range(2_000))
    write(folder, lines, "l.jsonl")
    for name in ("m.parquet", "n.parquet", "l.jsonl"):
        assert (folder / name).stat().st_size < 2_000_000
        with pytest.raises(ValueError, match=rf"{name} must be a table of at most"):
            # The table itself would take 40 MB or more.
            load_manifest(folder / name)


def test_two_byte_order_marks_leave_the_cells_strings(folder: Path) -> None:
    """Cells of a column whose name was read otherwise would become numbers."""
    rows = load_manifest(write(folder, "\ufeff\ufefftext\n007\n"), image=None, label=None)
    assert rows["text"][:] == ["007"]


@pytest.mark.parametrize("name", ["m\x00.csv", "m\udcff.csv"])
def test_a_path_that_is_no_text(folder: Path, name: str) -> None:
    if "\0" not in name:
        (folder / name).write_text("text\na\n")
    with pytest.raises(ValueError, match="path must be a readable file"):
        load_manifest(folder / name, image=None, label=None)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["text", "a", "a"], r"distinct column names, got \['a'\] twice"),
        (["text", "a\0", "b"], r"without zero bytes, got \['a\\x00'\]"),
        (["text", "x" * 1001, "b"], r"at most 1000 characters .*, got \['x{100}\.\.\.'\]\. Rename"),
    ],
)
def test_names_of_columns_that_no_table_can_have(
    folder: Path, names: list[str], message: str
) -> None:
    table = pa.Table.from_arrays([pa.array(["x"])] * 3, names=names)
    pa.parquet.write_table(table, folder / "m.parquet")
    pa.csv.write_csv(table, folder / "m.csv")
    for name in ("m.parquet", "m.csv"):
        with pytest.raises(ValueError, match=message):
            load_manifest(folder / name, image=None, label=None)


def test_a_message_does_not_list_thousands_of_columns(folder: Path) -> None:
    path = write(folder, ",".join(f"column{number}" for number in range(5000)) + "\n")
    path.write_text(path.read_text() + ",".join(["x"] * 5000))
    with pytest.raises(ValueError, match=r"'column49'\] and 4950 more of ") as error:
        load_manifest(path)
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    "cells",
    [
        pa.array([2**62, 0], pa.timestamp("us")),
        pa.array([2**31 - 1, 0], pa.date32()),
        pa.array([2**62, 0], pa.duration("s")),
        pa.array([[2**31 - 1], [0]], pa.list_(pa.date32())),
        pa.array([2**31 - 1, 0], pa.date32()).dictionary_encode(),
    ],
    ids=lambda cells: str(cells.type),
)
@pytest.mark.parametrize("role", ["further", "label", "group"])
def test_a_time_that_python_cannot_hold_is_refused(
    folder: Path, cells: pa.Array, role: str
) -> None:
    pa.parquet.write_table(pa.table({"text": ["a", "b"], "odd": cells}), folder / "m.parquet")
    options = {"label": None} | ({} if role == "further" else {role: "odd"})
    with pytest.raises(ValueError, match=r"column 'odd' of .* must be sound, got: "):
        load_manifest(folder / "m.parquet", image=None, **options)  # type: ignore[arg-type]
