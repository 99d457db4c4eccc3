"""The reader of tables on disk: CSV, JSON lines and Parquet. Its errors name the damage."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

NEWLINES = "\r\n"
SENTINEL = "\x1f"


def read_table(path: Path) -> pa.Table:
    """Returns the table of a file, with at least one row and with distinct column names.

    Cells of a CSV file stay strings; empty cells become null. A byte order mark, Windows line ends
    and line breaks within quotation marks are accepted. Blank lines are
    skipped, but a CSV file must begin with its header.

    Args:
        path: a .csv, .jsonl, .json (one object per line) or .parquet file. All text is in UTF-8.

    Raises:
        ValueError: if the file cannot be read, is damaged or empty, or names a column twice.

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
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"path must be a readable file, got {str(path)!r} ({error.strerror}). Check the path."
        ) from error
    table = reader(path, content)
    if table.num_rows == 0:
        raise ValueError(
            f"{path} must be a table with at least one row, got 0 rows. Add the samples."
        )
    names = table.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"{path} must be a table with distinct column names, got {twice!r} twice. Rename one."
        )
    return table


def _decode(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
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
        reason = str(error).partition("\n")[0]
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
            row = json.loads(line)
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
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table(
        {name: _json_column(path, name, [row.get(name) for row in rows]) for name in names}
    )


def _json_column(path: Path, name: str, values: Sequence[object]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, UnicodeError, OverflowError) as error:
        # Reversed, so that the first row of each kind is the one that stays in the dict.
        first = {
            type(value).__name__: row for row, value in reversed(list(enumerate(values, start=1)))
        }
        kinds = ", ".join(
            f"{kind} in row {row}" for kind, row in sorted(first.items()) if kind != "NoneType"
        )
        raise ValueError(
            f"column {name!r} of {path} must be values of one kind, got {kinds} ({error}). "
            "Write strings."
        ) from error


def _read_parquet(path: Path, content: bytes) -> pa.Table:
    # The metadata is dropped: it describes the file's columns, and `load_manifest` changes them.
    try:
        return (
            pyarrow.parquet.ParquetFile(pa.BufferReader(content))
            .read()
            .replace_schema_metadata(None)
        )
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} must be a Parquet file, got {len(content)} bytes that are not ({error}). "
            "Write it anew."
        ) from error
