"""What a message may show of names and texts that a user's file holds. It imports nothing heavy."""

import re
from collections.abc import Sequence

MOST_NAMES, LONGEST_NAME = 50, 100
# Controls, surrogates, separators of lines, and marks that turn the direction of writing.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str, keep: str = "") -> str:
    r"""Returns a text whose control characters are written as escapes such as "\x1b".

    A terminal would obey them: it would hide lines, or write others.

    Args:
        text: any text, of a cell, of a file's name or of an error.
        keep: the characters that stay, such as line breaks.

    Example:
        >>> print(printable("red \x1b[31m\nline"))
        red \x1b[31m\nline
    """
    return _UNPRINTABLE.sub(
        lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text
    )


def list_names(names: Sequence[str]) -> str:
    """Returns the names as a message shows them: a damaged header has many, or very long ones.

    Args:
        names: of the columns of a table.

    Example:
        >>> list_names(["image", "text"])
        "['image', 'text']"
    """
    shown = [
        repr(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}...")
        for name in names[:MOST_NAMES]
    ]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"[{', '.join(shown)}]{more}"
