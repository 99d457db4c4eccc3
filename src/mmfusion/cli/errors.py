"""Mistakes of the user: one line instead of a traceback, and checks of paths before the work."""

import errno
import functools
import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

# These two import no torch: the answer to Ctrl-C must not begin with an import that takes seconds.
from ..model.printing import printable
from ..model.validation import did_you_mean

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
INTERRUPTED = 130
"""The exit status of a command that the user stopped, as shells know it."""


def user_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Returns `command` such that a mistake of the user prints one line instead of a traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        # A terminal or a pipe may have no character for a class name; an escape is better than an
        # error after the work.
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        try:
            command(*args, **kwargs)
        # The reader of the output, such as `head`, has enough. This is no mistake.
        except BrokenPipeError:
            raise
        except KeyboardInterrupt as stop:
            _say(_with_notes("stopped from the keyboard.", stop))
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            # With MMFUSION_DEBUG set, the user sees the traceback, which a bug report needs.
            if os.environ.get("MMFUSION_DEBUG") or not _is_users(error):
                raise
            _say(_with_notes(_sentence(error), error))
            raise typer.Exit(1) from None

    return run


def _is_users(error: Exception) -> bool:
    """Returns whether the user can do something about an error; all others are bugs."""
    if isinstance(error, RuntimeError):
        # torch has no class of its own for a stopped worker. Its class for a full memory is known
        # by its name, because an import of torch would take seconds.
        return "DataLoader worker" in str(error) or type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, ValueError | TypeError | OSError | ImportError | MemoryError)


def _sentence(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "the memory is full. Use a smaller batch, or fewer rows."
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ValueError):
        where = "a file" if error.filename is None else repr(os.fspath(error.filename))
        advice = "Make room on the disk." if error.errno in FULL else "Check the path."
        return f"{where} could not be read or written: {error.strerror}. {advice}"
    return str(error) or type(error).__name__


def _with_notes(message: str, error: BaseException) -> str:
    return " ".join([message, *getattr(error, "__notes__", [])])


def _say(message: str) -> None:
    # One line, whatever the message holds. A Text is no markup, so its brackets stay.
    line = printable(" ".join(message.split()))
    text = Text.assemble(("error:", "bold red"), " ", line)
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)


def check_input_file(option: str, path: Path) -> None:
    """Refuses a path that is no regular file, before it is opened.

    A pipe would be waited for, and a device such as /dev/zero has no end.

    Args:
        option: the name of the option, for the message.
        path: what the user gave.

    Raises:
        ValueError: saying what is there instead.
    """
    mode = _mode(option, path)
    if mode is None or not stat.S_ISREG(mode):
        raise ValueError(f"{option} must be a file, got {str(path)!r}, {_what(mode)}.")


def check_output_file(option: str, path: Path) -> None:
    """Refuses a path that cannot become a file, before the work begins.

    Args:
        option: as for `check_input_file`.
        path: what the user gave.

    Raises:
        ValueError: if a folder or a device has this name, or the folder cannot be made.
    """
    mode = _mode(option, path)
    if mode is not None and not stat.S_ISREG(mode):
        raise ValueError(f"{option} must be a file to write, got {str(path)!r}, {_what(mode)}.")
    check_output_folder(option, path.absolute().parent)


def check_output_folders(output: Path, cache: Path | None) -> None:
    """Refuses the folders of a training that cannot be written to, before the work begins.

    Args:
        output: the folder for the results.
        cache: the folder for the outputs of frozen towers, or None.

    Raises:
        ValueError: as `check_output_folder`.
    """
    check_output_folder("--output", output)
    if cache is not None:
        check_output_folder("--cache", cache)


def check_output_folder(option: str, path: Path) -> None:
    """Refuses a path that cannot become a folder, before the work begins.

    Args:
        option: as for `check_input_file`.
        path: what the user gave.

    Raises:
        ValueError: if a file stands there or on the way there, or the folder is read-only.
    """
    folder = path.absolute()
    while (mode := _mode(option, folder)) is None and folder != folder.parent:
        folder = folder.parent
    if mode is None or not stat.S_ISDIR(mode):
        raise ValueError(
            f"{option} must be in a folder or a new one, got {str(path)!r}, but {str(folder)!r} "
            "is a file. Choose another path."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(
            f"{option} must be where you may write, got {str(path)!r}, but {str(folder)!r} is "
            "read-only. Choose another path."
        )


def check_name(option: str, name: str, holds: str = "config.json") -> None:
    """Refuses the name of a model that can only be a path, and leads to no model.

    Other names are for the hubs. They have the form owner/name, or one word for timm.

    Args:
        option: as for `check_input_file`.
        name: what the user gave.
        holds: the file that the folder of a model has.

    Raises:
        ValueError: in one sentence, with the closest folder.
    """
    path = Path(name)
    mode = _mode(option, path)
    if mode is not None and not stat.S_ISDIR(mode):
        raise ValueError(
            f"{option} must be the folder of a model, or a name on a hub, "
            f"got {name!r}, {_what(mode)}."
        )
    if mode is not None:
        if not (path / holds).is_file():
            # `mmfusion train --folds` writes a folder for each fold.
            within = sorted(found.parent.name for found in path.glob(f"*/{holds}"))
            hint = f" These folders in it have one: {', '.join(within[:8])}." if within else ""
            raise ValueError(
                f"{option} must be a folder that holds a model, got {name!r}, which has no {holds}."
                f"{hint}"
            )
        return
    # A folder beside it, such as runs/frist for runs/first, tells a mistyped path from a name.
    is_hub_name = re.fullmatch(r"(?:[\w.:-]+/)?[\w.:-]+", name)
    beside = path.parent.is_dir() and path.parent != Path(".")
    if not is_hub_name or beside or name.startswith("."):
        names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ValueError(
            f"{option} must be a folder that holds a model, or a name on a hub, "
            f"got {name!r}, which does not exist.{did_you_mean(path.name, names)}"
        )


def _mode(option: str, path: Path) -> int | None:
    """Returns the mode of what stands at a path, or None if nothing does."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{option} must be a path, got {str(path)!r} ({reason}).") from error


def _what(mode: int | None) -> str:
    if mode is None:
        return "which does not exist"
    if stat.S_ISDIR(mode):
        return "which is a folder"
    return "which is a file" if stat.S_ISREG(mode) else "which is a pipe, a socket or a device"
