"""The reader of tables on disk: CSV, JSON lines and Parquet. Its errors name the damage."""

import csv
import io
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ..model.printing import list_names, printable

NEWLINES = "\r\n"
SENTINEL = "\x1f"
SHOWN = 10
LONGEST = 200
LONGEST_NAME = 1000
MAX_BYTES = 2**30
"""The most bytes of a table, in its file and in memory. A small Parquet file can unfold to more."""
MAX_ROWS = 10**7
BATCH = 1024
"""The number of rows of a Parquet file that are unfolded at once, before their size is counted."""


def read_table(path: Path) -> pa.Table:
    """Returns the table of a file, with at least one row and with distinct column names.

    Cells of a CSV file stay strings; empty cells become null. A byte order mark, Windows line ends
    and line breaks within quotation marks are accepted. Blank lines are
    skipped, but a CSV file must begin with its header. NaN in JSON becomes null.

    Args:
        path: a .csv, .jsonl, .json (one object per line) or .parquet file. All text is in UTF-8.

    Raises:
        ValueError: if the file cannot be read, is damaged or empty, or names a column twice; if it
            is no regular file (a pipe or a device would never end); if it, or the table in memory,
            has more than `MAX_BYTES` bytes or `MAX_ROWS` rows.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "rows.jsonl")
        ...     _ = path.write_text('{"text": "clear", "age": 45}')
        ...     read_table(path).to_pylist()
        [{'text': 'clear', 'age': 45}]
    """
    readers = {
        ".csv": _read_csv,
        ".jsonl": _read_jsonl,
        ".json": _read_jsonl,
        ".parquet": _read_parquet,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"path must be a file that ends in {', '.join(readers)}, got {str(path)!r}. "
            "Save it as one."
        )
    table = reader(path, _content(path))
    # Arrow cuts a name at a zero byte.
    if odd := [name for name in table.column_names if "\0" in name or len(name) > LONGEST_NAME]:
        raise ValueError(
            f"{path} must have column names of at most {LONGEST_NAME} characters and without zero "
            f"bytes, got {list_names(odd)}. Rename them."
        )
    if table.num_rows == 0:
        raise ValueError(
            f"{path} must be a table with at least one row, got 0 rows. Add the samples."
        )
    _check_size(path, table.nbytes, table.num_rows)
    names = table.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"{path} must be a table with distinct column names, got {list_names(twice)} twice. "
            "Rename one."
        )
    return table


def cells_of(column: pa.ChunkedArray) -> list[Any]:
    """Returns the cells of a column as objects of Python.

    Args:
        column: of a table that `read_table` returned.
    """
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        # Python's own times have microseconds. Nanoseconds would need pandas.
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    values: list[Any] = column.to_pylist()
    if pa.types.is_float32(kind):
        # As a float of Python, .1 would be written as .10000000149011612.
        values = [None if value is None else np.float32(value) for value in values]
    return values


def further_column(path: Path, name: str, column: pa.ChunkedArray) -> tuple[Any, pa.ChunkedArray]:
    """Returns the feature and the values of a further column of a manifest.

    Args:
        path: the manifest, for messages.
        name: of the column.
        column: of a table that `read_table` returned.

    Raises:
        ValueError: if datasets has no such type.
    """
    kind = column.type
    if pa.types.is_null(kind):
        kind = pa.string()
    elif pa.types.is_dictionary(kind):
        # pandas writes a categorical as a dictionary column. datasets has no such column.
        kind = kind.value_type
    try:
        feature = datasets.Features.from_arrow_schema(pa.schema([(name, kind)]))[name]
    except (ValueError, NotImplementedError) as error:
        raise ValueError(
            f"column {name!r} of {path} must be of a type that datasets knows, "
            f"got {kind} ({error}). Drop it."
        ) from error
    return feature, column.cast(kind)


def refuse_cells(
    name: str, rule: str, cells: Sequence[tuple[int, object]], advice: str
) -> NoReturn:
    """Raises the ValueError that names the rows and values of the wrong cells.

    Args:
        name: what is wrong, such as the column.
        rule: what it must be.
        cells: the row, counted from 1, and the value of each wrong cell.
        advice: what to do.
    """
    shown = ", ".join(f"{repr(value)[:LONGEST]} in row {row}" for row, value in cells[:SHOWN])
    more = f" and {len(cells) - SHOWN} more" if len(cells) > SHOWN else ""
    raise ValueError(f"{name} must be {rule}, got {shown}{more}. {advice}")


def _content(path: Path) -> bytes:
    """Returns the bytes of a regular file of at most `MAX_BYTES`."""
    try:
        # The name goes into messages and into groups, which are text.
        str(path).encode()
        status = os.stat(path)
        # A pipe would be waited for, and a device such as /dev/zero has no end.
        reason = None if is_finite(status.st_mode) else "it is a pipe, a socket or a device"
    except OSError as error:
        reason = error.strerror
    except ValueError as error:
        reason = str(error)
    if reason is None:
        _check_size(path, status.st_size)
        try:
            return path.read_bytes()
        except OSError as error:
            reason = error.strerror
    raise ValueError(f"path must be a readable file, got {str(path)!r} ({reason}). Check the path.")


def is_finite(mode: int) -> bool:
    """Returns whether what has this `st_mode` ends when it is read: a regular file, or a folder."""
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _check_size(path: Path, size: int, rows: int = 0) -> None:
    if size > MAX_BYTES or rows > MAX_ROWS:
        raise ValueError(
            f"{path} must be a table of at most {MAX_BYTES} bytes and {MAX_ROWS} rows, "
            f"got {size} bytes and {rows} rows. Leave columns out, or divide it."
        )


def _decode(path: Path, content: bytes) -> str:
    try:
        # Of two marks pyarrow would drop the second, and then read the column under another name.
        return content.decode().lstrip("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} must be text in UTF-8, got the byte {content[error.start]:#04x} "
            f"in line {line}. Save it as UTF-8."
        ) from error


def _read_csv(path: Path, content: bytes) -> pa.Table:
    text = _decode(path, content)
    # pyarrow keeps cells as strings only in named columns, so the header is needed first.
    try:
        header = next(csv.reader(io.StringIO(text, newline="")), [])
    except csv.Error as error:
        raise ValueError(
            f"{path} must begin with a row of column names, got none ({error}). Add it."
        ) from error
    if not header:
        raise ValueError(
            f"{path} must begin with a row of column names, got an empty line. Add it."
        )
    # If a quotation mark stays open, pyarrow reads the rest of the file as one cell and raises no
    # error. This added last row is then missing in the table, which reveals the open mark.
    ended = f"{text.rstrip(NEWLINES)}\n{','.join([SENTINEL] * len(header))}\n".encode()
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(ended),
            # One block for the whole file, because pyarrow refuses a row longer than a block.
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=len(ended) + 1),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in header},
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowException as error:
        reason = printable(str(error).partition("\n")[0][:LONGEST])
        raise ValueError(
            f"{path} must be a well-formed CSV file (its header is row 1), got: {reason} "
            "Put cells that hold commas or line breaks in quotation marks."
        ) from error
    last = table.slice(table.num_rows - 1)
    if any(column[0].as_py() != SENTINEL for column in last.columns):
        raise ValueError(
            f"{path} must have every quotation mark closed, got one that stays open in row "
            f"{table.num_rows}. Close it, or write a mark within a cell twice."
        )
    return table.slice(0, table.num_rows - 1)


def _read_jsonl(path: Path, content: bytes) -> pa.Table:
    rows: list[dict[str, object]] = []
    for number, line in enumerate(_decode(path, content).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} must hold one JSON object per line, got {line[:60]!r} in line {number} "
                f"({error}). Write each row on a line of its own."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{path} must hold one JSON object per line, got {line[:60]!r} in line {number}. "
                'Write each row as {"column": value, ...}.'
            )
        rows.append(row)
    # A dict keeps the order in which the columns first appear.
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        _check_text(path, "a column's name", [name])
    # Each row may bring columns of its own, so a small file can be a large table.
    _check_size(path, 8 * len(names) * len(rows), len(rows))
    columns = [_json_column(path, name, [row.get(name) for row in rows]) for name in names]
    return pa.Table.from_arrays(columns, names=names)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Returns a JSON object as a dict; of two values under one name, none may be lost."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it names {twice[:LONGEST]!r} twice")
    return made


def _check_text(path: Path, what: str, values: Sequence[object]) -> None:
    """Refuses halves of characters: JSON can write such a lone surrogate, UTF-8 cannot."""
    wrong = []
    for row, value in enumerate(values, start=1):
        try:
            # The repr of a list would write the half as an escape, JSON keeps it.
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            wrong.append((row, value))
    if wrong:
        rule = "values of one kind, and whole characters of Unicode"
        refuse_cells(f"{what} of {path}", rule, wrong, "Mend the characters.")


def _json_column(path: Path, name: str, values: Sequence[object]) -> pa.Array:
    try:
        # The NaN that json.dumps writes for a missing value of pandas is null in every column.
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, UnicodeError, OverflowError) as error:
        _check_text(path, f"column {name!r}", values)
        # Reversed, so that the first row of each kind is the one that stays in the dict.
        first = {
            type(value).__name__: row for row, value in reversed(list(enumerate(values, start=1)))
        }
        kinds = ", ".join(
            f"{kind} in row {row}" for kind, row in sorted(first.items()) if kind != "NoneType"
        )
        raise ValueError(
            f"column {name!r} of {path} must be values of one kind, got {kinds} "
            f"({printable(str(error)[:LONGEST])}). Write strings."
        ) from error


def _read_parquet(path: Path, content: bytes) -> pa.Table:
    try:
        file = pyarrow.parquet.ParquetFile(pa.BufferReader(content))
        described = file.metadata
        groups = [described.row_group(at) for at in range(described.num_row_groups)]
        _check_size(path, sum(group.total_byte_size for group in groups), described.num_rows)
        batches, size = [], 0
        # The declared sizes are those of the encoded columns. A value that is stored once and used
        # in every row takes more in memory, so the size is counted while the rows unfold.
        for batch in file.iter_batches(batch_size=BATCH, use_threads=False):
            batches.append(batch)
            size += batch.nbytes
            _check_size(path, size)
        # The metadata is dropped: it describes the file's columns, and `load_manifest` changes
        # them.
        table = pa.Table.from_batches(batches, file.schema_arrow).replace_schema_metadata(None)
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(
            f"{path} must be a Parquet file, got {len(content)} bytes that are not "
            f"({printable(str(error)[:LONGEST])}). Write it anew."
        ) from error
    for name, column in zip(table.column_names, table.columns, strict=True):
        _check_column(path, name, column)
    return table


def _check_column(path: Path, name: str, column: pa.ChunkedArray) -> None:
    """Refuses a column of a Parquet file whose parts or characters are damaged."""
    kind = column.type
    try:
        column.validate(full=True)
        # Arrow's years reach further than those of Python, which would fail where a row is used.
        if pa.types.is_temporal(kind) or pa.types.is_nested(kind) or pa.types.is_dictionary(kind):
            column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as error:
        what = f"column {name[:LONGEST]!r}"
        if "UTF8" in str(error).upper().replace("-", ""):
            _refuse_bytes(path, what, column)
        raise ValueError(
            f"{what} of {path} must be sound, got: {printable(str(error)[:LONGEST])}. "
            "Write the file anew."
        ) from error


def _refuse_bytes(path: Path, what: str, column: pa.ChunkedArray) -> None:
    """Refuses the rows whose bytes are not UTF-8, if the column is one of plain strings."""
    kind: Any = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        wide = pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()
        wrong = []
        for row, value in enumerate(column.cast(wide).to_pylist(), start=1):
            try:
                (value or b"").decode()
            except UnicodeDecodeError:
                wrong.append((row, value))
        refuse_cells(f"{what} of {path}", "text in UTF-8", wrong, "Write it as UTF-8.")
