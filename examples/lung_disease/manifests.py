"""The code that the readers of the study share: manifests, and checks of arguments."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

REQUIRED = ("image", "text", "label", "group")


def write_manifest(rows: pd.DataFrame, path: str | Path) -> Path:
    """Writes a manifest, CSV or JSONL with one row per sample, and returns its path.

    The path of an image below the manifest's folder is written relative to that folder, so that the
    folder can be moved together with its manifest. All other paths are written as absolute paths. A
    missing text is an empty field in CSV and null in JSONL.

    Args:
        rows: a table with at least the columns image (paths), text, label and group.
        path: where to write. The ending `.csv` or `.jsonl` chooses the format.

    Raises:
        ValueError: if the path has another ending, a column is missing, or there is no row.

    Example:
        >>> import tempfile
        >>> row = {"image": "a.png", "text": None, "label": "normal", "group": "1"}
        >>> write_manifest(pd.DataFrame([row]), Path(tempfile.mkdtemp()) / "manifest.csv").name
        'manifest.csv'
    """
    path = Path(path)
    if path.suffix not in (".csv", ".jsonl"):
        raise ValueError(
            f"path must be a file ending in .csv or .jsonl, got {str(path)!r}. Rename the manifest."
        )
    missing = [column for column in REQUIRED if column not in rows.columns]
    if missing:
        raise ValueError(
            f"rows must be given with the columns {list(REQUIRED)}, got none of {missing}. "
            "Add them."
        )
    if rows.empty:
        raise ValueError(
            "rows must be at least one sample, got 0. Check the folder and the rules of selection."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent.resolve()
    written = rows.copy()
    for column in ("image", "mask"):
        if column in written.columns:
            written[column] = [_portable(value, folder) for value in written[column]]
    # Written under another name first: an interrupted run must not leave half a manifest.
    partial = path.with_name(path.name + ".part")
    if path.suffix == ".csv":
        written.to_csv(partial, index=False)
    else:
        written.to_json(partial, orient="records", lines=True, force_ascii=False)
    os.replace(partial, path)
    return path


def _portable(value: object, folder: Path) -> str | None:
    # Only NaN differs from itself.
    if value is None or value is pd.NA or value != value:
        return None
    # Not `resolve`: a link inside the folder must stay a path inside the folder.
    place = Path(os.path.abspath(folder / str(value)))
    return (
        place.relative_to(folder).as_posix() if place.is_relative_to(folder) else place.as_posix()
    )


def existing_folder(folder: str | Path, name: str) -> Path:
    """Returns the folder as a path if it exists.

    Args:
        folder: the folder that the user gave.
        name: the name of the argument, for the message.

    Raises:
        ValueError: if there is no such folder.

    Example:
        >>> existing_folder("/no/such/place", "images")
        Traceback (most recent call last):
        ...
        ValueError: images must be an existing folder, got '/no/such/place'. Check the path.
    """
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"{name} must be an existing folder, got {str(folder)!r}. Check the path.")
    return place


def choose(value: str, allowed: Sequence[str], name: str) -> str:
    """Returns the value if it is one of the allowed values.

    Args:
        value: the value that the user gave.
        allowed: all allowed values.
        name: the name of the argument, for the message.

    Raises:
        ValueError: if the value is not allowed. The message proposes the closest allowed value.

    Example:
        >>> choose("latt", ("early", "late"), "scheme")
        Traceback (most recent call last):
        ...
        ValueError: scheme must be one of 'early', 'late', got 'latt'. Did you mean 'late'?
    """
    if value in allowed:
        return value
    # A low cutoff: the list is short, so even a distant proposal helps more than none.
    near = difflib.get_close_matches(value, allowed, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]!r}?" if near else "Choose one of them."
    raise ValueError(
        f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}. {hint}"
    )


def some(names: Iterable[str], limit: int = 5) -> str:
    """Returns the first few names and how many more there are.

    Args:
        names: the names to list.
        limit: how many of them are spelled out.

    Example:
        >>> some(["a", "b", "c"], limit=2)
        'a, b and 1 more'
    """
    listed = list(names)
    more = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {more} more" if more > 0 else "")
