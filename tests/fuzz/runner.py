"""The common runner of the fuzz tests: damaged files from a seed, read in a limited subprocess.

A test of another kind of file needs whole files, a function that reads one, and the errors that it
may raise:

    files = write_damaged(folder, {"csv": content}, count=how_many())
    outcomes = run_all("mmfusion.data.tables:read_table", files, errors=("ValueError",))
    assert_only(outcomes, {"read", "refused"})
"""

import importlib
import json
import os
import random
import resource
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

SECONDS = 10.0
MEMORY = 2 * 2**30


class Outcome(NamedTuple):
    """What became of one file: "read", "refused", "crashed", "died", "hung" or "memory"."""

    path: Path
    kind: str
    reason: str


def how_many() -> int:
    """Returns how many damaged files to read, by the environment variable MMFUSION_FUZZ."""
    return int(os.environ.get("MMFUSION_FUZZ", "200"))


def flip(content: bytearray, draw: random.Random) -> None:
    """Changes some bytes. Half of the draws take the header, because most bytes are pixels."""
    for _ in range(draw.choice((1, 2, 5, 20))):
        end = min(len(content), 300) if draw.random() < 0.5 else len(content)
        content[draw.randrange(end)] = draw.randrange(256)


def cut(content: bytearray, draw: random.Random) -> None:
    """Removes the end."""
    del content[draw.randrange(1, len(content)) :]


def zero(content: bytearray, draw: random.Random) -> None:
    """Writes zeros from one place to another, or to the end."""
    start = draw.randrange(len(content))
    end = len(content) if draw.random() < 0.5 else draw.randrange(start, len(content))
    content[start:end] = bytes(end - start)


def splice(content: bytearray, draw: random.Random) -> None:
    """Inserts a part of the file at another place, or removes a part."""
    start = draw.randrange(len(content))
    part = content[start : start + draw.choice((1, 4, 16, 200, 3000))]
    if draw.random() < 0.5:
        del content[start : start + len(part)]
        content.extend(b"" if content else b"\0")
    else:
        at = draw.randrange(len(content))
        content[at:at] = part * draw.choice((1, 2, 50))


def enlarge(content: bytearray, draw: random.Random) -> None:
    """Writes a very large number, in either byte order, into the header."""
    number = draw.choice((0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 30000, 100_000_000))
    width = 2 if number < 2**16 and draw.random() < 0.7 else 4
    at = draw.randrange(max(1, min(len(content), draw.choice((40, 300, 1000))) - width))
    content[at : at + width] = number.to_bytes(width, draw.choice(("little", "big")))


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip,
    cut,
    zero,
    splice,
    enlarge,
)


def write_damaged(
    folder: Path, wholes: Mapping[str, bytes], count: int, seed: int = 0
) -> list[Path]:
    """Returns the paths of `count` damaged files, always the same for a seed.

    The name of each holds its number, its kind and its mutations. `wholes` maps a suffix, or
    "kind.suffix", to the content of a whole file.
    """
    paths = []
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        kind = draw.choice(sorted(wholes))
        content = bytearray(wholes[kind])
        mutations = draw.choices(MUTATIONS, k=draw.choice((1, 1, 2, 3)))
        for mutation in mutations:
            if len(content) > 1:
                mutation(content, draw)
        names = "-".join(mutation.__name__ for mutation in mutations)
        paths.append(folder / f"{number}-{names}-{kind}")
        paths[-1].write_bytes(content)
    return paths


class _Worker:
    """A process that reads one file after another, as long as it lives."""

    def __init__(self, target: str, errors: Sequence[str], memory: int) -> None:
        command = [sys.executable, __file__, target, ",".join(errors), str(memory)]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        # The limit of time is for the reading alone, so wait for the imports.
        assert self._line(120.0) == "ready\n", "the worker does not start"

    def _line(self, seconds: float) -> str | None:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline() if ready else None

    def read(self, path: Path, seconds: float) -> Outcome:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        answer = self._line(seconds)
        if answer is None:
            return Outcome(path, "hung", f"more than {seconds:g} seconds")
        if not answer:
            return Outcome(path, "died", f"exit status {self.process.wait()}")
        return Outcome(path, *json.loads(answer))

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def run_all(
    target: str,
    paths: Iterable[Path],
    *,
    errors: Sequence[str],
    seconds: float = SECONDS,
    memory: int = MEMORY,
) -> list[Outcome]:
    """Returns what becomes of each file when a function reads it.

    Args:
        target: "module:function". The function takes a path as a str.
        paths: the files.
        errors: the names of the errors by which the function may refuse a file.
        seconds: the limit of time for a file. Beyond it, the file has "hung".
        memory: the limit of the process's memory in bytes. Beyond it, the outcome is "memory".
    """
    worker: _Worker | None = None
    outcomes = []
    try:
        for path in paths:
            worker = worker or _Worker(target, errors, memory)
            outcomes.append(worker.read(path, seconds))
            if outcomes[-1].kind in ("hung", "died", "memory"):
                worker.stop()
                worker = None
    finally:
        if worker is not None:
            worker.stop()
    return outcomes


def assert_only(outcomes: Sequence[Outcome], allowed: set[str]) -> Counter[str]:
    """Returns how often each outcome occurs, or fails with the files of the others."""
    others = [f"{o.path.name}: {o.kind} ({o.reason})" for o in outcomes if o.kind not in allowed]
    assert not others, "\n".join(others[:20])
    return Counter(outcome.kind for outcome in outcomes)


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    """Yields an error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _answer(function: Callable[[str], object], path: str, errors: Sequence[str]) -> tuple[str, str]:
    """Returns what becomes of one file, and why."""
    try:
        function(path)
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"[:400]
        # A library may wrap the error that says that the limit of memory is reached.
        if any(isinstance(cause, MemoryError) for cause in _chain(error)):
            return "memory", text
        return ("refused" if type(error).__name__ in errors else "crashed"), text
    return "read", ""


def _serve(target: str, errors: str, memory: str) -> None:
    """Answers for each path on standard input with a line of JSON."""
    # Standard output is for the answers only. Libraries may print there.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        answer = _answer(function, line.rstrip("\n"), errors.split(","))
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
