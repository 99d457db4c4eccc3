"""Fit and evaluate on the Hugging Face Trainer: engine, progress bar, distribution and resume are its.

What is here is what it lacks: caching of frozen towers, and evaluation with intervals.
`checkpoints.py` chooses the checkpoint to resume from.
"""

import os
from dataclasses import dataclass

import datasets
import numpy as np
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from ..data.collate import Augment
from ..metrics.functional import accuracy, auroc
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from .callbacks import BestInMemory, Clock, Epochs
from .feature_cache import CachedDataset
from .resume import last_complete_checkpoint
from .rows import rows_and_collator

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class FitResult:
    """What a training came to.

    Attributes:
        history: what the Trainer logged, one dict per entry (loss, eval_loss, eval_accuracy,
            learning_rate, epoch ...).
        best_metric: the best validation value of `metric_for_best_model`, or None without
            validation or without a metric.
        epochs: how many epochs were trained (early stopping counted in).
        seconds_per_epoch: the mean time of an epoch's training steps, validation left out, of this
            run alone.
        trained_parameters: how many parameters train.
        folder: where the model and the processor were saved.
    """

    history: list[dict[str, float]]
    best_metric: float | None
    epochs: float
    seconds_per_epoch: float
    trained_parameters: int
    folder: str


def fit(
    model: FusionClassifier,
    processor: FusionProcessor,
    train: datasets.Dataset | CachedDataset,
    validation: datasets.Dataset | CachedDataset | None = None,
    *,
    arguments: TrainingArguments,
    augment: Augment | None = None,
    cache: str | os.PathLike[str] | None = None,
    patience: int | None = None,
    callbacks: list[TrainerCallback] | None = None,
) -> FitResult:
    """Train the model in place, and save it with its processor in `arguments.output_dir`.

    A run that was stopped, however rudely, goes on from its last complete checkpoint when it is
    called again with the same arguments, and ends at the same weights as one that was not stopped.
    The model ends with the weights of the best epoch; with `save_strategy="no"` these are kept in
    memory, and nothing is written. With `metric_for_best_model=None` no epoch is chosen: the
    validation data are only watched, and the last weights stay.

    Args:
        model: the classifier, with freshly drawn or pretrained weights.
        processor: its processor.
        train: rows with `image`, `text`, `label`, as `load_manifest` reads them, or what
            `cache_features` made of them.
        validation: rows to choose the best epoch on; None trains to the end and keeps the last
            weights.
        arguments: from `training_arguments`, or a `TrainingArguments` of your own.
        augment: `augment(picture, rng)` returns another picture; seeded by (seed, epoch, index).
        cache: a folder for what frozen towers compute; see `cache_features`.
        patience: stop when the metric has not got better for so many validations; None never stops
            early.
        callbacks: more of the Trainer's callbacks.

    Raises:
        ValueError: when `augment` and `cache` are both given, or `patience` is without validation
            or without a metric.
    """
    folder = str(arguments.output_dir)
    if augment is not None and (cache is not None or isinstance(train, CachedDataset)):
        raise ValueError(
            "augment must be None with a cache, got both: a cached picture cannot be another one in every epoch. Leave one out."
        )
    if patience is not None and validation is None:
        raise ValueError(
            f"patience must be None without validation data, got {patience!r}. Pass validation=."
        )
    writes = arguments.save_strategy != "no"
    if validation is None:
        arguments.eval_strategy = IntervalStrategy.NO
    chooses = arguments.metric_for_best_model is not None
    if patience is not None and not chooses:
        raise ValueError(
            "patience must be None where metric_for_best_model is None: there is no best epoch to wait for."
        )
    arguments.load_best_model_at_end = writes and chooses and validation is not None
    rows, collate = rows_and_collator(model, processor, train, arguments, cache, augment)
    held_out = (
        None
        if validation is None
        else rows_and_collator(model, processor, validation, arguments, cache)[0]
    )
    clock, best = Clock(), BestInMemory(arguments)
    extra: list[TrainerCallback] = (
        [clock] if writes or not chooses or validation is None else [clock, best]
    )
    if patience is not None:
        extra.append(EarlyStoppingCallback(early_stopping_patience=patience))
    if augment is not None:
        extra.append(Epochs(rows))
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=held_out,
        data_collator=collate,
        compute_metrics=_validation_metrics,
        callbacks=[*extra, *(callbacks or [])],
    )
    if arguments.disable_tqdm:
        # Quiet is quiet: without its bar the Trainer would print every log entry.
        trainer.remove_callback(PrinterCallback)
    checkpoint = last_complete_checkpoint(folder) if writes else None
    if checkpoint is not None:
        logger.warning(f"Going on from {checkpoint}.")
    trainer.train(resume_from_checkpoint=checkpoint)
    best.restore(model)
    if writes and trainer.is_world_process_zero():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()
    return FitResult(
        history=trainer.state.log_history,
        best_metric=trainer.state.best_metric if best.value is None else best.value,
        epochs=float(trainer.state.epoch or 0),
        seconds_per_epoch=clock.seconds_per_epoch,
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        folder=folder,
    )


def _validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy and AUROC of a validation pass; AUROC is left out where one class alone occurs."""
    logits, labels = (
        np.asarray(prediction.predictions, dtype=np.float32),
        np.asarray(prediction.label_ids),
    )
    area = auroc(logits, labels)
    return {"accuracy": accuracy(logits, labels)} | ({} if np.isnan(area) else {"auroc": area})
