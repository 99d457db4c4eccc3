"""The paths of pictures in a manifest: one per row, or the views of a study."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from ..model.cells import is_missing
from ..model.missing import is_blank
from .tables import refuse_cells


def as_columns(image: str | Sequence[str] | None) -> list[str]:
    """Returns the columns of pictures that a user named, as a list.

    Args:
        image: a column, a list of them, or None.

    Raises:
        ValueError: if it is none of these.
    """
    if image is None:
        return []
    names = [image] if isinstance(image, str) else list(image)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"image must be a column, a list of columns or None, got {image!r}. Name the columns."
        )
    return names


def image_paths(
    manifest: Path,
    columns: Mapping[str, Sequence[Any]],
    root: str | os.PathLike[str] | None,
    *,
    keeps_absent: bool = False,
) -> tuple[list[Any], Any]:
    """Returns the absolute path of each row's picture, or a list of them, and the feature.

    Args:
        manifest: the absolute path of the manifest.
        columns: name -> cells: paths, lists of paths, or missing.
        root: the folder that must contain the pictures; None: that of the manifest.
        keeps_absent: whether a path without a file is kept, so that whoever opens it tells of it.

    Raises:
        ValueError: if a file is absent or a path leads outside, or if a cell is no path.
    """
    text = datasets.Value("string")
    if len(columns) == 1:
        ((name, cells),) = columns.items()
        if not any(isinstance(cell, list) for cell in cells):
            return _found(manifest, name, list(enumerate(cells, start=1)), root, keeps_absent), text
        # A cell without a list is missing. A path in the place of a list is a list of one.
        rows = [cell if isinstance(cell, list) else [cell] for cell in cells]
        flat = [(row, one) for row, cell in enumerate(rows, start=1) for one in cell]
        following = iter(_found(manifest, name, flat, root, keeps_absent))
        studies = [[next(following) for _ in cell] for cell in rows]
    else:
        found = [
            _found(manifest, name, list(enumerate(cells, start=1)), root, keeps_absent)
            for name, cells in columns.items()
        ]
        studies = [list(views) for views in zip(*found, strict=True)]
    return [views if any(views) else None for views in studies], datasets.List(text)


def refuse_other_than_strings(
    path: Path, column: str, values: Sequence[tuple[int, object]], what: str
) -> None:
    """Refuses cells that are neither strings nor blank.

    Args:
        path: of the manifest.
        column: its name.
        values: the cells with their row numbers.
        what: they should be, for the error.

    Raises:
        ValueError: listing the rows.
    """
    wrong = [
        (row, value) for row, value in values if not isinstance(value, str) and not is_blank(value)
    ]
    if wrong:
        refuse_cells(
            f"column {column!r} of {path}",
            f"{what} or nothing in every row",
            wrong,
            "Write strings.",
        )


def _found(
    manifest: Path,
    column: str,
    values: Sequence[tuple[int, Any]],
    root: str | os.PathLike[str] | None,
    keeps_absent: bool,
) -> list[str | None]:
    """Returns the absolute paths of cells that come with their row numbers."""
    refuse_other_than_strings(manifest, column, values, "a path")
    folder = manifest.parent
    inside = Path(os.path.realpath(folder if root is None else root))
    if not inside.is_dir():
        raise ValueError(f"root must be a folder, got {str(root)!r}. Check the path.")
    paths: list[str | None] = []
    outside: list[tuple[int, object]] = []
    missing: list[tuple[int, object]] = []
    for row, value in values:
        if is_missing(value):
            paths.append(None)
            continue
        # realpath follows links, so a link that leads out of the folder is noticed. It refuses a
        # zero byte, so a path with one gets no candidates.
        bases = (folder, inside) if "\0" not in value else ()
        candidates = [Path(os.path.realpath(base / value.strip())) for base in bases]
        candidates = [path for path in candidates if path.is_relative_to(inside)]
        file = next((path for path in candidates if os.path.isfile(path)), None)
        if file is None and candidates and keeps_absent:
            file = candidates[0]
        paths.append(str(file))
        if file is None:
            (missing if candidates else outside).append((row, value))
    name = f"column {column!r} of {manifest}"
    if outside:
        refuse_cells(
            name,
            f"a path inside {inside}",
            outside,
            "Pass root= to name a folder that holds all pictures.",
        )
    if missing:
        refuse_cells(
            name,
            "an existing file in every row",
            missing,
            "Correct the paths, or leave the cells empty.",
        )
    return paths
