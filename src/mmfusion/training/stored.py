"""Results on disk that are made once."""

import json
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
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        # Renamed only when complete, so that a killed run leaves no file that looks whole.
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(made), encoding="utf-8")
        partial.replace(path)
    # Read back even if it was just made, so that a fresh and a stored result have the same types.
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return stored
