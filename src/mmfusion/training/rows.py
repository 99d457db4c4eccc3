"""What the Trainer reads: rows of a dataset, cached, augmented or as they are, and their collator."""

import os
from typing import Any

import torch
from transformers import TrainingArguments

from ..data.collate import Augment, Augmented, FusionCollator
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from .feature_cache import CachedCollator, CachedDataset, cache_features


def rows_and_collator(
    model: FusionClassifier,
    processor: FusionProcessor,
    dataset: Any,
    arguments: TrainingArguments,
    cache: str | os.PathLike[str] | None,
    augment: Augment | None = None,
) -> tuple[Any, Any]:
    """What the Trainer reads: the rows (cached, augmented, or as they are) and the collator that fits them."""
    if isinstance(dataset, CachedDataset):
        return dataset, CachedCollator(processor, dataset.modalities)
    # A classifier of one modality learns from the same rows as one of both: what it has no tower
    # for is left aside.
    unused = [
        name
        for name in ("image", "text")
        if name in dataset.column_names and name not in model.modalities
    ]
    dataset = dataset.remove_columns(unused)
    if cache is not None:
        # One process encodes, the others find it done.
        with arguments.main_process_first(desc="cache"):
            if model.device != arguments.device:
                torch.nn.Module.to(model, arguments.device)
            return cache_features(model, processor, dataset, cache)
    rows = Augmented(dataset, seed=arguments.seed) if augment is not None else dataset
    return rows, FusionCollator(processor, augment=augment)
