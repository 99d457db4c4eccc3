"""The record of which samples a model was trained on, so that nobody measures it on them.

`mmfusion train` writes it beside the model. It holds digests alone: no text, no path, no name of a
patient.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from .feature_store import content_keys
from .stored import read_json

SPLIT_FILE = "split.json"
"""The name of the file, which lies beside the model."""

_KEY_LENGTH = 24


def identities(table: datasets.Dataset, manifest: Path) -> list[set[str]]:
    """Returns digests of what makes each row known again: its patient, its pictures, or its text.

    A text counts only where there is no picture, because short reports of two patients are often
    equal. A row without a group gets one from `load_manifest` that names the file and the row. Such
    a group tells nothing in another file.

    Args:
        table: with the columns `image`, `text` or both, and `group`.
        manifest: the file that the rows were read from.

    Example:
        >>> table = datasets.Dataset.from_dict({"text": ["a", "b"], "group": ["p1", "p1"]})
        >>> first, second = identities(table, Path("rows.csv"))
        >>> len(first), len(first & second)
        (2, 1)
    """
    own = f"{manifest.absolute()}:"
    found: list[set[str]] = [set() for _ in range(len(table))]
    for row, group in enumerate(table["group"] if "group" in table.column_names else []):
        if group is not None and not str(group).startswith(own):
            found[row].add(_digest("group", str(group)))
    if "image" in table.column_names:
        for row, source in enumerate(table["image"]):
            keys = content_keys(source, "image")
            each = keys if isinstance(keys, list) else [keys]
            found[row] |= {_digest("image", key) for key in each if key is not None}
    if "text" in table.column_names:
        pictures = table["image"] if "image" in table.column_names else [None] * len(table)
        for row, (text, picture) in enumerate(zip(table["text"], pictures, strict=True)):
            key = None if picture is not None else content_keys(text, "text")
            found[row] |= set() if key is None else {_digest("text", key)}
    return found


def _digest(kind: str, value: str) -> str:
    return hashlib.sha256(f"{kind}:{value}".encode("utf-8", "surrogatepass")).hexdigest()[
        :_KEY_LENGTH
    ]


def split_record(
    parts: Mapping[str, datasets.Dataset], manifest: Path, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the record of a division, for the file `SPLIT_FILE` in the folder of each model.

    Every picture is read once.

    Args:
        parts: name -> rows; the names are "train", "validation" and "test".
        manifest: the file that the rows were read from.
        facts: further facts, as JSON can hold them: the command, the versions.
    """
    keys = {name: sorted(set().union(*identities(rows, manifest))) for name, rows in parts.items()}
    counts = {name: len(rows) for name, rows in parts.items()}
    return {**facts, "rows": counts, "identities": keys}


def part_of_rows(folder: Path, table: datasets.Dataset, manifest: Path) -> np.ndarray[Any, Any]:
    """Returns the part that each row belonged to: "train", "validation", "test" or "new" [B].

    A row that shares its patient or a picture with a row of the training part belongs to that part.

    Args:
        folder: of the model. If it has no record, every row is "new".
        table: as for `identities`.
        manifest: as for `identities`.
    """
    parts = np.full(len(table), "new", dtype=object)
    if not (folder / SPLIT_FILE).is_file():
        return parts
    known = read_json(folder / SPLIT_FILE)["identities"]
    each = identities(table, manifest)
    # The last one wins, so "train" comes last.
    for name in ("test", "validation", "train"):
        keys = set(known[name])
        parts[[bool(one & keys) for one in each]] = name
    return parts
