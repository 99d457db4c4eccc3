"""The rule by which two texts count as the same text."""

import unicodedata
from functools import cache, lru_cache


# The folds of a cross-validation inside a cross-validation ask for the same texts again and again.
@lru_cache(maxsize=2**16)
def normalise_text(text: str) -> str:
    r"""Returns the letters, digits and symbols of a text, without case and layout.

    Two texts count as the same text if their results are equal. The text passes NFKC and case
    folding. Then every run of white space, punctuation and control characters becomes one space.
    Invisible format characters such as the soft hyphen are removed. A text of punctuation alone
    gives the empty string, which counts as no text.

    Args:
        text: any text.

    Returns:
        the normalised text. Normalising it again changes nothing.

    Source: Unicode Standard Annex 15 (NFKC) and section 3.13 of the standard (case folding).

    Example:
        >>> normalise_text("  The LUNGS\nare clear. ")
        'the lungs are clear'
    """
    # Case folding can produce characters that NFKC changes, so NFKC comes a second time.
    visible = _keep(unicodedata.normalize("NFKC", text)).casefold()
    return " ".join(_keep(unicodedata.normalize("NFKC", visible)).split())


def _keep(text: str) -> str:
    return "".join(map(_visible, text))


# Cached by character: the lookup of a category is slow, and a text repeats its characters.
@cache
def _visible(character: str) -> str:
    """Returns the character, a space for a separator, or "" for an invisible one."""
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    return " " if category[0] in "PZC" else character
