"""What a stored result says of its making."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path


def typed_command(folders: Iterable[str]) -> str:
    """Returns this process's command as it can be typed again, but for where this machine keeps its data.

    Args:
        folders: the options whose value is a folder; DIR stands for each.
    """
    words, shown = iter(sys.argv[1:]), []
    for word in words:
        shown.append(shlex.quote(word))
        if word in folders:
            next(words, None)
            shown.append("DIR")
    return " ".join([f"python examples/lung_disease/{Path(sys.argv[0]).name}", *shown])


def versions(*packages: str) -> dict[str, str]:
    """Returns the versions of python and of these packages.

    Example:
        >>> sorted(versions("numpy"))
        ['numpy', 'python']
    """
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }
