"""The rows that the Trainer reads, and their collator."""

import os
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import torch
from transformers import TrainingArguments

from ..data.collate import Augment, Augmented, FusionCollator
from ..data.samples import as_dataset
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from .feature_cache import CachedCollator, CachedDataset, cache_features
from .label_space import matched


def rows_and_collator(
    model: FusionClassifier,
    processor: FusionProcessor,
    dataset: Any,
    arguments: TrainingArguments,
    cache: str | os.PathLike[str] | None,
    augment: Augment | None = None,
) -> tuple[Any, Any]:
    """Returns the rows for the Trainer (cached, augmented or unchanged) and a collator for them.

    Labels are matched with the model's classes by name.

    Args:
        model: the classifier; it tells which modalities are needed, and it fills the cache.
        processor: the model's processor.
        dataset: rows with `image`, `text` or both, or a `CachedDataset`. None comes back as it is.
        arguments: give the seed of the augmentation and the device that fills the cache.
        cache: a folder for the outputs of frozen towers, or None for no cache.
        augment: the augmentation of `fit`, or None for none.
    """
    if dataset is None:
        return None, None
    dataset = matched(model, dataset)
    if isinstance(dataset, CachedDataset):
        return dataset, CachedCollator(processor, dataset.modalities)
    # A classifier of one modality can use a dataset with both columns. Without this removal the
    # collator would decode or tokenize a column that the model cannot use.
    unused = [
        name
        for name in ("image", "text")
        if name in dataset.column_names and name not in model.modalities
    ]
    dataset = dataset.remove_columns(unused)
    if cache is not None:
        # The main process fills the cache first. The other processes then read the finished cache
        # instead of computing it again.
        with arguments.main_process_first(desc="cache"):
            # The Trainer does not exist yet, so the model may still be on another device.
            if model.device != arguments.device:
                torch.nn.Module.to(model, arguments.device)
            return cache_features(model, processor, dataset, cache)
    rows = Augmented(dataset, seed=arguments.seed) if augment is not None else dataset
    return rows, FusionCollator(processor, augment=augment)


def as_rows(samples: Any) -> Any:
    """Returns rows in the form that the functions of this folder read.

    Args:
        samples: cached rows, None, or samples in any form that `as_dataset` takes.
    """
    if samples is None or isinstance(samples, CachedDataset):
        return samples
    return as_dataset(samples)


def has_modality(table: datasets.Dataset, modalities: Sequence[str]) -> np.ndarray[Any, Any]:
    """Returns which rows have at least one of the modalities [B].

    Args:
        table: with the columns `image`, `text` or both.
        modalities: names of columns; one that the table lacks is absent in every row.

    Example:
        >>> table = datasets.Dataset.from_dict({"image": ["a.png", None], "text": [None, None]})
        >>> has_modality(table, ["image", "text"]).tolist()
        [True, False]
    """
    here = np.zeros(len(table), dtype=bool)
    for name in set(modalities) & set(table.column_names):
        here |= np.asarray([value is not None for value in table[name]])
    return here


def most_views(table: datasets.Dataset) -> int:
    """Returns the most pictures of a row; 1 where rows have a picture and no list of them.

    Args:
        table: with the column `image`.

    Example:
        >>> most_views(datasets.Dataset.from_dict({"image": [["a.png", "b.png"], None]}))
        2
    """
    if not isinstance(table.features["image"], datasets.List):
        return 1
    return max((len(views) for views in table["image"] if views is not None), default=1)


def first_views(table: datasets.Dataset, views: int) -> datasets.Dataset:
    """Returns rows with their first pictures alone.

    Args:
        table: with the column `image`.
        views: how many are kept. With 1, the column holds pictures and no lists.

    Example:
        >>> table = datasets.Dataset.from_dict({"image": [["a.png", "b.png"], [None, "c.png"]]})
        >>> list(first_views(table, 1)["image"])
        ['a.png', None]
    """
    feature = table.features["image"]
    if not isinstance(feature, datasets.List):
        return table
    kept: list[Any] = [None if row is None else row[:views] for row in table["image"]]
    if views == 1:
        kept, feature = [None if row is None else row[0] for row in kept], feature.feature
    else:
        kept = [row if row and any(row) else None for row in kept]
    return _replaced(table, "image", kept, feature)


def without(rows: Any, modality: str) -> Any:
    """Returns rows that all lack a modality.

    Args:
        rows: a dataset, or cached rows.
        modality: "image" or "text".
    """
    nothing = [None] * len(rows)
    if isinstance(rows, CachedDataset) and modality in rows.caches:
        return CachedDataset(rows.dataset, {**rows.keys, modality: nothing}, rows.caches)
    if isinstance(rows, CachedDataset):
        return CachedDataset(without(rows.dataset, modality), rows.keys, rows.caches)
    return _replaced(rows, modality, nothing, rows.features[modality])


def _replaced(
    table: datasets.Dataset, name: str, values: list[Any], feature: Any
) -> datasets.Dataset:
    """Returns a table with other values in a column."""
    # A table without its only column would have no rows, so the new one is added first.
    added = table.add_column(f"new {name}", values, feature=feature)
    return added.remove_columns(name).rename_column(f"new {name}", name)
