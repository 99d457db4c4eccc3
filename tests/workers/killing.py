"""Work in a child process that may be killed."""

import os
from collections.abc import Callable
from pathlib import Path


def attempt(work: Callable[[Path, Path], None], folder: Path, data: Path) -> int:
    """Returns the process id of a child that works; its fault is written to `folder`."""
    child = os.fork()
    if child:
        return child
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    try:
        work(folder, data)
        os._exit(0)
    except BaseException:
        import traceback

        (folder / "fault.txt").write_text(traceback.format_exc())
        os._exit(1)


def run_through(work: Callable[[Path, Path], None], folder: Path, data: Path) -> None:
    """Works in a child that is not killed, begun anew or continued."""
    _, status = os.waitpid(attempt(work, folder, data), 0)
    if status:
        raise SystemExit((folder / "fault.txt").read_text())
