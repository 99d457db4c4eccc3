"""Predictions for a dataset with the Trainer, and their metrics with intervals."""

import copy
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, final

import numpy as np
from scipy.special import expit, softmax
from transformers import Trainer, TrainingArguments

from ..data.labels import class_names, label_array
from ..data.samples import Samples
from ..metrics.bootstrap import Interval
from ..metrics.report import evaluate_predictions
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from .arguments import training_arguments
from .feature_cache import CachedDataset, table_of
from .label_space import matched, names_of, renumbered
from .progress import lines_of
from .rows import as_rows, rows_and_collator


@final
@dataclass(frozen=True)
class Evaluation:
    """The results of a model on a dataset.

    Attributes:
        metrics: a mapping of name to Interval(estimate, low, high). It holds every metric of the
            table `METRICS` in `mmfusion.metrics.functional`.
        logits: the logits, float32 [B, C].
        labels: the labels, [B], or [B, C] for multi-label problems.
        groups: the group (patient) of each sample; the intervals were resampled by group. None if
            each sample was resampled on its own.
    """

    metrics: dict[str, Interval]
    logits: np.ndarray[Any, Any] = field(repr=False)
    labels: np.ndarray[Any, Any] = field(repr=False)
    groups: list[str] | None = field(default=None, repr=False)

    @property
    def probabilities(self) -> np.ndarray[Any, Any]:
        """The probabilities of the classes, [B, C]: softmax, or sigmoid of multi-label logits."""
        return as_probabilities(self.logits, multi_label=self.labels.ndim == 2)

    def __str__(self) -> str:
        """Returns one line for each metric, such as "auroc  0.812 (0.741 to 0.876)"."""
        width = max(map(len, self.metrics), default=0)
        return "\n".join(f"{name:<{width}}  {found}" for name, found in self.metrics.items())

    def to_dict(self) -> dict[str, Any]:
        """Returns the metrics as a dict that `json.dumps` accepts."""
        return {name: asdict(interval) for name, interval in self.metrics.items()}


def predict(
    model: FusionClassifier,
    processor: FusionProcessor,
    dataset: Samples | CachedDataset,
    *,
    arguments: TrainingArguments | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> np.ndarray[Any, Any]:
    """Returns the logits of all rows, float32 [B, C], in the order of the rows.

    If several processes run, each of them gets the logits of all rows.

    Args:
        model: the classifier.
        processor: its processor.
        dataset: rows with `image`, `text` or both, in any form that `as_dataset` takes, or cached
            ones; a `label` column is ignored.
        arguments: batch size, workers and device; None means the defaults of `training_arguments`.
        cache: a folder for the outputs of frozen towers, or None for no cache.
    """
    dataset = as_rows(dataset)
    if arguments is None:
        # The Trainer needs an output folder, although a prediction writes nothing into it.
        with tempfile.TemporaryDirectory() as folder:
            return predict(
                model, processor, dataset, arguments=training_arguments(folder), cache=cache
            )
    if "label" in dataset.column_names:
        # With labels the model would also compute a loss, which a prediction does not need.
        table = table_of(dataset).remove_columns("label")
        dataset = dataset.with_table(table) if isinstance(dataset, CachedDataset) else table
    rows, collate = rows_and_collator(model, processor, dataset, arguments, cache)
    # A training may drop the last, smaller batch. A prediction needs every row. The copy leaves the
    # caller's arguments unchanged.
    arguments = copy.copy(arguments)
    arguments.dataloader_drop_last = False
    # If its arguments plan a validation, the Trainer requires validation data, even if it only
    # predicts.
    trainer = Trainer(model=model, args=arguments, data_collator=collate, eval_dataset=rows)
    with lines_of(trainer):
        logits = trainer.predict(rows).predictions
    # While it predicts, Accelerate marks the unwrapped model as prepared. With this mark, a later
    # `fit` on several processes would not wrap the model in DDP, and each process would train its
    # own weights.
    model.__dict__.pop("_is_accelerate_prepared", None)
    answers = np.asarray(logits, dtype=np.float32)
    check_finite(answers)
    return answers


def predict_proba(
    model: FusionClassifier,
    processor: FusionProcessor,
    dataset: Samples | CachedDataset,
    *,
    arguments: TrainingArguments | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> np.ndarray[Any, Any]:
    """Returns the probabilities of all rows, float32 [B, C], in the order of the rows.

    The columns are the classes of `model.config.id2label`. A calibrated model (`fit`) gives
    calibrated probabilities.

    Args:
        model: the classifier.
        processor: its processor.
        dataset: as for `predict`.
        arguments: as for `predict`.
        cache: as for `predict`.
    """
    logits = predict(model, processor, dataset, arguments=arguments, cache=cache)
    return as_probabilities(logits, multi_label=model.multi_label)


def as_probabilities(logits: np.ndarray[Any, Any], *, multi_label: bool) -> np.ndarray[Any, Any]:
    """Returns the softmax of logits, or their sigmoid if the labels do not exclude each other.

    Args:
        logits: [B, C].
        multi_label: whether a sample may have several classes.

    Example:
        >>> as_probabilities(np.zeros((1, 2)), multi_label=False).tolist()
        [[0.5, 0.5]]
    """
    found: np.ndarray[Any, Any] = expit(logits) if multi_label else softmax(logits, axis=1)
    return found


def evaluate(
    model: FusionClassifier,
    processor: FusionProcessor,
    dataset: Samples | CachedDataset,
    *,
    arguments: TrainingArguments | None = None,
    cache: str | os.PathLike[str] | None = None,
    group: str | None = "group",
    resamples: int = 2000,
    seed: int = 0,
) -> Evaluation:
    """Returns the metrics of a model on a dataset, with 95 % bootstrap intervals.

    Labels are matched with the model's classes by name. So the dataset may lack classes, and it may
    number them differently.

    If the dataset has the group column, the intervals are resampled by group (patient). Otherwise
    they are resampled by row.

    Args:
        model: the classifier.
        processor: its processor.
        dataset: rows with `image`, `text` and `label`, in any form that `as_dataset` takes.
        arguments: as for `predict`.
        cache: as for `predict`.
        group: the name of the column that holds the patient. If the dataset lacks this column, or
            if `group` is None, single rows are resampled.
        resamples: the number of bootstrap resamples, at least 1.
        seed: the seed of the bootstrap.

    Raises:
        ValueError: if the dataset has no labels, or labels of classes that the model does not know.
    """
    dataset = as_rows(dataset)
    if "label" not in dataset.column_names:
        raise ValueError(
            f"dataset must have a column 'label', got {dataset.column_names}. "
            "Use predict for unlabelled data."
        )
    # Matched first, so that unknown classes are told before the prediction, which may take hours.
    dataset = matched(model, dataset)
    logits = predict(model, processor, dataset, arguments=arguments, cache=cache)
    return score(
        logits, dataset, group=group, resamples=resamples, seed=seed, names=names_of(model)
    )


def score(
    logits: np.ndarray[Any, Any],
    dataset: Samples | CachedDataset,
    *,
    group: str | None = "group",
    resamples: int = 2000,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> Evaluation:
    """Returns the evaluation of logits [B, C] that something else computed.

    Examples are the logits of an ensemble and the pooled folds of a cross-validation.

    Args:
        logits: one row of logits per row of the dataset, in the same order.
        dataset: rows with `label`.
        group: as for `evaluate`.
        resamples: as for `evaluate`.
        seed: as for `evaluate`.
        names: the class of each column of the logits, which labels are matched with by name. None:
            the classes of the dataset in their order.

    Raises:
        ValueError: if the logits do not fit the rows or the classes.
    """
    table = table_of(as_rows(dataset))
    own = class_names(table)
    if names is not None and own is not None:
        table, own = renumbered(table, names), list(names)
    labels = label_array(table)
    _check_logits(logits, labels, own)
    groups = (
        [str(name) for name in table[group]]
        if group is not None and group in table.column_names
        else None
    )
    metrics = evaluate_predictions(logits, labels, groups=groups, resamples=resamples, seed=seed)
    return Evaluation(metrics, logits, labels, groups)


def _check_logits(
    logits: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], names: Sequence[str] | None
) -> None:
    """Raises a ValueError if logits do not fit the labels, or are not finite.

    Args:
        logits: [B, C].
        labels: [B] or [B, C].
        names: of the classes, or None if they are not known.
    """
    rows, classes = logits.shape if logits.ndim == 2 else (len(logits), 0)
    wanted = len(names) if names is not None else classes if labels.ndim == 1 else labels.shape[1]
    if (rows, classes) != (len(labels), wanted):
        raise ValueError(
            f"logits must be [{len(labels)}, {wanted}], one row per row of the dataset and one "
            f"column per class, got {list(logits.shape)}. Name the classes of the columns: names=."
        )
    if labels.ndim == 1 and len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        odd = labels[(labels < 0) | (labels >= classes)][0]
        raise ValueError(
            f"labels must be in 0 .. {classes - 1} (the classes), got {odd}. Leave rows without a "
            "label out."
        )
    check_finite(logits)


def check_finite(logits: np.ndarray[Any, Any]) -> None:
    """Raises a ValueError that names the rows whose logits are NaN or infinite.

    Args:
        logits: [B, C].
    """
    wrong = np.flatnonzero(~np.isfinite(logits).all(1))
    if len(wrong):
        raise ValueError(
            f"logits must be finite, got NaN or infinity in {len(wrong)} of {len(logits)} rows, "
            f"counted from 0: {wrong[:10].tolist()}. Check the weights of the model."
        )
