"""Samples in the forms that users have them: data frames, lists, columns and torch datasets."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import numpy as np
from PIL import Image

from ..model.images import load_image
from ..model.processing_inputs import is_not_a_number

Samples: TypeAlias = Any
"""What `as_dataset` takes: a `datasets.Dataset`, a pandas `DataFrame`, a list of mappings, a
mapping of columns, or a torch `Dataset` of mappings."""

_WANTED = (
    "a datasets.Dataset, a DataFrame, a list of mappings, a mapping of columns, or a torch "
    "Dataset whose items are mappings"
)


def as_dataset(samples: Samples) -> datasets.Dataset:
    """Returns samples as a `datasets.Dataset`, which holds all of them.

    `image` is a path, a picture, an array, a list of them (the views of a study), or None. `text`
    is a text or None. `label` is the name of a class, its number, or a mapping of names to 1, 0 and
    NaN. `group` names the patient. Missing cells of a data frame (NaN, None) become None. Names of
    classes become a `ClassLabel` of the names that occur, in sorted order. Pictures and arrays are
    kept as PNG in memory. A `datasets.Dataset` comes back as it is, apart from names of classes.

    Args:
        samples: a `datasets.Dataset`, a pandas `DataFrame`, a list of mappings, a mapping of
            columns, or a torch `Dataset` with a length, whose items are mappings.

    Raises:
        TypeError: for anything else, such as a `DatasetDict` or an iterator.
        ValueError: if a column cannot be read; the message names it.

    Example:
        >>> rows = [{"text": "clear", "label": "well"}, {"text": "opacity", "label": "ill"}]
        >>> table = as_dataset(rows)
        >>> table[0], table.features["label"].names
        ({'text': 'clear', 'label': 1}, ['ill', 'well'])
    """
    if isinstance(samples, datasets.Dataset):
        return _with_class_numbers(samples)
    columns = _columns(samples)
    table = datasets.Dataset.from_dict({})
    for name, values in columns.items():
        feature, made = _MAKERS.get(name, _further)(values)
        features = None if feature is None else datasets.Features({name: feature})
        try:
            one = datasets.Dataset.from_dict({name: made}, features=features)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"column {name!r} of the samples must be of one type, got {error}. Convert it."
            ) from error
        table = datasets.concatenate_datasets([table, one], axis=1) if table.column_names else one
    return _with_class_numbers(table)


def _columns(samples: Any) -> dict[str, list[Any]]:
    """Returns the columns of samples, each a list of equal length."""
    if isinstance(samples, Mapping) and not isinstance(samples, datasets.DatasetDict):
        for name, values in samples.items():
            # The characters of a text would pass for a column.
            if isinstance(values, str | bytes) or not isinstance(values, Iterable):
                raise TypeError(
                    f"column {name!r} must be a list of values, got {values!r}. Pass one sample as "
                    "a list of one mapping."
                )
        columns = {str(name): list(values) for name, values in samples.items()}
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns must have one length, got {lengths}.")
        return columns
    if hasattr(samples, "columns") and hasattr(samples, "iloc"):
        if not samples.columns.is_unique:
            raise ValueError(f"columns must have unlike names, got {list(samples.columns)}.")
        return {str(name): samples[name].tolist() for name in samples.columns}
    is_indexed = hasattr(samples, "__getitem__") and hasattr(samples, "__len__")
    if not is_indexed or isinstance(samples, str | bytes | Mapping):
        raise TypeError(f"samples must be {_WANTED}, got {type(samples).__name__}.")
    rows = [samples[number] for number in range(len(samples))]
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"samples must be {_WANTED}, got {type(row).__name__} at {number}.")
    # A mapping without a key has no value for it, as in a table with an empty cell.
    names = dict.fromkeys(name for row in rows for name in row)
    return {str(name): [row.get(name) for row in rows] for name in names}


def _with_class_numbers(table: datasets.Dataset) -> datasets.Dataset:
    """Returns the table with names of classes as a `ClassLabel`."""
    if "label" not in table.column_names:
        return table
    feature = table.features["label"]
    if not isinstance(feature, datasets.Value) or feature.dtype not in ("string", "large_string"):
        return table
    values = list(table["label"])
    if None in values:
        raise ValueError(
            f"label must be given in every row, got none in row {values.index(None)}, counted from "
            "0. Leave such rows out."
        )
    names = sorted(set(values))
    number = {name: place for place, name in enumerate(names)}
    numbers, feature = [number[value] for value in values], datasets.ClassLabel(names=names)
    # A table without its only column would have no rows, so the new one is added first.
    added = table.add_column("label as a number", numbers, feature=feature)
    renamed = added.remove_columns("label").rename_column("label as a number", "label")
    return renamed.select_columns(table.column_names)


def _images(values: list[Any]) -> tuple[Any, list[Any]]:
    """Returns the feature and the cells of a column of pictures."""
    studies = [list(cell) if isinstance(cell, list | tuple) else [cell] for cell in values]
    studies = [[None if _is_nothing(one) else one for one in views] for views in studies]
    are_paths = all(isinstance(one, str | Path | None) for views in studies for one in views)

    def made(one: Any) -> Any:
        if one is None or isinstance(one, Image.Image):
            return one
        # Files beside pictures are decoded: a column holds one kind.
        return str(one) if are_paths else load_image(one)

    cells = [[made(one) for one in views] for views in studies]
    feature: Any = datasets.Value("string") if are_paths else datasets.Image()
    if not any(isinstance(cell, list | tuple) for cell in values):
        return feature, [view for (view,) in cells]
    return datasets.List(feature), [views if any(views) else None for views in cells]


def _texts(values: list[Any]) -> tuple[Any, list[Any]]:
    """Returns the feature and the cells of a column of texts."""
    cells = [None if _is_nothing(value) else value for value in values]
    for number, cell in enumerate(cells):
        if cell is not None and not isinstance(cell, str):
            raise TypeError(f"text must be a text or None, got {cell!r} in row {number}.")
    return datasets.Value("string"), cells


def _labels(values: list[Any]) -> tuple[Any, list[Any]]:
    """Returns the feature and the cells of a column of labels; None infers the feature."""
    cells = [value.item() if isinstance(value, np.generic) else value for value in values]
    if cells and all(isinstance(cell, bool) for cell in cells):
        return datasets.ClassLabel(names=["False", "True"]), [int(cell) for cell in cells]
    # pandas writes whole numbers beside an empty cell as floats.
    whole = [int(c) if isinstance(c, float) and c.is_integer() else c for c in cells]
    return None, [None if _is_nothing(cell) else cell for cell in whole]


def _groups(values: list[Any]) -> tuple[Any, list[Any]]:
    """Returns the feature and the cells of a column of groups; a row without one is its own."""
    named = [None if _is_nothing(value) else str(value) for value in values]
    return datasets.Value("string"), [
        f"row {number}" if name is None else name for number, name in enumerate(named)
    ]


def _further(values: list[Any]) -> tuple[Any, list[Any]]:
    """Returns the cells of any other column, whose feature is inferred."""
    return None, [None if _is_nothing(value) else value for value in values]


def _is_nothing(value: Any) -> bool:
    """Returns whether a cell is None, NaN or pandas.NA; an empty text of a person is a text."""
    return value is None or is_not_a_number(value)


_MAKERS = {"image": _images, "text": _texts, "label": _labels, "group": _groups}
