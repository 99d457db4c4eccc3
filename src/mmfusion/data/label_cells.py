"""The reading of label columns: class numbers for one column, 1, 0 and NaN for several."""

import logging
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import datasets
import numpy as np
from numpy.typing import NDArray

from ..model.cells import is_single, write_cell
from ..model.printing import printable
from ..model.validation import did_you_mean
from .tables import refuse_cells

logger = logging.getLogger(__name__)

_FRACTION = re.compile(r"-?(?:[0-9]+\.[0-9]*|\.[0-9]+|inf)|-?[0-9](?:\.[0-9]+)?e[+-][0-9]{2,3}")
_WHOLE = re.compile("-?[0-9]+")


def class_numbers(
    path: Path, column: str, values: Sequence[object], label_names: Sequence[str] | None
) -> tuple[list[int], datasets.ClassLabel]:
    """Returns the class number of each row, and the classes.

    Args:
        path: the manifest, for messages.
        column: the name of the column.
        values: its cells.
        label_names: as for `load_manifest`.

    Raises:
        ValueError: naming the rows whose cell is missing, no name or whole number, or unknown.
    """
    where = f"column {column!r} of {path}"
    chosen = _numbers_of(label_names or ())
    keys = [_key(value, chosen) for value in values]
    _refuse_what_is_no_label(where, values, keys, chosen)
    if label_names is not None:
        names = list(label_names)
        number = chosen
    else:
        names = _sorted_names({key for key in keys if key is not None})
        number = {name: at for at, name in enumerate(names)}
        _warn_of_zeros(where, names)
    unknown = [(row, values[row - 1]) for row, key in enumerate(keys, start=1) if key not in number]
    if unknown:
        numbered = f" or a number from 0 to {len(names) - 1}" if "0" in number else ""
        hint = did_you_mean(unknown[0][1], names)
        advice = f"{hint} Correct the cells, or extend label_names.".strip()
        refuse_cells(where, f"one of {names}{numbered}", unknown, advice)
    return [number[key] for key in keys if key is not None], datasets.ClassLabel(names=names)


def yes_or_no(path: Path, column: str, values: Sequence[object]) -> NDArray[np.float32]:
    """Returns 1, 0 or NaN (unknown) for each cell of one of several label columns.

    Args:
        path: the manifest, for messages.
        column: the name of the column.
        values: its cells: 1, 0, true, false, or missing.

    Raises:
        ValueError: naming the rows of other cells.
    """
    meaning = {None: math.nan, "0": 0.0, "False": 0.0, "1": 1.0, "True": 1.0}
    keys = [write_cell(value) if is_single(value) else None for value in values]
    wrong = [
        (row, value)
        for row, (value, key) in enumerate(zip(values, keys, strict=True), start=1)
        if key not in meaning or (key is None and write_cell(value) is not None)
    ]
    if wrong:
        where = f"column {column!r} of {path}"
        refuse_cells(where, "0, 1 or nothing (unknown)", wrong, "Correct the cells.")
    return np.array([meaning[key] for key in keys], dtype=np.float32)


def _numbers_of(label_names: Sequence[str]) -> dict[str, int]:
    """Returns the number of each way to write one of the given names."""
    written = [write_cell(name) or name for name in label_names]
    if len(set(written)) < len(written):
        raise ValueError(
            "label_names must be names that differ as cells of a table do, "
            f"got {list(label_names)!r}. 1 and 1.0, or true and TRUE, are the same cell."
        )
    number: dict[str, int] = {}
    # If a name is itself a number, a cell "1" could mean the name or the place.
    if label_names and not any(_WHOLE.fullmatch(name) for name in written):
        number = {str(at): at for at in range(len(label_names))}
        if len(label_names) == 2:
            number |= {"False": 0, "True": 1}
    elif set(written) == {"0", "1"}:
        number = {"False": written.index("0"), "True": written.index("1")}
    number |= {name: at for at, name in enumerate(written)}
    # The exact name comes last, so that it wins.
    return number | {name: at for at, name in enumerate(label_names)}


def _key(value: object, chosen: dict[str, int]) -> str | None:
    """Returns the name in a cell; a name that the user chose is one even if it reads "NA"."""
    exact = value.strip() if isinstance(value, str) else ""
    return exact if exact in chosen else write_cell(value)


def _refuse_what_is_no_label(
    where: str, values: Sequence[object], keys: Sequence[str | None], chosen: dict[str, int]
) -> None:
    cells = list(enumerate(zip(values, keys, strict=True), start=1))
    empty = [(row, value) for row, (value, key) in cells if key is None]
    if empty:
        advice = "Leave such rows out, or pass label=None to predict."
        if any(isinstance(value, str) and value.strip() for _, value in empty):
            advice += " If this word is a class, list it in label_names."
        refuse_cells(where, "a label in every row", empty, advice)
    odd = [
        (row, value)
        for row, (value, key) in cells
        if not is_single(value)
        or (key is not None and key not in chosen and _FRACTION.fullmatch(key))
    ]
    if odd:
        advice = "Several labels need a column each."
        if all(is_single(value) for _, value in odd):
            advice = "If such a number is a class, list it in label_names."
        refuse_cells(where, "a name or a whole number in every row", odd, advice)


def _sorted_names(distinct: set[str]) -> list[str]:
    """Returns the names sorted: by value if all are whole numbers, and by their characters."""
    if all(_WHOLE.fullmatch(name) for name in distinct):
        # "7" and "07" have one value. Without the characters, their order would be that of a set,
        # which differs from one process to the next. A decimal has no largest number of digits.
        return sorted(distinct, key=lambda name: (Decimal(name), name))
    return sorted(distinct)


def _warn_of_zeros(where: str, names: Sequence[str]) -> None:
    alike: dict[Decimal, list[str]] = defaultdict(list)
    for name in filter(_WHOLE.fullmatch, names):
        alike[Decimal(name)].append(name)
    for twins in alike.values():
        if len(twins) > 1:
            shown = printable(where)
            logger.warning("%s: %s count as different classes.", shown, ", ".join(twins))
