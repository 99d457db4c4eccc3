"""The features of frozen towers, computed once and stored.

With frozen towers, most of an epoch repeats itself. `cache_features` encodes every sample once, up
to the first block that trains or in which the fusion strategy acts. It stores the result (Arrow,
half precision). The Trainer then reads that instead of pictures and texts. Results are the same up
to the rounding of half precision.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import datasets
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..data.collate import FusionCollator
from ..data.labels import label_tensor
from ..data.samples import Samples, as_dataset
from ..model.facts import look
from ..model.modalities import MODALITIES
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from .feature_store import TowerCache, content_keys


@final
class CachedDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """The rows of a dataset, with the features of frozen towers in the place of pictures and texts.

    Args:
        dataset: the rows.
        keys: modality -> the content key of each row, or a list of them for a list of pictures;
            None where it lacks the modality.
        caches: modality -> its cache.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        keys: Mapping[str, Sequence[Any]],
        caches: Mapping[str, TowerCache],
    ):
        self.dataset = dataset
        self.keys = keys
        self.caches = caches
        kept = [name for name in dataset.column_names if name not in caches]
        self._rest = dataset.select_columns(kept) if kept else None

    def with_table(self, table: datasets.Dataset) -> "CachedDataset":
        """Returns these rows with other columns beside the same features.

        Args:
            table: the rows of `dataset`, in the same order, with other columns.
        """
        return CachedDataset(table, self.keys, self.caches)

    @property
    def column_names(self) -> list[str]:
        """The names of the columns of the dataset behind it."""
        return list(self.dataset.column_names)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that are stored."""
        return tuple(self.caches)

    def select(self, indices: Sequence[int]) -> "CachedDataset":
        """Returns the rows at `indices`, in that order.

        Args:
            indices: row numbers from 0.
        """
        keys = {name: [column[index] for index in indices] for name, column in self.keys.items()}
        return CachedDataset(self.dataset.select(indices), keys, self.caches)

    def __len__(self) -> int:
        """Returns how many rows there are."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a row: its columns, and per cached modality `(state, pooled)` or None.

        Args:
            index: row number from 0.
        """
        row: dict[str, Any] = {} if self._rest is None else dict(self._rest[index])
        for modality, cache in self.caches.items():
            row[f"{modality}_cached"] = _stored(cache, self.keys[modality][index])
        return row


@final
class CachedCollator:
    """Rows of a `CachedDataset` in, the tensors of one batch out.

    Args:
        processor: makes the inputs of a modality that is not cached.
        modalities: the cached modalities.
    """

    def __init__(self, processor: FusionProcessor, modalities: Sequence[str]):
        # A sample may lack the modality that is not cached.
        self.collate = FusionCollator(processor.inputs_of)
        self.modalities = tuple(modalities)
        self._processed = tuple(name for name in MODALITIES if name not in self.modalities)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns the batch that the rows make.

        Args:
            rows: of a `CachedDataset`.
        """
        batch: dict[str, Any] = {}
        wanted = (*self._processed, "label")
        raw = [{key: row[key] for key in wanted if key in row} for row in rows]
        if any(name in row for row in raw for name in self._processed):
            batch |= self.collate(raw)
        elif any("label" in row for row in raw):
            batch["labels"] = label_tensor([row.get("label") for row in raw])
        for name in self.modalities:
            # The processor returns empty inputs also for the cached modality. Remove them.
            for processed in MODALITIES[name].processed:
                batch.pop(processed, None)
            batch |= _batch_of(name, [row[f"{name}_cached"] for row in rows])
        # The collator made its facts without the cached modality, so make them again.
        batch.pop("facts", None)
        return batch | {"facts": look(batch)}


def table_of(rows: datasets.Dataset | CachedDataset) -> datasets.Dataset:
    """Returns the dataset behind rows: of cached rows that of their columns, else the rows.

    Args:
        rows: cached or not.
    """
    return rows.dataset if isinstance(rows, CachedDataset) else rows


def cache_features(
    model: FusionClassifier,
    processor: FusionProcessor,
    dataset: Samples,
    folder: str | os.PathLike[str],
    *,
    batch_size: int = 32,
) -> tuple[CachedDataset, CachedCollator]:
    """Returns the dataset with the features of frozen towers, and the collator for its rows.

    Args:
        model: a classifier with at least one frozen, or partially frozen, tower.
        processor: the processor of that classifier.
        dataset: rows with `image` (a path) and `text`, as `load_manifest` reads them.
        folder: where the cache lies; entries of other models and other data in it do no harm.
        batch_size: how many samples are encoded at once.

    Raises:
        ValueError: when no tower is frozen up to a block that could be stored.
        ImageError: naming the picture that cannot be read.

    Example:
        See `mmfusion.fit`, which takes `cache=` and calls this.
    """
    dataset = as_dataset(dataset)
    modalities = [
        name
        for name in model.modalities
        if name in dataset.column_names
        and not model.cache_point(name).is_start
        and getattr(model, f"{name}_encoder").num_frozen_blocks
        # Windows of a text are joined behind the encoder, so only its output can be stored.
        and (name == "image" or processor.long_text != "chunk" or model.cache_point(name).pooled)
    ]
    if not modalities:
        raise ValueError(
            "model must have a frozen tower whose first blocks can be stored, got none. Freeze one "
            "with model.freeze('image'), or let the strategy act in later blocks."
        )
    caches, keys = {}, {}
    for name in modalities:
        caches[name] = TowerCache(model, processor, name, Path(folder))
        column = list(dataset[name])
        keys[name] = [content_keys(source, name) for source in column]
        sources: dict[str, Any] = {}
        for key, source in zip(keys[name], column, strict=True):
            is_list = isinstance(key, list)
            pairs = zip(key, source, strict=True) if is_list else [(key, source)]
            sources |= {one: value for one, value in pairs if one is not None}
        caches[name].add(sources, batch_size=batch_size)
    return CachedDataset(dataset, keys, caches), CachedCollator(processor, modalities)


Stored = tuple[Tensor, Tensor | None] | None
"""What a cache holds of one picture or text: state and pooled vector."""


def _stored(cache: TowerCache, key: Any) -> Any:
    """Returns what a cache holds of a key, of each of a list of keys, or None."""
    if isinstance(key, list):
        return [_stored(cache, one) for one in key]
    return None if key is None else cache.get(key)


def _batch_of_views(name: str, studies: Sequence[Sequence[Stored]]) -> dict[str, Tensor]:
    """Returns the inputs that lists of stored pictures make, with an axis of views."""
    most = max(map(len, studies))
    flat = [one for study in studies for one in (*study, *[None] * (most - len(study)))]
    batch = _batch_of(name, flat)
    return {key: value.unflatten(0, (len(studies), most)) for key, value in batch.items()}


def _batch_of(name: str, rows: Sequence[Any]) -> dict[str, Tensor]:
    """Returns the inputs that the stored rows of a modality make."""
    inputs = MODALITIES[name]
    if any(isinstance(row, list) for row in rows):
        return _batch_of_views(name, [row if isinstance(row, list) else [row] for row in rows])
    batch = {inputs.present: torch.tensor([row is not None for row in rows])}
    here = [row for row in rows if row is not None]
    if not here:
        empty_mask = torch.zeros(len(rows), 1, dtype=torch.long)
        return batch if inputs.mask is None else batch | {inputs.mask: empty_mask}
    first_state, first_pooled = here[0]
    empty = torch.zeros_like(first_state[:1] if inputs.mask is not None else first_state)
    states = [empty if row is None else row[0] for row in rows]
    if inputs.mask is not None:
        lengths = torch.tensor([0 if row is None else len(row[0]) for row in rows])
        places = torch.arange(max(int(lengths.max()), 1))
        batch[inputs.mask] = (places < lengths[:, None]).long()
        batch[inputs.state] = pad_sequence(states, batch_first=True)
    else:
        batch[inputs.state] = torch.stack(states)
    if first_pooled is not None:
        zero = torch.zeros_like(first_pooled)
        vectors = [zero if row is None or row[1] is None else row[1] for row in rows]
        batch[inputs.pooled] = torch.stack(vectors)
    return batch
