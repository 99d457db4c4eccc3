"""Predictions of a dataset on the Trainer, and their metrics with intervals."""

import copy
import os
import tempfile
from dataclasses import asdict, dataclass, field
from typing import Any

import datasets
import numpy as np
from transformers import Trainer, TrainingArguments

from ..metrics.bootstrap import Interval
from ..metrics.report import evaluate_predictions
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from .arguments import training_arguments
from .feature_cache import CachedDataset
from .rows import rows_and_collator


@dataclass(frozen=True)
class Evaluation:
    """What a model came to on a dataset.

    Attributes:
        metrics: name -> Interval(estimate, low, high): accuracy, balanced_accuracy, auroc,
            cross_entropy, ece.
        logits: [B, C] float32.
        labels: [B] or [B, C].
        groups: the group (patient) of each sample, over which the intervals were resampled; None
            where each is its own.
    """

    metrics: dict[str, Interval]
    logits: np.ndarray[Any, Any] = field(repr=False)
    labels: np.ndarray[Any, Any] = field(repr=False)
    groups: list[str] | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The metrics as JSON."""
        return {name: asdict(interval) for name, interval in self.metrics.items()}


def predict(
    model: FusionClassifier,
    processor: FusionProcessor,
    dataset: datasets.Dataset | CachedDataset,
    *,
    arguments: TrainingArguments | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> np.ndarray[Any, Any]:
    """The logits [B, C] of every row, in order; on several processes each gets them all.

    Args:
        model: the classifier.
        processor: its processor.
        dataset: rows with `image` and `text`; a `label` column is not looked at.
        arguments: batch size, workers and device; None means the defaults of `training_arguments`.
        cache: a folder for what frozen towers compute.
    """
    if arguments is None:
        with tempfile.TemporaryDirectory() as folder:
            return predict(
                model, processor, dataset, arguments=training_arguments(folder), cache=cache
            )
    if isinstance(dataset, datasets.Dataset) and "label" in dataset.column_names:
        dataset = dataset.remove_columns("label")
    rows, collate = rows_and_collator(model, processor, dataset, arguments, cache)
    # What a training may drop, the last and smaller batch, a prediction may not.
    arguments = copy.copy(arguments)
    arguments.dataloader_drop_last = False
    # The Trainer asks for validation data wherever its arguments plan a validation, also when it is
    # to predict alone.
    trainer = Trainer(model=model, args=arguments, data_collator=collate, eval_dataset=rows)
    logits = trainer.predict(rows).predictions
    # Accelerate marks the bare model as prepared when it predicts; a later fit on several processes
    # would then not wrap it, and every process would train weights of its own.
    model.__dict__.pop("_is_accelerate_prepared", None)
    return np.asarray(logits, dtype=np.float32)


def evaluate(
    model: FusionClassifier,
    processor: FusionProcessor,
    dataset: datasets.Dataset | CachedDataset,
    *,
    arguments: TrainingArguments | None = None,
    cache: str | os.PathLike[str] | None = None,
    group: str | None = "group",
    resamples: int = 2000,
    seed: int = 0,
) -> Evaluation:
    """Metrics with 95 % bootstrap intervals, resampled by patient where the dataset has a group column.

    Args:
        model: the classifier.
        processor: its processor.
        dataset: rows with `image`, `text` and `label`.
        arguments: as for `predict`.
        cache: as for `predict`.
        group: the column that holds the patient; a dataset without it resamples single rows. None:
            the same.
        resamples: bootstrap resamples, at least 1.
        seed: of the bootstrap.

    Raises:
        ValueError: when the dataset has no labels.
    """
    if "label" not in dataset.column_names:
        raise ValueError(
            f"dataset must have a column 'label', got {dataset.column_names}. Use predict for unlabelled data."
        )
    logits = predict(model, processor, dataset, arguments=arguments, cache=cache)
    return score(logits, dataset, group=group, resamples=resamples, seed=seed)


def score(
    logits: np.ndarray[Any, Any],
    dataset: datasets.Dataset | CachedDataset,
    *,
    group: str | None = "group",
    resamples: int = 2000,
    seed: int = 0,
) -> Evaluation:
    """The evaluation of logits [B, C] that were made elsewhere (an ensemble, the pooled folds of a cross-validation).

    Args:
        logits: one row per row of the dataset.
        dataset: rows with `label`.
        group: as for `evaluate`.
        resamples: as for `evaluate`.
        seed: as for `evaluate`.
    """
    table = dataset.dataset if isinstance(dataset, CachedDataset) else dataset
    labels = np.asarray(table["label"])
    groups = (
        [str(g) for g in table[group]]
        if group is not None and group in table.column_names
        else None
    )
    metrics = evaluate_predictions(logits, labels, groups=groups, resamples=resamples, seed=seed)
    return Evaluation(metrics, logits, labels, groups)
