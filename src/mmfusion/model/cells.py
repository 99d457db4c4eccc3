"""The one rule by which the cells of a table are read, whatever the format of the table is."""

import datetime
import re
from decimal import Decimal

import numpy as np

from .missing import is_blank

MISSING_WORDS = frozenset(
    [
        *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
        *("<NA>", "N/A", "NA", "NULL", "NaN", "NaT", "None", "n/a", "nan", "null"),
    ]
)
"""The words that mean "no value": those that `pandas.read_csv` reads so, and NaT."""

_BOOLEANS = {"true": "True", "TRUE": "True", "false": "False", "FALSE": "False"}
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0*")
# Programs write floats from 1e16 on in this way. Without the plus, "1e5" may be a name.
_LARGE = re.compile(r"-?[0-9](?:\.[0-9]+)?[eE]\+[0-9]{1,3}")
_DAY = r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
_TIME = re.compile(rf"{_DAY}[ T]([0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}})(\.[0-9]*)?([+-][0-9:]{{5}}|Z)?")


def is_missing(value: object) -> bool:
    """Returns whether a cell has no value: it is blank, or holds a word such as "NA" or "nan".

    The column of texts is the exception, because a person may have written "None" there: its cells
    are missing if they are blank (`mmfusion.model.missing.is_blank`).

    Args:
        value: any cell.

    Example:
        >>> is_missing("nan"), is_missing(" "), is_missing("none")
        (True, True, False)
    """
    return is_blank(value) or (isinstance(value, str) and value.strip() in MISSING_WORDS)


def is_single(value: object) -> bool:
    """Returns whether a cell is a text, a number, a boolean or a date. A list is none of these.

    Args:
        value: any cell.

    Example:
        >>> is_single("a"), is_single(["a"])
        (True, False)
    """
    kinds = (str, int, float, Decimal, datetime.date, datetime.time, np.number, np.bool_)
    return isinstance(value, kinds)


def write_cell(value: object) -> str | None:
    """Returns a cell as a text that is the same whatever the format of the table is.

    A CSV file holds texts alone; a Parquet file holds booleans, numbers and dates; and a column of
    whole numbers with a blank cell becomes one of floats. So whole numbers are written without
    ".0", booleans as "True" and "False", and dates as "2024-05-31", with the time of the day if it
    is not midnight. White space around a text is left out. "007" keeps its zeros.

    Args:
        value: any cell.

    Returns:
        the text, or None if the cell is missing (`is_missing`).

    Example:
        >>> [write_cell(value) for value in (1, 1.0, "1.0", "007", True, "TRUE", "NA")]
        ['1', '1', '1', '007', 'True', 'True', None]
    """
    if is_missing(value):
        return None
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, datetime.datetime):
        text = value.isoformat(sep=" ")
    else:
        # The plain form of a decimal, because str() writes 100 as "1E+2".
        text = format(value, "f") if isinstance(value, Decimal) else str(value).strip()
    if whole := _WHOLE.fullmatch(text):
        text = whole[1]
    elif _LARGE.fullmatch(text) and float(text).is_integer():
        text = str(int(float(text)))
    elif time := _TIME.fullmatch(text):
        text = _write_time(*time.groups())
    return "0" if text == "-0" else _BOOLEANS.get(text, text)


def _write_time(day: str, clock: str, fraction: str | None, zone: str | None) -> str:
    fraction = (fraction or "").rstrip("0").rstrip(".")
    if clock == "00:00:00" and not fraction and zone is None:
        return day
    return f"{day} {clock}{fraction}{'+00:00' if zone == 'Z' else zone or ''}"
