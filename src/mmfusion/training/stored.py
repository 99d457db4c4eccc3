"""JSON files: written as a whole or not at all, and made once."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns the content of a JSON file, after making the file if there is none.

    Args:
        path: the JSON file.
        make: the function whose result is written where the file is missing.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "folds" / "0.json"
        >>> kept(path, lambda: {"a": 1}), kept(path, lambda: {"a": 2})
        ({'a': 1}, {'a': 1})
    """
    if not path.exists():
        write_json(path, make(), indent=None)
    # Read back even if it was just made, so that a fresh and a stored result have the same types.
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """Returns the content of a JSON file that holds a mapping.

    Args:
        path: the file.

    Raises:
        ValueError: if the file holds something else.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} must be a JSON file ({error}). Make it anew.") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{str(path)!r} must hold a JSON object, got {type(stored).__name__}.")
    return stored


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Writes a value as a JSON file, whose folder is made if it does not exist.

    It is written under another name and renamed when it is complete. So a run that is killed leaves
    no file that looks whole, and a full disk leaves nothing.

    Args:
        path: the file.
        value: of dicts, lists, strings and numbers.
        indent: as for `json.dumps`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    try:
        partial.write_text(json.dumps(value, indent=indent), encoding="utf-8")
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def finite(value: Any) -> Any:
    """Returns a value with None in the place of NaN and infinity, which JSON does not know.

    Args:
        value: of dicts, lists, strings and numbers.

    Example:
        >>> finite({"auroc": float("nan"), "shares": (0.5, float("inf"))})
        {'auroc': None, 'shares': [0.5, None]}
    """
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
