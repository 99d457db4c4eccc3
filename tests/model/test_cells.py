"""Cells: what is missing as pandas reads it, and one way to write a value."""

import datetime
import io
import itertools
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from pandas._libs.parsers import STR_NA_VALUES

from mmfusion.model.cells import MISSING_WORDS, is_missing, is_single, write_cell


def test_missing_words_are_those_of_pandas() -> None:
    assert set(STR_NA_VALUES) - {""} | {"NaT"} == MISSING_WORDS
    for word in STR_NA_VALUES:
        assert is_missing(word)
        assert is_missing(f" {word}\t")
    for value in (None, float("nan"), np.float32("nan"), pd.NaT, Decimal("NaN")):
        assert is_missing(value)
    for value in ("none", "na", "Nan", 0, False, "0", []):
        assert not is_missing(value)


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 10],
        [1.0, None, -3.0],
        [0.0, -0.0, 0.5, -2.25, 1e-7],
        [1e15, 1e16, 1.2345678901234568e16, 1e23, -1e16],
        [True, False, True],
        [Decimal("1.00"), Decimal("0.10"), Decimal("1E+2")],
        [datetime.date(2024, 5, 31)],
        [datetime.datetime(2024, 5, 31), datetime.datetime(2024, 6, 1)],
        [datetime.datetime(2024, 5, 31), datetime.datetime(2024, 6, 1, 10, 30)],
        [datetime.datetime(2024, 5, 31, 10, 30, 0, 500_000)],
        [pd.Timestamp("2024-05-31 10:00", tz="UTC").to_pydatetime()],
        ["a", "007", "1e5", "5+", "-", "+1", "1.0.0", "07.0"],
    ],
    ids=lambda values: str(values[0]),
)
def test_what_a_csv_file_holds_reads_as_the_value_itself(values: list[object]) -> None:
    """pandas writes the CSV file; both ways must lead to the same text."""
    file = io.StringIO()
    pd.DataFrame({"value": pd.Series(values, dtype="object")}).to_csv(file, index=False)
    typed = io.StringIO()
    pd.DataFrame({"value": values}).to_csv(typed, index=False)
    for text in (file, typed):
        text.seek(0)
        cells = pd.read_csv(text, dtype=str, keep_default_na=False, skip_blank_lines=False)["value"]
        assert [write_cell(cell) for cell in cells] == [write_cell(value) for value in values]


def test_values_that_differ_are_written_differently() -> None:
    values = ["7", "07", "007", "1", "1e5", "100000", "True", "yes", "0", "0.5", "2024-05-31"]
    written = [write_cell(value) for value in values]
    assert written == values
    assert all(one != other for one, other in itertools.combinations(written, 2))
    assert write_cell("2024-05-31T00:00:00.000Z") == "2024-05-31 00:00:00+00:00"


def test_a_single_value_is_no_list() -> None:
    assert all(is_single(value) for value in ("", 1, 1.0, True, np.int8(1), np.float32(1)))
    assert not any(is_single(value) for value in ([], {}, b"a", datetime.timedelta(1), None))
