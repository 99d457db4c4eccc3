"""The labels of a dataset: the names of its classes, and its labels as one array.

A column of labels is of one of these kinds:

| column | problem | names |
| --- | --- | --- |
| `ClassLabel` | single-label | those of the feature |
| whole numbers | single-label | none |
| a mapping of names to 1, 0 or NaN (unknown) | multi-label | its keys |
| lists of 1, 0 or NaN (unknown) | multi-label | none |
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import datasets
import numpy as np
import torch

from ..model.missing import is_blank


def class_names(table: datasets.Dataset, column: str = "label") -> list[str] | None:
    """Returns the names of the classes in order, or None if the column does not say them.

    Args:
        table: with the column of labels.
        column: the name of that column.

    Example:
        >>> names = datasets.ClassLabel(names=["normal", "ill"])
        >>> features = datasets.Features({"label": names})
        >>> class_names(datasets.Dataset.from_dict({"label": [1]}, features=features))
        ['normal', 'ill']
        >>> class_names(datasets.Dataset.from_dict({"label": [{"mass": 1.0, "fluid": 0.0}]}))
        ['mass', 'fluid']
    """
    feature = table.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return [str(name) for name in feature.names]
    return [str(name) for name in feature] if isinstance(feature, Mapping) else None


def is_multi_label(table: datasets.Dataset) -> bool:
    """Returns whether the labels are mappings or lists, which stand for a multi-label problem.

    Args:
        table: with the column `label`.
    """
    feature = table.features["label"]
    # A list feature has the attribute `feature`. A bare list with one entry is its older form.
    return isinstance(feature, Mapping | list) or hasattr(feature, "feature")


def label_array(table: datasets.Dataset) -> np.ndarray[Any, Any]:
    """Returns the labels of all rows: int64 [B], or float32 [B, C] with NaN where unknown.

    Args:
        table: with the column `label`.

    Raises:
        ValueError: as for `label_tensor`.
    """
    return label_tensor(list(table["label"])).numpy()


def label_tensor(labels: Sequence[Any]) -> torch.Tensor:
    """Returns the labels of some rows as one tensor.

    Args:
        labels: class numbers; or, for a multi-label problem, lists of equal length or mappings
            with equal keys, whose values are 1, 0 or blank (unknown).

    Returns:
        int64 [B] of class numbers, or float32 [B, C] with NaN where a label is unknown.

    Raises:
        ValueError: if the labels are neither all whole numbers nor all lists of one length or
            mappings of the same keys.

    Example:
        >>> label_tensor([{"mass": 1, "fluid": None}])
        tensor([[1., nan]])
    """
    plain = [_as_numbers(label) for label in labels]
    keys = {tuple(label) if isinstance(label, Mapping) else None for label in labels}
    lengths = {len(label) if isinstance(label, list | tuple) else None for label in plain}
    if len(keys) == 1 and len(lengths) == 1 and None not in lengths:
        rows = [[math.nan if is_blank(value) else value for value in label] for label in plain]
        return torch.tensor(rows, dtype=torch.float32)
    if not all(isinstance(label, Integral) for label in plain):
        raise ValueError(
            "label must be a class number in every row, or in each a list of one length or a "
            f"mapping of the same names, got {labels!r}. Read the rows with load_manifest; leave "
            "the column out where there is nothing to learn from."
        )
    return torch.tensor(plain, dtype=torch.int64)


def _as_numbers(label: Any) -> Any:
    """Returns a label as lists and numbers of Python; datasets may hold arrays and tensors."""
    if isinstance(label, Mapping):
        return [_as_numbers(value) for value in label.values()]
    return label.tolist() if hasattr(label, "tolist") else label
