"""Checks of what a user passes, and the sentences that propose the closest allowed name."""

import difflib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


def plain_value(value: Any) -> Any:
    """Returns `value` without numpy's types, which JSON does not know.

    Args:
        value: a number, a string, or lists and dicts of them, of numpy or not.

    Example:
        >>> import numpy as np
        >>> plain_value({"size": np.int64(3), "weights": np.array([1.0, 2.0])})
        {'size': 3, 'weights': [1.0, 2.0]}
    """
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, dict):
        return {plain_value(key): plain_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(plain_value(entry) for entry in value)
    return value


def did_you_mean(name: object, allowed: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Returns " Did you mean '...'?" with the closest allowed name, or "" where none is close.

    The leading space lets it follow another sentence.

    Args:
        name: what was written.
        allowed: what could have been meant.
        cutoff: how alike two names must be, from 0 to 1, as for `difflib.get_close_matches`.

    Example:
        >>> did_you_mean("imgae", ["image", "text"])
        " Did you mean 'image'?"
        >>> did_you_mean("patient", ["image", "text"])
        ''
    """
    matches = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=cutoff)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def closest(name: object, allowed: Iterable[str]) -> str:
    """Returns a sentence that proposes the closest allowed name, or lists them all.

    Args:
        name: what was written.
        allowed: what could have been meant.

    Example:
        >>> closest("concta", ["concat", "late"])
        "Did you mean 'concat'?"
    """
    allowed = list(allowed)
    return did_you_mean(name, allowed).strip() or f"Choose one of {sorted(allowed)}."


def check_choice(field: str, value: object, allowed: Iterable[str]) -> None:
    """Refuses a value that is not one of the allowed names.

    Args:
        field: the name of the argument, for the error message.
        value: what was given.
        allowed: the names.

    Raises:
        ValueError: that lists the names and proposes the closest one.

    Example:
        >>> check_choice("fit", "crpo", ["squash", "pad", "crop"])
        Traceback (most recent call last):
            ...
        ValueError: fit must be one of ['squash', 'pad', 'crop'], got 'crpo'. Did you mean 'crop'?
    """
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(
            f"{field} must be one of {allowed}, got {value!r}. {closest(value, allowed)}"
        )


def check_count(field: str, value: object) -> int:
    """Returns an option that must be a whole number of at least 1.

    Args:
        field: name of the option.
        value: what the user gave.

    Raises:
        ValueError: for anything else.

    Example:
        >>> check_count("rank", 0)
        Traceback (most recent call last):
            ...
        ValueError: rank must be a whole number of at least 1, got 0. Leave it out.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"{field} must be a whole number of at least 1, got {value!r}. Leave it out."
        )
    return value


def check_gate(value: object) -> float:
    """Returns the start of a gate, which must be a number other than 0.

    Args:
        value: what the user gave.

    Raises:
        ValueError: for 0, or what is no finite number.

    Example:
        >>> check_gate(0)
        Traceback (most recent call last):
            ...
        ValueError: gate must be other than 0, got 0. A gate at zero lets no gradient through.
    """
    if value == 0:
        raise ValueError(
            f"gate must be other than 0, got {value!r}. A gate at zero lets no gradient through."
        )
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"gate must be a finite number, got {value!r}. Leave it out.")
    return float(value)


def check_probability(field: str, value: float | int) -> None:
    """Refuses a probability outside [0, 1).

    Args:
        field: the name of the argument, for the error message.
        value: what was given.

    Raises:
        ValueError: when it is out of range.
    """
    if not 0 <= value < 1:
        raise ValueError(f"{field} must be in [0, 1), got {value!r}. 0 switches it off.")


@contextmanager
def described_errors(what: str, rule: str, advice: str) -> Iterator[None]:
    """Turns errors from inside a library into a ValueError that names what is at fault.

    Errors that are meant for users pass as they are. A UnicodeDecodeError, which names no file, is
    not one of them.

    Args:
        what: the thing at fault, such as a checkpoint.
        rule: what it must do.
        advice: what the user can do.

    Raises:
        ValueError: in the place of any other error.

    Example:
        >>> with described_errors("a", "divide 1", "Choose another."):
        ...     1 / 0
        Traceback (most recent call last):
            ...
        ValueError: a must divide 1, got ZeroDivisionError: division by zero. Choose another.
    """
    try:
        yield
    except Exception as error:
        is_meant = isinstance(error, (ValueError, TypeError, OSError, ImportError, MemoryError))
        if is_meant and not isinstance(error, UnicodeDecodeError):
            raise
        lines = str(error).strip().splitlines() or ["no reason"]
        # The last line of several is the most specific one.
        reason = f"{type(error).__name__}: {lines[-1].strip().rstrip('.')}"
        raise ValueError(f"{what} must {rule}, got {reason[:300]}. {advice}") from error


@contextmanager
def described_writes(folder: object) -> Iterator[None]:
    """Turns the errors with which libraries answer a full disk into an OSError.

    safetensors and torch have no class of their own for it.

    Args:
        folder: where something is written, for the message.

    Raises:
        OSError: that names the folder.
    """
    try:
        yield
    except Exception as error:
        kind, text = type(error).__name__, str(error)
        is_full = (kind == "SafetensorError" and "I/O error" in text) or (
            kind == "RuntimeError" and "inline_container" in text
        )
        if not is_full:
            raise
        raise OSError(
            f"{str(folder)!r} could not be written as a whole ({text.strip().splitlines()[-1]}). "
            "Make room on the disk."
        ) from error
