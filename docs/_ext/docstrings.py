"""A Sphinx extension that converts the tables and formulas of docstrings.

The docstrings are written for an editor, with Markdown tables and $...$ formulas. Sphinx needs
directives and roles in their place.
"""

from __future__ import annotations

import re
from typing import Any

_FORMULA = re.compile(r"(?<![\w$])\$([^$\n]+)\$(?!\w)")
_COLON, _PLACEHOLDER = ":", "\ue000"
"""A colon, and the private-use character that stands for it while napoleon runs."""

_SECTION = re.compile(r"^[A-Z][a-z]+:( |$)")
"""The first line of a section of a docstring."""

_RULE = re.compile(r"^\|[\s:|-]+\|$")


def convert(lines: list[str]) -> list[str]:
    """Returns the lines with Markdown tables as list-tables, and $...$ as the role math.

    Example:
        >>> convert(["| a | b |", "| --- | --- |", "| 1 | 2 |"])[:2]
        ['', '.. list-table::']
    """
    text = _FORMULA.sub(r":math:`\1`", "\n".join(_joined_formulas(lines)))
    result: list[str] = []
    table: list[str] = []
    # The empty line at the end closes a table that ends with the docstring.
    for line in [*text.split("\n"), ""]:
        if line.strip().startswith("|") and line.strip().endswith("|"):
            table.append(line)
            continue
        if table:
            result += _list_table(table)
            table = []
        result.append(line)
    return result[:-1]


def formulas_as_blocks(lines: list[str]) -> list[str]:
    """Returns the lines, with indented formulas of the description as blocks that keep their lines.

    Sphinx reads an indented paragraph as a quotation, and joins its lines. What follows the first
    section ("Args:" and so on) is left alone.

    Example:
        >>> formulas_as_blocks(["What.", "", "    a = b", "    c = d", "", "Args:", "    a: x."])
        ['What.', '', '::', '', '    a = b', '    c = d', '', 'Args:', '    a: x.']
    """
    result: list[str] = []
    for number, line in enumerate(lines):
        if _SECTION.match(line):
            return result + lines[number:]
        starts = line.startswith("    ") and not line.lstrip().startswith(("|", "- ", ".. "))
        if starts and result and not result[-1].strip():
            result += ["::", ""]
        result.append(line)
    return result


def _joined_formulas(lines: list[str]) -> list[str]:
    """Returns the lines, with the two halves of a formula that was broken in one line."""
    joined: list[str] = []
    for line in lines:
        # An odd number of dollar signs means that a formula goes on in the next line.
        if joined and joined[-1].count("$") % 2:
            joined[-1] += " " + line.strip()
        else:
            joined.append(line)
    return joined


def _list_table(lines: list[str]) -> list[str]:
    """Returns the lines of a Markdown table as a list-table directive."""
    indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        for line in lines
        if not _RULE.match(line.strip())
    ]
    result = ["", f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""]
    for row in rows:
        result += [
            f"{indent}   {'* -' if number == 0 else '  -'} {cell}"
            for number, cell in enumerate(row)
        ]
    return [*result, ""]


def _prepare(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keeps the lines of formulas, and hides the colons in the first line of a property."""
    lines[:] = formulas_as_blocks(lines)
    # napoleon reads the text before a colon in that line as the property's type.
    if what == "property" and lines:
        lines[0] = lines[0].replace(_COLON, _PLACEHOLDER)


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Converts a docstring and puts the colons back."""
    # Sphinx reads the result from the same list, so the list must be changed in place.
    lines[:] = [line.replace(_PLACEHOLDER, _COLON) for line in convert(lines)]


def setup(app: Any) -> dict[str, bool]:
    """Connects the two steps: one runs before napoleon, the other after it."""
    app.connect("autodoc-process-docstring", _prepare, priority=100)
    app.connect("autodoc-process-docstring", _process, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
