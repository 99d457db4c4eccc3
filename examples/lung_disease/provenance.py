"""The facts stored beside a result: the command that made it and the versions it used."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path


def typed_command(folders: Iterable[str]) -> str:
    """Returns the command line of this process, without the folders of this machine.

    Args:
        folders: the options whose value is a folder. DIR replaces the value of each.
    """
    # One iterator, so that the inner `next` also skips the value in the loop.
    words, shown = iter(sys.argv[1:]), []
    for word in words:
        shown.append(shlex.quote(word))
        if word in folders:
            next(words, None)
            shown.append("DIR")
    return " ".join([f"python examples/lung_disease/{Path(sys.argv[0]).name}", *shown])


def versions(*packages: str) -> dict[str, str]:
    """Returns the versions of Python and of the named packages.

    Args:
        packages: the names of installed distributions.

    Example:
        >>> sorted(versions("numpy"))
        ['numpy', 'python']
    """
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }
