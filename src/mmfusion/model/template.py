"""Texts that are written from the columns of a table, such as sex, age and indication."""

import re
from collections.abc import Mapping
from string import Formatter
from typing import NamedTuple, final

from .cells import is_missing, write_cell
from .printing import list_names
from .validation import did_you_mean

_RANK = ",;.\n"
"""The separators of clauses, from weak to strong."""
# "." and "," count only before white space or at the end: "0.5" and "1,5" are numbers.
_SEPARATOR = re.compile(r"\s*\n\s*|[,;.](?=\s|$)")


@final
class _Clause(NamedTuple):
    """A part of a template up to a separator.

    Attributes:
        pieces: literal text and the name of the column that follows it, or None.
        separator: what ends the clause; "" at the end of the template.
    """

    pieces: list[tuple[str, str | None]]
    separator: str


def template_columns(template: str) -> list[str]:
    """Returns the columns that a template names, each once.

    Args:
        template: such as "{sex}, {age} years. {indication}".

    Raises:
        ValueError: if it names no column, or a pair of braces does not hold a name alone.

    Example:
        >>> template_columns("{sex}, {age} years. {indication}")
        ['sex', 'age', 'indication']
    """
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"template must have each brace closed, got {template!r} ({error}). "
            "Write {{ and }} for braces in the text."
        ) from error
    names = []
    for _, name, form, conversion in parsed:
        if name is None:
            continue
        if not name.strip() or form or conversion or re.search(r"[.\[]", name):
            raise ValueError(
                f"template must hold only names of columns in braces, got {template!r}. "
                'Write for example "{sex}, {age} years."'
            )
        names.append(name)
    if not names:
        raise ValueError(
            f"template must name a column in braces, got {template!r}. "
            'Write for example "{sex}, {age} years."'
        )
    return list(dict.fromkeys(names))


def write_text(template: str, values: Mapping[str, object]) -> str | None:
    """Returns the text that a template and the values of one sample make.

    The template is divided into clauses, which end at a comma, a semicolon, a full stop or a line
    break. A clause with a missing value is left out. Between two clauses that remain stands the
    strongest separator of those that stood there. A value is written as `write_cell` of
    `mmfusion.model.cells` says: a whole number without ".0".

    Args:
        template: such as "{sex}, {age} years. {indication}".
        values: column -> value; None, NaN, white space and words such as "NA" or "nan" are missing.

    Returns:
        the text, or None if all values are missing.

    Raises:
        ValueError: if the template is malformed, or names a column that `values` lacks.

    Example:
        >>> template = "{sex}, {age} years. {indication}"
        >>> write_text(template, {"sex": "male", "age": 60.0, "indication": "cough"})
        'male, 60 years. cough'
        >>> write_text(template, {"sex": "male", "age": None, "indication": "cough"})
        'male. cough'
    """
    columns = template_columns(template)
    check_columns(template, list(values))
    if all(is_missing(values[name]) for name in columns):
        return None
    text, pending = "", ""
    for clause in _clauses(template):
        if all(name is None or not is_missing(values[name]) for _, name in clause.pieces):
            text += pending if text else ""
            text += "".join(
                literal + ("" if name is None else write_cell(values[name]) or "")
                for literal, name in clause.pieces
            )
            pending = clause.separator
        elif _rank(clause.separator) > _rank(pending):
            pending = clause.separator
    # A comma at the end would wait for the clause that was left out.
    return f"{text}{pending if pending == '.' else ''}".strip()


def check_columns(template: str, columns: list[str]) -> None:
    """Refuses a template that names a column which is not there.

    Args:
        template: the template.
        columns: the names of all columns.

    Raises:
        ValueError: naming the column and the closest one.
    """
    for name in template_columns(template):
        if name not in columns:
            raise ValueError(
                f"template must name columns of {list_names(columns)}, got {name!r}."
                f"{did_you_mean(name, columns)}"
            )


def _clauses(template: str) -> list[_Clause]:
    """Returns the clauses of a template, which together are the whole template."""
    clauses: list[_Clause] = []
    pieces: list[tuple[str, str | None]] = []
    for literal, name, _, _ in Formatter().parse(template):
        start = 0
        for found in _SEPARATOR.finditer(literal):
            # At the end of a literal, a column follows: "{a}.{b}" has no separator.
            if found.end() == len(literal) and name is not None and "\n" not in found.group():
                continue
            pieces.append((literal[start : found.start()], None))
            clauses.append(_Clause(pieces, found.group()))
            pieces, start = [], found.end()
        pieces.append((literal[start:], name))
    return [*clauses, _Clause(pieces, "")]


def _rank(separator: str) -> int:
    """Returns how strong a separator is; -1 for none."""
    return max((_RANK.index(sign) for sign in separator if sign in _RANK), default=-1)
