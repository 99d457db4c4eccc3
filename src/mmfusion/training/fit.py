"""Training with the Hugging Face Trainer, which supplies the loop, distribution and progress bar.

This module adds the cache of frozen towers, the best weights in memory, and resumption from the
last complete checkpoint, which `resume.py` chooses.
"""

import copy
import os
from dataclasses import dataclass
from typing import final

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


@final
@dataclass(frozen=True)
class FitResult:
    """The results of a training.

    Attributes:
        history: the log of the Trainer, one dict per entry (loss, eval_loss, eval_accuracy,
            learning_rate, epoch ...).
        best_metric: the best validation value of `metric_for_best_model`, or None without
            validation or without a metric.
        epochs: the number of epochs that were trained; early stopping makes it smaller.
        seconds_per_epoch: the mean time of the training steps of an epoch, without validation. Only
            the epochs of this run count, not those before a resumption.
        trained_parameters: the number of trainable parameters.
        folder: the folder where the model and the processor were saved.
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
    """Trains the model in place, and saves it with its processor in `arguments.output_dir`.

    If a run was stopped or killed, a second call with the same arguments resumes from the last
    complete checkpoint. It ends at the same weights as a run that was not stopped. The model ends
    with the weights of the best epoch. With `save_strategy="no"` these weights are kept in memory
    and nothing is written. With `metric_for_best_model=None` no epoch is chosen: the validation
    data are only evaluated, and the model keeps the weights of the last epoch.

    Args:
        model: the classifier, with freshly drawn or pretrained weights.
        processor: its processor.
        train: rows with `image`, `text` and `label`, as `load_manifest` reads them, or the cached
            rows that `cache_features` returns.
        validation: rows to choose the best epoch on. None trains to the end and keeps the last
            weights.
        arguments: from `training_arguments`, or a `TrainingArguments` of your own. They are copied
            and stay unchanged.
        augment: `augment(picture, rng)` returns another picture; `rng` is seeded by (seed, epoch,
            index).
        cache: a folder for the outputs of frozen towers; see `cache_features`.
        patience: the number of validations in a row without a better metric after which the
            training stops; None never stops early.
        callbacks: further callbacks for the Trainer.

    Raises:
        ValueError: if `augment` is given together with a cache, or `patience` is given without
            validation or without a metric.
    """
    has_validation, has_metric = validation is not None, arguments.metric_for_best_model is not None
    is_cached = cache is not None or isinstance(train, CachedDataset)
    _check_options(augment, is_cached, patience, has_validation, has_metric)
    # The lines below and the Trainer set options. The copy leaves the caller's arguments unchanged.
    arguments = copy.copy(arguments)
    writes, chooses = arguments.save_strategy != "no", has_validation and has_metric
    if validation is None:
        # The Trainer refuses a planned validation without validation data.
        arguments.eval_strategy = IntervalStrategy.NO
    arguments.load_best_model_at_end = writes and chooses
    rows, collate = rows_and_collator(model, processor, train, arguments, cache, augment)
    # Augmented validation rows would make the epochs hard to compare, so these stay unchanged.
    held_out = None
    if validation is not None:
        held_out, _ = rows_and_collator(model, processor, validation, arguments, cache)
    clock, best = Clock(), BestInMemory(arguments)
    # With checkpoints the Trainer itself loads the best epoch at the end.
    extra: list[TrainerCallback] = [clock, best] if chooses and not writes else [clock]
    if patience is not None:
        extra.append(EarlyStoppingCallback(early_stopping_patience=patience))
    if augment is not None:
        # The augmentation of a row depends on the epoch, also after a resumption.
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
        # `disable_tqdm` makes the Trainer print each log entry. Remove the callback that prints.
        trainer.remove_callback(PrinterCallback)
    folder = str(arguments.output_dir)
    _train_or_resume(trainer, folder if writes else None)
    best.restore(model)
    if writes:
        _save(trainer, model, processor, folder)
    return FitResult(
        history=trainer.state.log_history,
        best_metric=trainer.state.best_metric if best.value is None else best.value,
        epochs=float(trainer.state.epoch or 0),
        seconds_per_epoch=clock.seconds_per_epoch,
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        folder=folder,
    )


def _train_or_resume(trainer: Trainer, folder: str | None) -> None:
    """Trains from the last complete checkpoint in `folder`, or from the start if there is none."""
    # The Trainer can choose a checkpoint itself, but it would also choose an incomplete one.
    checkpoint = None if folder is None else last_complete_checkpoint(folder)
    if checkpoint is not None:
        logger.warning(f"Going on from {checkpoint}.")
    trainer.train(resume_from_checkpoint=checkpoint)


def _save(
    trainer: Trainer, model: FusionClassifier, processor: FusionProcessor, folder: str
) -> None:
    """Writes the model and its processor into `folder`."""
    # On several processes only one writes, because all of them hold the same weights.
    if trainer.is_world_process_zero():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    # No process may read the folder before the main process has written it.
    trainer.accelerator.wait_for_everyone()


def _check_options(
    augment: Augment | None,
    is_cached: bool,
    patience: int | None,
    has_validation: bool,
    has_metric: bool,
) -> None:
    """Raises a ValueError for options of `fit` that exclude each other."""
    if augment is not None and is_cached:
        raise ValueError(
            "augment must be None with a cache, got both: "
            "a cached picture cannot be another one in every epoch. Leave one out."
        )
    if patience is not None and not has_validation:
        raise ValueError(
            f"patience must be None without validation data, got {patience!r}. Pass validation=."
        )
    if patience is not None and not has_metric:
        raise ValueError(
            "patience must be None where metric_for_best_model is None: "
            "there is no best epoch to wait for."
        )


def _validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Returns accuracy and AUROC of a validation; AUROC is left out if only one class occurs."""
    logits = np.asarray(prediction.predictions, dtype=np.float32)
    labels = np.asarray(prediction.label_ids)
    area = auroc(logits, labels)
    # The Trainer would write NaN into trainer_state.json, which is not valid JSON.
    return {"accuracy": accuracy(logits, labels)} | ({} if np.isnan(area) else {"auroc": area})
