"""The reader of manifests: tables of samples on disk. Its errors name the rows and values."""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from ..model.cells import is_missing, is_single, write_cell
from ..model.missing import is_blank
from ..model.printing import list_names, printable
from ..model.template import check_columns, template_columns, write_text
from ..model.validation import did_you_mean
from .image_cells import as_columns, image_paths, refuse_other_than_strings
from .label_cells import (
    NO_UNKNOWN,
    UnknownLabel,
    check_label_names,
    class_numbers,
    rows_with_a_class,
    yes_or_no,
)
from .tables import cells_of, further_column, read_table, refuse_cells

logger = logging.getLogger(__name__)

RESULT_COLUMNS = ("image", "text", "label", "group")
# Line breaks and tabs are layout. They are not noise, so they are not replaced.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def load_manifest(
    path: str | os.PathLike[str],
    *,
    image: str | Sequence[str] | None = "image",
    text: str | None = "text",
    label: str | Sequence[str] | None = "label",
    group: str | None = "group",
    label_names: Sequence[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    template: str | None = None,
    unknown_label: str | float | None = None,
    uncertain: str = "ignore",
) -> datasets.Dataset:
    r"""Returns the samples that a manifest lists, one row each. The pictures are not decoded.

    The result has the columns `image` (absolute path or None), `text` (or None), `label` and
    `group`, then all further columns of the manifest. A further column with one of these four names
    is left out. Control characters in a text become spaces. A text of any length is kept; the
    tokenizer cuts it later. Every message counts rows from 1.

    One rule holds for the cells of all formats, so a table gives the same samples whatever its
    format is. (1) A cell is missing if it is null, NaN, empty, white space, or one of the words
    that `pandas.read_csv` reads so, such as "NA", "nan" and "None"
    (`mmfusion.model.cells.MISSING_WORDS`). In the column of texts these words stay, with a warning,
    because a person may have written them. (2) Labels, groups and the values of a template are
    compared as `mmfusion.model.cells.write_cell` writes them: 1, 1.0 and "1.0" are "1", true and
    "TRUE" are "True", and midnight of a day is the day. "007", "07" and "7" are three texts.
    (3) Further columns are kept as they are: those of a CSV file hold strings, and an empty cell is
    None.

    Args:
        path: a table in UTF-8 with a header: .csv, .jsonl or .json (one object per line), or
            .parquet.
        image: the column of paths, relative to the manifest's folder, or else to `root`. If its
            cells are lists of paths, or if it is a list of columns, a row has a list of pictures,
            with None where one is missing: the views of a study, always in the same order. None:
            there are no pictures, and the result has no such column.
        text: the column of texts. None: there are no texts, and the result has no such column.
        label: a column of class names or whole numbers, which gives a `ClassLabel`; or a list of
            columns of 1, 0 or nothing, which gives multi-label rows: mappings of the columns' names
            to 1, 0 and NaN (unknown). None: there are no labels, as for prediction.
        group: the column that names the patient. A row with an empty cell is a group of its own.
            None: each row is a group of its own. The same holds if the default column is absent.
        label_names: the classes in order, for one label column. The cells then hold these names or
            their numbers from 0, unless a name is itself a whole number. A word such as "None" is a
            class only if it is listed here. None: the names that occur, sorted (by value if all
            are whole numbers).
        root: the folder that must contain the pictures. None: the manifest's folder.
        template: a sentence with names of columns in braces, such as "{sex}, {age} years.", which
            writes the texts in the place of a column of texts. A clause with an empty cell is left
            out (`mmfusion.model.template`).
        unknown_label: a value such as -1 that stands for an unknown label; -1, -1.0 and "-1" are
            one value. Of one label column, the rows that hold it are left out, and a warning tells
            how many: a row without a class teaches and measures nothing. Of several label columns,
            `uncertain` says what it counts as. None: no value stands for it.
        uncertain: "ignore" (NaN, unknown), "negative" (0) or "positive" (1): what `unknown_label`
            counts as in several label columns. An empty cell is unknown under each of the three.
            The last two are for training; rows to measure on are read with "ignore". These are
            U-Ignore, U-Zeros and U-Ones of Irvin et al. 2019 (CheXpert, arXiv 1901.07031).

    Returns:
        the dataset, in the manifest's order.

    Raises:
        TypeError: if `label_names` is not a list of strings.
        ValueError: if the manifest cannot be read, is empty or lacks a column; if a picture is
            missing or lies outside the folder (by "..", an absolute path or a link); if a label is
            missing, of no known class, or neither 0 nor 1; if a row has neither image nor text; if
            `unknown_label` or `uncertain` does not suit the label columns. The message names the
            rows and values.

    Example:
        >>> import pathlib, tempfile
        >>> lines = "notes,finding,patient\nclear lungs,normal,7\nopacity,ill,8\n"
        >>> names = {"image": None, "text": "notes", "label": "finding", "group": "patient"}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     manifest = pathlib.Path(folder, "manifest.csv")
        ...     _ = manifest.write_text(lines)
        ...     rows = load_manifest(manifest, **names)
        >>> rows[1], rows.features["label"].names
        ({'text': 'opacity', 'label': 0, 'group': '8'}, ['ill', 'normal'])
    """
    manifest = Path(path).absolute()
    table = read_table(manifest)
    unknown = UnknownLabel.of(unknown_label, uncertain, label, label_names)
    return samples_of(
        table, manifest, image, text, label, group, label_names, root, template, unknown
    )


def samples_of(
    table: pa.Table,
    manifest: Path,
    image: str | Sequence[str] | None,
    text: str | None,
    label: str | Sequence[str] | None,
    group: str | None,
    label_names: Sequence[str] | None,
    root: str | os.PathLike[str] | None,
    template: str | None,
    unknown: UnknownLabel = NO_UNKNOWN,
    *,
    keeps_absent: bool = False,
) -> datasets.Dataset:
    """Returns the samples of a table that was read already, as `load_manifest` does.

    Args:
        table: the content of the manifest, as `read_table` returns it.
        manifest: the absolute path of the manifest.
        image: as for `load_manifest`.
        text: as for `load_manifest`.
        label: as for `load_manifest`.
        group: as for `load_manifest`.
        label_names: as for `load_manifest`.
        root: as for `load_manifest`.
        template: as for `load_manifest`.
        unknown: the value that stands for an unknown label.
        keeps_absent: as for `image_paths`.
    """
    if template is not None:
        table = _with_texts(manifest, table, text, template)
        text = "text"
    labels = () if label is None else (label,) if isinstance(label, str) else tuple(label)
    if label is not None and not (labels and all(isinstance(name, str) for name in labels)):
        raise ValueError(
            f"label must be a column, a list of columns or None, got {label!r}. Name the columns."
        )
    _check_roles(manifest, table, as_columns(image), text, labels, group, label_names)
    result: dict[str, pa.Array] = {}
    features = datasets.Features()

    def add(name: str, values: Sequence[object], feature: Any) -> None:
        # The type is given, because pyarrow cannot infer it from a column of blank cells.
        features[name] = feature
        result[name] = pa.array(
            values, type=datasets.Features({name: feature}).arrow_schema.field(name).type
        )

    def cells(column: str) -> list[Any]:
        return cells_of(table[column])

    images = as_columns(image)
    if images:
        found = {one: cells(one) for one in images}
        add("image", *image_paths(manifest, found, root, keeps_absent=keeps_absent))
    if text is not None:
        add("text", _texts(manifest, text, cells(text)), datasets.Value("string"))
    _check_presence(manifest, result)
    if isinstance(label, str):
        add("label", *class_numbers(manifest, label, cells(label), label_names, unknown))
    elif labels:
        columns = [yes_or_no(manifest, name, cells(name), unknown).tolist() for name in labels]
        rows = [dict(zip(labels, row, strict=True)) for row in zip(*columns, strict=True)]
        add("label", rows, {name: datasets.Value("float32") for name in labels})
    patients = cells(group) if group and group in table.column_names else [None] * table.num_rows
    add("group", _groups(manifest, group, patients), datasets.Value("string"))
    for name in table.column_names:
        if name in RESULT_COLUMNS and name not in (*images, text, group, *labels):
            told = "%s: column %r is left out, the name stands for something else here."
            logger.info(told, printable(str(manifest)), name)
        elif name not in (*images, text, group, *labels):
            feature, values = further_column(manifest, name, table[name])
            features[name], result[name] = feature, values
    known = rows_with_a_class(manifest, pa.table(result), unknown)
    return datasets.Dataset(known, info=datasets.DatasetInfo(features=features))


def _check_roles(
    path: Path,
    table: pa.Table,
    images: Sequence[str],
    text: str | None,
    labels: Sequence[str],
    group: str | None,
    label_names: Sequence[str] | None,
) -> None:
    names = table.column_names
    if not images and text is None:
        raise ValueError(
            "image and text must be not both None, got None twice. Name at least one column."
        )
    asked = [*(("image", name) for name in images), ("text", text)]
    asked += [("label", name) for name in labels]
    # Only the default `group` column may be missing.
    if group != "group":
        asked.append(("group", group))
    for role, name in asked:
        if name is not None and name not in names:
            hint = (
                f"{did_you_mean(name, names)} Pass {role}=None if there is no such column.".strip()
            )
            # A single column with ";", "|" or a tab in its name is a header with another separator.
            if len(names) == 1 and re.search(r"[;\t|]", names[0]):
                hint = "The columns must be separated by commas."
            raise ValueError(
                f"{role} must be one of the columns {list_names(names)} of {path}, "
                f"got {name!r}. {hint}"
            )
    used = [name for role, name in asked if role != "group" and name is not None]
    if len(set(used)) < len(used):
        raise ValueError(
            f"image, text and label must be different columns, got {used!r}. Name each once."
        )
    if group is not None and group not in names:
        logger.warning(
            "%s has no column %r: every row counts as a group of its own.",
            printable(str(path)),
            group,
        )
    if label_names is not None:
        check_label_names(label_names, len(labels))


def _texts(path: Path, column: str, values: Sequence[Any]) -> list[str | None]:
    refuse_other_than_strings(path, column, list(enumerate(values, start=1)), "a text")
    if words := [value for value in values if not is_blank(value) and is_missing(value)]:
        logger.warning(
            "%s: %d cells of the text column %r hold a word such as %r, and count as texts. "
            "Leave a cell empty if there is no text.",
            printable(str(path)),
            len(words),
            column,
            words[0],
        )
    cleaned = (
        None if value is None else CONTROL.sub(" ", value.replace("\r\n", "\n")) for value in values
    )
    return [None if is_blank(value) else value for value in cleaned]


def _with_texts(path: Path, table: pa.Table, text: str | None, template: str) -> pa.Table:
    """Returns the table with the texts that the template writes, in the column `text`."""
    if text not in (None, "text"):
        raise ValueError(
            f"text must be left out with a template, got {text!r}. "
            f"Name that column in the template: {{{text}}}."
        )
    check_columns(template, table.column_names)
    columns = {name: cells_of(table[name]) for name in template_columns(template)}
    for name, values in columns.items():
        _refuse_lists(path, name, values)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    texts = pa.array([write_text(template, row) for row in rows], type=pa.string())
    if "text" in table.column_names:
        table = table.drop_columns("text")
    return table.append_column("text", texts)


def _check_presence(path: Path, result: dict[str, pa.Array]) -> None:
    columns = [result[name].to_pylist() for name in ("image", "text") if name in result]
    empty = [
        (row, None)
        for row, cells in enumerate(zip(*columns, strict=True), start=1)
        if not any(cells)
    ]
    if empty:
        refuse_cells(
            f"{path}",
            "a table with a picture or a text in every row",
            empty,
            "Leave such rows out.",
        )


def _refuse_lists(path: Path, column: str, values: Sequence[object]) -> None:
    wrong = [
        (row, value)
        for row, value in enumerate(values, start=1)
        if not is_missing(value) and not is_single(value)
    ]
    if wrong:
        refuse_cells(
            f"column {column!r} of {path}",
            "a text, a number, a boolean or a date in every row",
            wrong,
            "Write strings.",
        )


def _groups(path: Path, column: str | None, values: Sequence[object]) -> list[str]:
    _refuse_lists(path, column or "", values)
    keys = [write_cell(value) for value in values]
    alone = keys.count(None)
    if 0 < alone < len(keys):
        shown = printable(str(path))
        logger.warning("%s: %d rows without a group count as groups of their own.", shown, alone)
    # The name contains the full path, because two manifests may be audited together and their
    # rows must not get equal names.
    return [f"{path}:{row}" if key is None else key for row, key in enumerate(keys, start=1)]
