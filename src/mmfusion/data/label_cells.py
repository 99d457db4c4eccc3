"""The reading of label columns: class numbers for one column, 1, 0 and NaN for several."""

import logging
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import final

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from ..model.cells import is_single, write_cell
from ..model.printing import printable
from ..model.validation import check_choice, did_you_mean
from .tables import refuse_cells

logger = logging.getLogger(__name__)

_FRACTION = re.compile(r"-?(?:[0-9]+\.[0-9]*|\.[0-9]+|inf)|-?[0-9](?:\.[0-9]+)?e[+-][0-9]{2,3}")
_WHOLE = re.compile("-?[0-9]+")
_MEANING: dict[str | None, float] = {"0": 0.0, "False": 0.0, "1": 1.0, "True": 1.0}

POLICIES = {"ignore": math.nan, "negative": 0.0, "positive": 1.0}
"""What an uncertain label counts as. Irvin et al. 2019 (CheXpert, arXiv 1901.07031) call the
policies U-Ignore, U-Zeros and U-Ones."""


@final
@dataclass(frozen=True)
class UnknownLabel:
    """The value that stands for an unknown label, and what such a label counts as.

    Attributes:
        value: as `write_cell` writes it. None: no value stands for it.
        policy: a key of `POLICIES`.
    """

    value: str | None = None
    policy: str = "ignore"

    @classmethod
    def of(
        cls,
        value: object,
        policy: str,
        labels: str | Sequence[str] | None,
        label_names: Sequence[str] | None,
    ) -> "UnknownLabel":
        """Returns what `load_manifest` was told of unknown labels.

        Args:
            value: as for `load_manifest`.
            policy: as for `load_manifest`.
            labels: the label column or columns.
            label_names: as for `load_manifest`.

        Raises:
            ValueError: if the two do not fit each other or the columns.
        """
        check_choice("uncertain", policy, POLICIES)
        if value is None:
            if policy != "ignore":
                raise ValueError(
                    f"uncertain must be 'ignore' without an unknown_label, got {policy!r}. Name "
                    "the value that stands for an unknown label, such as unknown_label=-1."
                )
            return cls()
        if labels is None:
            raise ValueError(
                f"unknown_label must be None without a label column, got {value!r}. Leave it out."
            )
        written = write_cell(value) if is_single(value) else None
        if written is None:
            raise ValueError(
                f"unknown_label must be a text or a number that is not missing, got {value!r}. An "
                "empty cell of several label columns is unknown without it."
            )
        if isinstance(labels, str):
            cls._check_one_column(value, written, policy, label_names)
        elif written in _MEANING:
            raise ValueError(
                f"unknown_label must be neither 0 nor 1, got {value!r}. These mean no and yes."
            )
        return cls(written, policy)

    @staticmethod
    def _check_one_column(
        value: object, written: str, policy: str, label_names: Sequence[str] | None
    ) -> None:
        if policy != "ignore":
            raise ValueError(
                f"uncertain must be 'ignore' for one label column, got {policy!r}. Its rows with "
                "an unknown class are left out. For a column of 0, 1 and unknown, give label= a "
                "list of one name."
            )
        if written in _numbers_of(label_names or ()):
            raise ValueError(
                f"unknown_label must be none of the classes {list(label_names or ())!r} or their "
                f"numbers, got {value!r}. Rename one of the two."
            )


NO_UNKNOWN = UnknownLabel()
"""What is known of unknown labels if nothing was said."""


def check_label_names(label_names: Sequence[str], columns: int) -> None:
    """Refuses class names that are no names, or that do not suit the label columns.

    Args:
        label_names: as for `load_manifest`.
        columns: the number of label columns.

    Raises:
        TypeError: if they are no list of strings.
        ValueError: if they are not different, or there is not one label column.
    """
    if columns != 1:
        raise ValueError(
            f"label_names must be None unless there is one label column, got {label_names!r}. "
            "With several columns their own names are the classes."
        )
    if isinstance(label_names, str) or not all(
        isinstance(name, str) and name for name in label_names
    ):
        raise TypeError(
            f'label_names must be a list of strings, got {label_names!r}. Write ["no", "yes"].'
        )
    if not label_names or len(set(label_names)) < len(label_names):
        raise ValueError(
            f"label_names must be one or more different names, got {label_names!r}. Name each once."
        )


def class_numbers(
    path: Path,
    column: str,
    values: Sequence[object],
    label_names: Sequence[str] | None,
    unknown: UnknownLabel = NO_UNKNOWN,
) -> tuple[list[int | None], datasets.ClassLabel]:
    """Returns the class number of each row (None if it is unknown), and the classes.

    Args:
        path: the manifest, for messages.
        column: the name of the column.
        values: its cells.
        label_names: as for `load_manifest`.
        unknown: the value that stands for an unknown class.

    Raises:
        ValueError: naming the rows whose cell is missing, no name or whole number, or of another
            class; or if every class is unknown.
    """
    where = f"column {column!r} of {path}"
    chosen = _numbers_of(label_names or ())
    # By the row, counted from 1, because messages name it.
    cells = {
        row: (value, key)
        for row, value in enumerate(values, start=1)
        if (key := _key(value, chosen)) is None or key != unknown.value or not is_single(value)
    }
    if not cells:
        raise ValueError(
            f"{where} must be a label in at least one row, got {unknown.value!r} in all of "
            f"{len(values)}. Leave unknown_label out, or pass label=None to predict."
        )
    _refuse_what_is_no_label(where, cells, chosen)
    if label_names is not None:
        names = list(label_names)
        number = chosen
    else:
        names = _sorted_names({key for _, key in cells.values() if key is not None})
        number = {name: at for at, name in enumerate(names)}
        _warn_of_zeros(where, names)
        _warn_of_minus_one(where, names)
    odd = [(row, value) for row, (value, key) in cells.items() if key not in number]
    if odd:
        numbered = f" or a number from 0 to {len(names) - 1}" if "0" in number else ""
        hint = did_you_mean(odd[0][1], names)
        advice = f"{hint} Correct the cells, or extend label_names.".strip()
        refuse_cells(where, f"one of {names}{numbered}", odd, advice)
    numbers: list[int | None] = [None] * len(values)
    for row, (_, key) in cells.items():
        assert key is not None
        numbers[row - 1] = number[key]
    return numbers, datasets.ClassLabel(names=names)


def rows_with_a_class(path: Path, table: pa.Table, unknown: UnknownLabel) -> pa.Table:
    """Returns the rows whose label is not null, and says in the log how many are left out.

    Args:
        path: the manifest, for the message.
        table: the samples. If there is one label column, `label` is null where it is unknown.
        unknown: the value that stood for an unknown label.
    """
    if unknown.value is None:
        return table
    known = table.filter(pa.compute.is_valid(table["label"]))
    if left_out := table.num_rows - known.num_rows:
        logger.warning(
            "%s: %d of %d rows are left out, because their label is unknown (%s).",
            printable(str(path)),
            left_out,
            table.num_rows,
            printable(unknown.value),
        )
    return known


def yes_or_no(
    path: Path, column: str, values: Sequence[object], unknown: UnknownLabel = NO_UNKNOWN
) -> NDArray[np.float32]:
    """Returns 1, 0 or NaN (unknown) for each cell of one of several label columns.

    Args:
        path: the manifest, for messages.
        column: the name of the column.
        values: its cells: 1, 0, true, false, the value that stands for unknown, or missing.
        unknown: that value, and what it counts as. A missing cell is NaN whatever the policy is.

    Raises:
        ValueError: naming the rows of other cells.
    """
    meaning = {None: math.nan, **_MEANING}
    if unknown.value is not None:
        meaning[unknown.value] = POLICIES[unknown.policy]
    keys = [write_cell(value) if is_single(value) else None for value in values]
    wrong = [
        (row, value)
        for row, (value, key) in enumerate(zip(values, keys, strict=True), start=1)
        if key not in meaning or (key is None and write_cell(value) is not None)
    ]
    where = f"column {column!r} of {path}"
    if wrong:
        advice = "Correct the cells."
        if unknown.value is None:
            advice += " If such a value stands for an unknown label, name it: unknown_label=."
        refuse_cells(where, "0, 1 or nothing (unknown)", wrong, advice)
    if unknown.policy != "ignore" and (count := keys.count(unknown.value)):
        shown = printable(where)
        logger.warning("%s: %d uncertain labels count as %s.", shown, count, unknown.policy)
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
    where: str, cells: Mapping[int, tuple[object, str | None]], chosen: dict[str, int]
) -> None:
    empty = [(row, value) for row, (value, key) in cells.items() if key is None]
    if empty:
        advice = "Leave such rows out, or pass label=None to predict."
        if any(isinstance(value, str) and value.strip() for _, value in empty):
            advice += " If this word is a class, list it in label_names."
        refuse_cells(where, "a label in every row", empty, advice)
    odd = [
        (row, value)
        for row, (value, key) in cells.items()
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


def _warn_of_minus_one(where: str, names: Sequence[str]) -> None:
    if "-1" in names and len(names) > 1 and all(_WHOLE.fullmatch(name) for name in names):
        logger.warning(
            "%s: -1 counts as a class. If it stands for unknown, pass unknown_label=-1.",
            printable(where),
        )


def _warn_of_zeros(where: str, names: Sequence[str]) -> None:
    alike: dict[Decimal, list[str]] = defaultdict(list)
    for name in filter(_WHOLE.fullmatch, names):
        alike[Decimal(name)].append(name)
    for twins in alike.values():
        if len(twins) > 1:
            shown = printable(where)
            logger.warning("%s: %s count as different classes.", shown, ", ".join(twins))
