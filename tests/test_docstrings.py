"""What the pages make of the tables and formulas of docstrings."""

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def docstrings(docs_extension: Callable[[str], ModuleType]) -> ModuleType:
    return docs_extension("docstrings")


def test_formulas_keep_their_lines_and_sections_are_left_alone(docstrings: ModuleType) -> None:
    text = ["Returns a sum.", "", "    a = b", "", "    c = d", "", "Args:", "", "    b: x."]
    found = docstrings.formulas_as_blocks(text)
    assert found[2:5] == ["::", "", "    a = b"] and found.count("::") == 2
    assert found[-3:] == text[-3:]
    table = ["Returns it.", "", "    | a | b |", "    | --- | --- |"]
    assert docstrings.formulas_as_blocks(table) == table
    # A line that goes on is no formula.
    wrapped = ["- a fact", "    that goes on"]
    assert docstrings.formulas_as_blocks(wrapped) == wrapped


def test_tables_become_directives(docstrings: ModuleType) -> None:
    found = docstrings.convert(["x", "| a | b |", "| --- | --- |", "| 1 | $2$ |", "y"])
    assert ".. list-table::" in found and "   * - 1" in found and "     - :math:`2`" in found
    assert found[0] == "x" and found[-1] == "y"
