"""Reads mutated tables with `load_manifest`, in a process that has limits.

Called as `tables_worker.py FOLDER FIRST LAST`. It reads the mutations of the seeds FIRST to LAST
and writes one line of JSON for each of them. The limits are on the memory and on the time of each.
"""

import json
import random
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

SECONDS = 10
MEMORY = 2**31
WORDS = ["", "NA", "nan", "0", "1", "1.0", "-1", "007", "true", "=1+1", "\x1b[31m", "\ud800", "肺"]


def table(draw: random.Random) -> dict[str, list[object]]:
    """Returns the columns of a small table, with odd cells."""
    rows = draw.randint(1, 12)
    columns: dict[str, list[object]] = {
        "image": [None] * rows,
        "text": [f"words {number}" for number in range(rows)],
        "label": [draw.choice(["ill", "well", "0", "1"]) for _ in range(rows)],
        "group": [f"p{number // 2}" for number in range(rows)],
        "age": [draw.choice([None, 45, 46.5]) for _ in range(rows)],
    }
    for _ in range(draw.choice([0, 0, 0, 0, 1, 2, 5])):
        column = draw.choice(list(columns.values()))
        column[draw.randrange(rows)] = odd_cell(draw)
    return columns


def odd_cell(draw: random.Random) -> object:
    kinds: list[Callable[[], object]] = [
        lambda: draw.choice(WORDS),
        lambda: draw.choice([0, -1, 2**40, 2**70, 0.5, float("nan"), float("inf"), True, None]),
        lambda: "x" * draw.choice([10, 10**5, 10**6]),
        lambda: [draw.choice(WORDS)],
        lambda: {"a": {"b": [draw.choice(WORDS)]}},
        lambda: "a\0b",
        lambda: "line\r\nline\nline\r",
        lambda: 'one "two", ""three',
        lambda: "".join(chr(draw.randrange(1, 0x110000)) for _ in range(5)),
        lambda: "9" * draw.choice([20, 5000]),
    ]
    return draw.choice(kinds)()


def rename(draw: random.Random, names: list[str]) -> list[str]:
    """Returns the names of the columns, some of them twice, empty or odd."""
    for _ in range(draw.choice([0] * 8 + [1, 2])):
        place = draw.randrange(len(names))
        names[place] = draw.choice([*names, "", "Text", "\ufefftext", "a\0", "\ud800", "x" * 10**5])
    return names


def as_csv(draw: random.Random, columns: dict[str, list[object]]) -> bytes:
    names = rename(draw, list(columns))
    frame = pd.DataFrame(columns, dtype=object).set_axis(names, axis=1)
    separator = draw.choice([*[","] * 9, ";", "\t", "|"])
    text = frame.to_csv(index=draw.random() < 0.1, sep=separator)
    encoding = draw.choice(["utf-8"] * 12 + ["utf-8-sig", "utf-16", "utf-32", "latin-1", "cp037"])
    return text.encode(encoding, errors=draw.choice(["replace", "ignore", "surrogatepass"]))


def as_jsonl(draw: random.Random, columns: dict[str, list[object]]) -> bytes:
    lines = []
    for row in zip(*columns.values(), strict=True):
        names = rename(draw, list(columns)) if draw.random() < 0.2 else list(columns)
        pairs = [
            f"{json.dumps(name)}: {json.dumps(cell)}" for name, cell in zip(names, row, strict=True)
        ]
        if draw.random() < 0.2:
            draw.shuffle(pairs)
        lines.append("{" + ", ".join(pairs[draw.random() < 0.1 :]) + "}")
    if draw.random() < 0.05:
        lines.append("[" * 50_000)
    return draw.choice(["\n", "\r\n", "\n\n", " "]).join(lines).encode()


def as_parquet(draw: random.Random, columns: dict[str, list[object]]) -> bytes:
    arrays = []
    for cells in columns.values():
        try:
            array = pa.array(cells)
        except (pa.ArrowException, UnicodeError, OverflowError):
            text = [None if cell is None else ascii(cell) for cell in cells]
            array = pa.array(text, draw.choice([pa.string(), pa.large_string()]))
        change = draw.random()
        if change < 0.1:
            array = array.dictionary_encode() if pa.types.is_string(array.type) else array
        elif change < 0.12:
            array = pa.array([b"\xff\xfe"] * len(cells), pa.binary()).view(pa.string())
        elif change < 0.14:
            kind = draw.choice([pa.date32(), pa.timestamp("ns"), pa.duration("s"), pa.time64("ns")])
            array = pa.array([draw.choice([None, 1, 86400]) for _ in cells], kind)
        elif change < 0.15:
            array = pa.array([[("k", 1)]] * len(cells), pa.map_(pa.string(), pa.int8()))
        arrays.append(array)
    names = [name.encode("utf-8", "replace").decode() for name in rename(draw, list(columns))]
    sink = pa.BufferOutputStream()
    kind = draw.choice(["none", "snappy", "zstd", "gzip"])
    pyarrow.parquet.write_table(pa.Table.from_arrays(arrays, names=names), sink, compression=kind)
    return sink.getvalue().to_pybytes()


def hurt(draw: random.Random, content: bytes) -> bytes:
    """Returns the content with flipped bytes, cut, or with pieces twice."""
    damaged = bytearray(content)
    for _ in range(draw.choice([0, 0, 0, 0, 1, 1, 2, 8])):
        if not damaged:
            break
        place = draw.randrange(len(damaged))
        # The end of a Parquet file holds its description, where damage reaches furthest.
        if draw.random() < 0.5:
            place = max(0, len(damaged) - 1 - draw.randrange(min(len(damaged), 1200)))
        match draw.randrange(6):
            case 0:
                del damaged[place:]
            case 1:
                damaged[place:place] = damaged[place : place + draw.randrange(1, 200)]
            case 2:
                damaged[place : place + 4] = draw.choice(
                    [b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff"]
                )
            case 3:
                del damaged[place : place + draw.randrange(1, 50)]
            case _:
                damaged[place] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def mutation(seed: int) -> tuple[str, bytes]:
    """Returns the suffix and the content of one mutated table."""
    draw = random.Random(seed)
    suffix, write = [(".csv", as_csv), (".jsonl", as_jsonl), (".parquet", as_parquet)][seed % 3]
    while True:
        try:
            return suffix, hurt(draw, write(draw, table(draw)))
        # pandas and Arrow cannot write every odd table.
        except (UnicodeError, ValueError, TypeError, OverflowError):
            continue


def options(seed: int) -> dict[str, object]:
    chosen: list[dict[str, object]] = [
        {"image": None},
        {"image": None, "label": None},
        {"image": None, "label": ["label", "age"]},
        {"image": None, "label_names": ["ill", "well"]},
        {"image": None, "text": None, "template": "{age} years, {label}.", "label": None},
        {"image": None, "group": "age", "label": None},
        {},
    ]
    return chosen[seed // 3 % len(chosen)]


def read(path: Path, seed: int) -> dict[str, object]:
    """Returns what became of one mutation, and how long it took."""
    from mmfusion.data.manifest import load_manifest

    started = time.monotonic()
    signal.alarm(SECONDS)
    try:
        rows = load_manifest(path, **options(seed))  # type: ignore[arg-type]
        # A column may be damaged so that only its use fails.
        rows[:]
        found: dict[str, object] = {"kind": "rows", "message": len(rows)}
    except Exception as error:
        found = {"kind": type(error).__name__, "message": str(error)[:3000]}
    finally:
        signal.alarm(0)
    return found | {"seed": seed, "file": path.name, "seconds": time.monotonic() - started}


def main(folder: Path, first: int, last: int) -> None:
    """Reads the mutations; the signal of the alarm ends the process."""
    import datasets

    import mmfusion.data.manifest  # noqa: F401

    assert datasets
    warnings.simplefilter("error")
    # The memory that the libraries take themselves does not count.
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for seed in range(first, last):
        suffix, content = mutation(seed)
        path = folder / f"{seed}{suffix}"
        path.write_bytes(content)
        # The line before says which table ended the process, if one does.
        print(json.dumps({"seed": seed, "kind": "begun"}), flush=True)
        print(json.dumps(read(path, seed)), flush=True)
        path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
