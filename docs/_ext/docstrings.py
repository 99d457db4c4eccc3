"""Docstrings are written to be read in an editor: this turns their tables and formulas into what Sphinx understands."""

from __future__ import annotations

import re
from typing import Any

_FORMULA = re.compile(r"(?<![\w$])\$([^$\n]+)\$(?!\w)")
_COLON, _PLACEHOLDER = ":", "\ue000"
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
    for line in [*text.split("\n"), ""]:
        if line.strip().startswith("|") and line.strip().endswith("|"):
            table.append(line)
            continue
        if table:
            result += _list_table(table)
            table = []
        result.append(line)
    return result[:-1]


def _joined_formulas(lines: list[str]) -> list[str]:
    """The lines, where a formula is broken over two of them those two as one."""
    joined: list[str] = []
    for line in lines:
        if joined and joined[-1].count("$") % 2:
            joined[-1] += " " + line.strip()
        else:
            joined.append(line)
    return joined


def _list_table(lines: list[str]) -> list[str]:
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


def _hide_colon(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    # napoleon takes what stands before a colon in a property's first line for its type.
    if what == "property" and lines:
        lines[0] = lines[0].replace(_COLON, _PLACEHOLDER)


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [line.replace(_PLACEHOLDER, _COLON) for line in convert(lines)]


def setup(app: Any) -> dict[str, bool]:
    """Connects the conversion, before and behind napoleon's own."""
    app.connect("autodoc-process-docstring", _hide_colon, priority=100)
    app.connect("autodoc-process-docstring", _process, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
