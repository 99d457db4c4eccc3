"""When two texts count as the same text."""

import unicodedata
from functools import cache


def normalise_text(text: str) -> str:
    r"""Return what makes two texts the same text: letters, digits and symbols, without case or layout.

    NFKC and case folding, then every run of white space, punctuation and control characters becomes
    one space. Invisible format characters such as the soft hyphen vanish. A text of nothing but
    punctuation gives the empty string, which counts as no text.

    Args:
        text: Any text.

    Returns:
        The normalised text; normalising it again changes nothing.

    Source: Unicode Standard Annex 15 (NFKC) and section 3.13 of the standard (case folding).

    Example:
        >>> normalise_text("  The LUNGS\nare clear. ")
        'the lungs are clear'
    """
    visible = _keep(unicodedata.normalize("NFKC", text)).casefold()
    return " ".join(_keep(unicodedata.normalize("NFKC", visible)).split())


def _keep(text: str) -> str:
    return "".join(map(_visible, text))


@cache
def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    return " " if category[0] in "PZC" else character
