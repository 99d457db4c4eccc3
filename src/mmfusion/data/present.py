"""The samples of a manifest that is not known to have both modalities."""

import os
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow as pa

from .label_cells import UnknownLabel
from .manifest import samples_of
from .tables import read_table


def load_present(
    path: str | os.PathLike[str],
    template: str | None = None,
    *,
    label: str | Sequence[str] | None = "label",
    label_names: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    table: pa.Table | None = None,
    unknown_label: str | float | None = None,
    uncertain: str = "ignore",
    keeps_absent: bool = False,
) -> datasets.Dataset:
    r"""Returns the samples of a manifest, with the modalities that it has a column for.

    `load_manifest` itself refuses a table without one of them, because a misspelt column would
    otherwise be an absent modality.

    Args:
        path: the manifest.
        template: of the texts; it stands for a column of texts.
        label: as for `load_manifest`.
        label_names: as for `load_manifest`.
        images: the columns of pictures; None takes the column `image`, if there is one.
        table: the content of the manifest. None: it is read here.
        unknown_label: as for `load_manifest`.
        uncertain: as for `load_manifest`.
        keeps_absent: whether the path of a picture without a file is kept; else it is an error.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "rows.csv")
        ...     _ = path.write_text("text,label\nclear,0\n")
        ...     load_present(path).column_names
        ['text', 'label', 'group']
    """
    manifest = Path(path).absolute()
    table = read_table(manifest) if table is None else table
    image, text = (name if name in table.column_names else None for name in ("image", "text"))
    if template is not None:
        text = None
    pictures = images or image
    unknown = UnknownLabel.of(unknown_label, uncertain, label, label_names)
    columns = (pictures, text, label, "group", label_names, None, template, unknown)
    return samples_of(table, manifest, *columns, keeps_absent=keeps_absent)
