"""The classes of a dataset and of a model, matched by name.

Two datasets may number the same classes differently: a table without one class has smaller numbers.
So the numbers of a dataset are never compared with those of a model. Where the names are known,
they decide.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import datasets
import numpy as np
from transformers.utils import logging

from ..data.labels import class_names, is_multi_label, label_array
from ..model.modeling import FusionClassifier
from ..model.validation import did_you_mean
from .feature_cache import CachedDataset, table_of

logger = logging.get_logger(__name__)

Rows = TypeVar("Rows", datasets.Dataset, CachedDataset)


def names_of(model: FusionClassifier) -> list[str] | None:
    """Returns the names of a model's classes in order; None where it has only default names.

    Args:
        model: the classifier. transformers calls classes "LABEL_0", "LABEL_1" ... by default.
    """
    names = [str(name) for _, name in sorted((model.config.id2label or {}).items())]
    is_default = names == [f"LABEL_{number}" for number in range(len(names))]
    return None if is_default else names


def label_options(table: datasets.Dataset) -> dict[str, Any]:
    """Returns what `FusionClassifier` must know of the labels of some rows.

    Args:
        table: with a column `label`.

    Example:
        >>> table = datasets.Dataset.from_dict({"label": [{"mass": 1.0, "fluid": 0.0}]})
        >>> label_options(table)["id2label"]
        {0: 'mass', 1: 'fluid'}
    """
    kind = "multi_label" if is_multi_label(table) else "single_label"
    names = class_names(table)
    if names is not None:
        classes: dict[str, Any] = {"id2label": dict(enumerate(names))}
    else:
        labels = label_array(table)
        classes = {"num_labels": labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1}
    return classes | {"problem_type": f"{kind}_classification"}


def adopt_names(model: FusionClassifier, rows: datasets.Dataset | CachedDataset) -> None:
    """Gives a model without class names those of the rows that it is trained on.

    A model of another number of classes keeps its default names; `matched` refuses its rows.

    Args:
        model: the classifier.
        rows: of the training.
    """
    table = table_of(rows)
    names = class_names(table) if "label" in table.column_names else None
    if names is None or names_of(model) is not None or len(names) != model.config.num_labels:
        return
    logger.info(f"The classes of the model are named {names}, as those of the training rows.")
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}


def matched(model: FusionClassifier, rows: Rows) -> Rows:
    """Returns the rows with each label as the model's class of the same name.

    Rows come back as they are if the numbers agree already, or if the labels or the model have no
    names. A multi-label dataset may lack classes of the model: their labels are unknown.

    Args:
        model: the classifier.
        rows: a dataset or cached rows, with or without the column `label`.

    Raises:
        ValueError: if a class that occurs is unknown to the model, if the numbers of classes
            differ where one side has no names, or if only one side is multi-label.
    """
    table = table_of(rows)
    if "label" not in table.column_names:
        return rows
    if is_multi_label(table) != model.multi_label:
        kinds = {True: "multi-label", False: "single-label"}
        raise ValueError(
            f"label must be {kinds[model.multi_label]}, as the model is, got "
            f"{table.features['label']}. "
            "Read the rows with label= one column, or a list of columns for a multi-label model."
        )
    own, wanted = class_names(table), names_of(model)
    if own is None or wanted is None:
        _check_count(table, own, int(model.config.num_labels or 0))
        return rows
    changed = renumbered(table, wanted)
    if changed is table:
        return rows
    return rows.with_table(changed) if isinstance(rows, CachedDataset) else changed


def renumbered(table: datasets.Dataset, wanted: Sequence[str]) -> datasets.Dataset:
    """Returns the table with its labels in the order of other class names; itself if they agree.

    Args:
        table: with a column `label` that has names.
        wanted: the class names in the new order.

    Raises:
        ValueError: if a class that occurs is not among them.
    """
    own = class_names(table)
    assert own is not None
    is_same = own == list(wanted) if is_multi_label(table) else own == list(wanted)[: len(own)]
    if is_same:
        return table
    labels = label_array(table)
    _check_known(own, labels, wanted)
    place = {name: number for number, name in enumerate(wanted)}
    rest = table.remove_columns("label")
    if labels.ndim == 2:
        answers = np.full((len(labels), len(wanted)), np.nan, dtype=np.float32)
        for name, column in zip(own, labels.T, strict=True):
            if name in place:
                answers[:, place[name]] = column
        values: Any = [dict(zip(wanted, row, strict=True)) for row in answers.tolist()]
        feature: Any = {name: datasets.Value("float32") for name in wanted}
    else:
        # A number outside of the names, such as -1 for "no label", stays: the loss refuses it.
        values = [place[own[n]] if 0 <= n < len(own) else n for n in labels.tolist()]
        feature = datasets.ClassLabel(names=list(wanted))
        if any(not 0 <= n < len(own) for n in labels.tolist()):
            feature = datasets.Value("int64")
    return rest.add_column("label", values, feature=feature)


def _check_known(own: Sequence[str], labels: np.ndarray[Any, Any], wanted: Sequence[str]) -> None:
    """Raises a ValueError if a class that occurs in the labels has no name among the wanted."""
    if labels.ndim == 2:
        occurs = (~np.isnan(labels)).any(0)
    else:
        occurs = np.isin(np.arange(len(own)), labels)
    unknown = [name for name, here in zip(own, occurs, strict=True) if here and name not in wanted]
    if unknown:
        raise ValueError(
            f"the labels must be classes of the model ({', '.join(map(repr, wanted))}), got "
            f"{', '.join(map(repr, unknown))}.{did_you_mean(unknown[0], wanted)} "
            "Rename them in the table, or leave their rows out."
        )


def _check_count(table: datasets.Dataset, own: Sequence[str] | None, wanted: int) -> None:
    """Raises a ValueError if labels without names, or of a model without names, cannot fit.

    Class numbers without names are checked where the loss or a metric reads them.
    """
    if own is None and (not is_multi_label(table) or not len(table)):
        return
    count = len(own) if own is not None else label_array(table.select([0])).shape[1]
    if count != wanted:
        names = "" if own is None else f" ({', '.join(map(repr, own))})"
        raise ValueError(
            f"the labels must be of {wanted} classes, as the model's are, got {count}{names}. "
            "Build the model with id2label= (the names of its classes): then they are matched by "
            "name."
        )
