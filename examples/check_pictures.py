"""Reads every picture of a folder as the library reads it, and prints what becomes of each kind.

Use it before a training, or to try the library on a collection of test pictures. Each file is read
in a subprocess with a limit of time and memory. The exit status is 1 if a file crashes the reader,
keeps it busy too long or needs too much memory:

    python examples/check_pictures.py FOLDER
    python examples/check_pictures.py FOLDER --seconds 30 --memory 4 --reasons
"""

from __future__ import annotations

import json
import multiprocessing
import re
import resource
from collections import Counter, defaultdict
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

KINDS = ("read", "refused", "crashed", "hung", "memory")
FAULTS = KINDS[2:]
# The reader takes the files in turn. A new one starts after each fault.
CONTEXT = multiprocessing.get_context("spawn")


def read_pictures(connection: Connection, memory: int) -> None:
    """Answers for each path with what becomes of it, why, and the memory so far in bytes."""
    from mmfusion import ImageError, load_image

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    connection.send("ready")
    while True:
        kind, reason = "read", ""
        try:
            load_image(connection.recv())
        except EOFError:
            return
        except BaseException as error:
            kind = "refused" if isinstance(error, ImageError) else "crashed"
            # The library explains the errors of decoders, this one too.
            if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
                kind = "memory"
            reason = f"{type(error).__name__}: {error}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        connection.send((kind, reason, peak))


def outcomes(paths: list[Path], seconds: float, memory: int) -> Iterator[tuple[str, str, int]]:
    """Yields (kind, reason, peak of the memory in bytes) for each file."""
    reader, connection = None, None
    for path in paths:
        if reader is None or connection is None:
            connection, other = CONTEXT.Pipe()
            reader = CONTEXT.Process(target=read_pictures, args=(other, memory), daemon=True)
            reader.start()
            other.close()
            connection.recv()
        connection.send(str(path))
        try:
            answered = connection.poll(seconds)
            found = connection.recv() if answered else ("hung", f"beyond {seconds:g} seconds", 0)
        except EOFError:
            reader.join()
            found = ("crashed", f"the process died with status {reader.exitcode}", 0)
        yield found
        if found[0] in FAULTS:
            reader.kill()
            reader.join()
            reader = None
    if reader is not None:
        reader.kill()
        reader.join()


def reason_class(reason: str, path: Path) -> str:
    """Returns a reason without what only its file has, so that equal reasons can be counted."""
    plain = reason.replace(repr(str(path)), "FILE").removeprefix("ImageError: ")
    return re.sub(r"\(it begins .*?\)\. ", "", plain)[:160]


def main(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    seconds: Annotated[float, typer.Option(help="The limit of time for a file.", min=0.1)] = 10,
    memory: Annotated[float, typer.Option(help="The limit of memory in GiB.", min=0.5)] = 2,
    reasons: Annotated[bool, typer.Option(help="List each reason with its number.")] = False,
    output: Annotated[Path | None, typer.Option(help="A JSON file for all answers.")] = None,
) -> None:
    """Prints a table of what becomes of the files of FOLDER, by suffix."""
    console = Console()
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        console.print(f"[red]{folder} holds no file. Pass a folder of pictures.[/red]")
        raise typer.Exit(2)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    peaks: Counter[str] = Counter()
    why: Counter[str] = Counter()
    answers = {}
    for path, found in zip(paths, outcomes(paths, seconds, int(memory * 2**30)), strict=True):
        kind, reason, peak = found
        suffix = path.suffix.lower() or "(none)"
        counts[suffix][kind] += 1
        peaks[suffix] = max(peaks[suffix], peak)
        why[f"{kind}: {reason_class(reason, path)}"] += kind != "read"
        answers[str(path.relative_to(folder))] = {"outcome": kind, "reason": reason}
        if kind in FAULTS:
            console.print(f"{kind}: {path} ({reason[:200]})", markup=False)
    table = Table("suffix", *KINDS, "peak MiB")
    total = sum(counts.values(), Counter())
    for suffix, row in [*sorted(counts.items()), ("all", total)]:
        peak = peaks[suffix] if suffix in peaks else max(peaks.values())
        table.add_row(suffix, *(str(row[kind]) for kind in KINDS), str(peak // 2**20))
    console.print(table)
    if reasons:
        for reason, number in why.most_common():
            if number:
                console.print(f"{number:6} {reason}", markup=False, soft_wrap=True)
    if output is not None:
        output.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")
    if any(total[kind] for kind in FAULTS):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
