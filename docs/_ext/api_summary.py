"""A table at the head of each API page: every name, with the first line of its docstring."""

from __future__ import annotations

import re
from typing import Any

START = ".. currentmodule:: mmfusion\n"


def with_summary(page: str) -> str:
    r"""Returns a page with a table of the names that its first block documents.

    Args:
        page: the source of the page. One without such a block, or with one name, is unchanged.

    Example:
        >>> page = ".. currentmodule:: mmfusion\n\n.. autofunction:: fit\n.. autoclass:: Head\n"
        >>> print(with_summary(page).partition(".. autofunction")[0])
        .. currentmodule:: mmfusion
        <BLANKLINE>
        .. autosummary::
           :nosignatures:
        <BLANKLINE>
           fit
           Head
        <BLANKLINE>
        <BLANKLINE>
    """
    head, start, rest = page.partition(START)
    names = re.findall(r"^\.\. auto\w+:: ([\w.]+)$", rest.partition("```")[0], re.MULTILINE)
    if len(names) < 2:
        return page
    lines = ["", ".. autosummary::", "   :nosignatures:", "", *map(_entry, names), ""]
    return head + start + "\n".join(lines) + "\n" + rest


def _entry(name: str) -> str:
    """Returns the line of a name; of a long one, the last part is shown."""
    return f"   ~{name}" if "." in name else f"   {name}"


def _add(app: Any, name: str, source: list[str]) -> None:
    if name.startswith("api-"):
        source[0] = with_summary(source[0])


def setup(app: Any) -> dict[str, Any]:
    """Connects the table to the reading of the pages."""
    app.setup_extension("sphinx.ext.autosummary")
    app.connect("source-read", _add)
    return {"parallel_read_safe": True}
