"""The columns of a manifest that is not known to have both modalities."""

import os
from pathlib import Path
from typing import Any

from .tables import read_table


def present_columns(path: str | os.PathLike[str], template: str | None = None) -> dict[str, Any]:
    r"""Returns the options with which `load_manifest` reads the modalities that a table has.

    `load_manifest` itself refuses a table without one of them, because a misspelt column would
    otherwise be an absent modality.

    Args:
        path: the manifest.
        template: of the texts; it stands for a column of texts.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "rows.csv")
        ...     _ = path.write_text("image,label\na.png,0\n")
        ...     present_columns(path)
        {'image': 'image', 'text': None, 'template': None}
    """
    columns = read_table(Path(path)).column_names
    return {
        "image": "image" if "image" in columns else None,
        "text": "text" if "text" in columns and template is None else None,
        "template": template,
    }
