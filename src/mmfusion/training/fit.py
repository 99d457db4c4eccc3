"""Training: the warm start, the Hugging Face Trainer, and the choice of the best epoch.

The Trainer supplies the loop, distribution and progress bar. This module adds the warm start, the
cache of frozen towers, the best weights in memory, the temperature, and resumption from the last
complete checkpoint, which `resume.py` chooses.
"""

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import datasets
import numpy as np
import torch
from torch.utils.data import ConcatDataset
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

from ..data.collate import Augment, Augmented
from ..data.labels import label_array
from ..data.samples import Samples
from ..metrics.functional import accuracy, auroc
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from ..model.quiet import without_bars_of_files
from ..model.validation import described_writes
from .balance import settle_weights
from .binding import bind, told_options, training_facts
from .calibrate import fit_temperature
from .callbacks import BestInMemory, Clock, Digests, Epochs
from .card import model_card
from .checks import check_arguments, check_options
from .distill import Distillation
from .evaluate import predict
from .feature_cache import CachedDataset, table_of
from .label_space import adopt_names
from .progress import lines_of
from .recipe import is_solved_by_probes
from .resume import last_complete_checkpoint
from .rows import as_rows, rows_and_collator
from .trainer import GroupedTrainer
from .warm_start import WarmStart
from .warm_start import warm_start as start_warm

logger = logging.get_logger(__name__)

Rows: TypeAlias = Samples | CachedDataset


@final
@dataclass(frozen=True)
class FitResult:
    """The results of a training.

    Attributes:
        history: the log of the Trainer, one dict per entry (loss, eval_loss, eval_accuracy,
            learning_rate, epoch ...). After a warm start, the first entry is the validation of
            epoch 0.
        best_metric: the best validation value of `metric_for_best_model`, or None without
            validation or without a metric.
        epochs: the number of epochs that were trained; early stopping makes it smaller. 0 if the
            warm start left nothing to train.
        seconds_per_epoch: the mean time of the training steps of an epoch, without validation. Only
            the epochs of this run count, not those before a resumption. 0 if the warm start left
            nothing to train.
        trained_parameters: the number of trainable parameters.
        folder: the folder where the model and the processor were saved.
        start_was_best: whether the weights of the warm start were kept, because no epoch had a
            better validation.
        start: the outcome of the warm start, or None without one.
    """

    history: list[dict[str, float]]
    best_metric: float | None
    epochs: float
    seconds_per_epoch: float
    trained_parameters: int
    folder: str
    start_was_best: bool
    start: WarmStart | None


def fit(
    model: FusionClassifier,
    processor: FusionProcessor,
    train: Rows,
    validation: Rows | None = None,
    *,
    arguments: TrainingArguments,
    augment: Augment | None = None,
    cache: str | os.PathLike[str] | None = None,
    patience: int | None = None,
    callbacks: list[TrainerCallback] | None = None,
    warm_start: bool = True,
    refit: bool = False,
    calibrate: bool = True,
    teachers: Mapping[str, FusionClassifier] | None = None,
    distillation: float = 1.0,
    overwrite: bool = False,
) -> FitResult:
    """Trains the model in place, and saves it with its processor in `arguments.output_dir`.

    Labels are matched with the model's classes by name. A model without names gets those of the
    training rows. Weights of the loss that are "balanced" (`FusionConfig`) are computed from the
    training rows, and the config then holds the numbers.

    The training begins with a warm start: each `Probe` of the model is solved to convergence on
    what the encoders give. Where the encoders are frozen and the classifier is linear in their
    pooled vectors, that is all, and no epoch is trained. Otherwise the Trainer goes on from there.
    The start counts as an epoch: if no epoch has a better validation, its weights are kept.

    If a run was stopped or killed, a second call with the same arguments resumes from the last
    complete checkpoint. It ends at the same weights as a run that was not stopped. Checkpoints are
    bound to the model, the data and the arguments that made them: another training in the same
    folder is refused. The model ends with the weights of the best epoch. With
    `load_best_model_at_end=False` it ends with those of the last step. With `save_strategy="no"`
    the best weights are kept in memory and nothing is written. With `metric_for_best_model=None`
    nothing is chosen on the validation data: they are only evaluated, and the model keeps the
    weights of the last epoch.

    Args:
        model: the classifier, with freshly drawn or pretrained weights.
        processor: its processor.
        train: rows with `image`, `text` and `label`, as `load_manifest` reads them; or a data
            frame, a list or another form that `as_dataset` takes; or the cached rows that
            `cache_features` returns.
        validation: rows to choose the best epoch on. None trains to the end and keeps the last
            weights.
        arguments: from `training_arguments`, or a `TrainingArguments` of your own. They are copied
            and stay unchanged.
        augment: `augment(picture, rng)` returns another picture; `rng` is seeded by (seed, epoch,
            index).
        cache: a folder for the outputs of frozen towers; see `cache_features`.
        patience: the number of validations in a row without a better metric after which the
            training stops. None: that of `arguments`, or never.
        callbacks: further callbacks for the Trainer.
        warm_start: whether the probes are solved first. Its choices are made by cross-validation
            inside the training rows.
        refit: whether the probes are solved again on training and validation rows together, if the
            start was best. Then nothing may be evaluated on the validation rows any more.
        calibrate: whether a temperature is fitted (`model.config.temperature`): on the validation
            rows, or, where the start is kept, on held-out answers of the warm start.
        teachers: "image", "text" or both -> a trained classifier of that modality alone, whose
            encoder the fused model's encoder is held close to (distillation;
            `mmfusion.training.distill`).
        distillation: the weight of the distance to the teachers in the loss.
        overwrite: whether checkpoints that are in the folder are deleted first.

    Raises:
        ValueError: if `augment` is given together with a cache, or `patience` is given without
            validation or without a metric, or a teacher does not suit the model; if labels are of
            classes that the model does not know; if the folder holds checkpoints of another
            training; or if an argument of the Trainer cannot be honoured.
    """
    train, validation = as_rows(train), as_rows(validation)
    check_options(arguments, augment, cache, patience, train, validation)
    has_validation, writes = validation is not None, arguments.save_strategy != "no"
    chooses = _chooses(arguments, has_validation)
    check_arguments(arguments, chooses=chooses)
    adopt_names(model, train)
    settle_weights(model, train)
    arguments = _planned(model, arguments, has_validation)
    rows, collate = rows_and_collator(model, processor, train, arguments, cache, augment)
    # Augmented validation rows would make the epochs hard to compare, so these stay unchanged.
    held_out, _ = rows_and_collator(model, processor, validation, arguments, cache)
    if writes:
        told = told_options(patience, warm_start, augment, teachers, distillation)
        facts = (model, processor, train, validation, arguments, told)
        bind(arguments, training_facts(*facts), overwrite=overwrite)
    # With checkpoints the Trainer itself loads the best epoch.
    clock, best = Clock(), BestInMemory(arguments, follows=chooses and not writes)
    # Another temperature would change the loss of the validations.
    model.config.temperature = 1.0
    own = [clock, best, Digests(), *(callbacks or [])]
    trainer = _trainer(model, arguments, rows, held_out, collate, own, patience)
    trainer.distillation = Distillation(model, teachers, distillation) if teachers else None
    plain = rows if augment is None else rows.dataset  # The warm start does not augment.
    start = _solve(model, [plain], collate, arguments) if warm_start else None
    history = _validate_start(trainer, model, best) if start and has_validation else []
    # One solution does not cover augmented pictures, which differ in every epoch.
    start_was_best = bool(start) and not augment and is_solved_by_probes(model)
    if start_was_best:
        logger.warning_once("The warm start solved this classifier, so no epoch is trained.")
    else:
        _train_or_resume(trainer, str(arguments.output_dir) if writes else None)
        history += trainer.state.log_history
        chooses = chooses and _was_validated(trainer)
        start_was_best = chooses and _choose(trainer, model, best, writes=writes) and bool(start)
    kept, rest = start if start_was_best else None, held_out if chooses else None
    if calibrate:
        model.config.temperature = _temperature(model, processor, kept, rest, arguments)
    if refit and start_was_best and chooses:
        start = _solve(model, [plain, held_out], collate, arguments)
    if writes:
        _save(trainer, model, processor, {"train": train, "validation": validation})
    return _result(trainer, model, history, best, clock, start, start_was_best)


def _result(
    trainer: Trainer,
    model: FusionClassifier,
    history: list[dict[str, float]],
    best: BestInMemory,
    clock: Clock,
    start: WarmStart | None,
    start_was_best: bool,
) -> FitResult:
    """Returns the results of a training that has ended."""
    epochs = float(trainer.state.epoch or 0)
    return FitResult(
        history=history,
        best_metric=best.value if best.value is not None else trainer.state.best_metric,
        epochs=epochs,
        seconds_per_epoch=clock.seconds_per_epoch if epochs else 0.0,
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        folder=str(trainer.args.output_dir),
        start_was_best=start_was_best,
        start=start,
    )


def _trainer(
    model: FusionClassifier,
    arguments: TrainingArguments,
    rows: Any,
    held_out: Any,
    collate: Any,
    callbacks: list[TrainerCallback],
    patience: int | None,
) -> GroupedTrainer:
    """Returns the Trainer of a training; a patience of None is that of the arguments."""
    if patience is None and held_out is not None and arguments.metric_for_best_model is not None:
        patience = getattr(arguments, "patience", None)
    if patience is not None:
        callbacks = [EarlyStoppingCallback(patience), *callbacks]
    if isinstance(rows, Augmented):
        # The augmentation of a row depends on the epoch, also after a resumption.
        callbacks = [Epochs(rows), *callbacks]
    trainer = GroupedTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=held_out,
        data_collator=collate,
        compute_metrics=_validation_metrics,
        callbacks=callbacks,
    )
    # `disable_tqdm` makes the Trainer print each log entry. Remove the callback that prints.
    trainer.remove_callback(PrinterCallback)
    return trainer


def _chooses(arguments: TrainingArguments, has_validation: bool) -> bool:
    """Returns whether the weights of the best validation are kept, by the caller's arguments.

    The Trainer loads a checkpoint only with `load_best_model_at_end`. Without checkpoints, that
    option cannot be set, and `fit` keeps the best weights in memory.
    """
    validates = has_validation and arguments.eval_strategy != "no"
    loads = arguments.load_best_model_at_end or arguments.save_strategy == "no"
    return validates and loads and arguments.metric_for_best_model is not None


def _planned(
    model: FusionClassifier, arguments: TrainingArguments, has_validation: bool
) -> TrainingArguments:
    """Returns a copy of the caller's arguments with what `fit` and the Trainer need."""
    arguments = copy.copy(arguments)
    if not has_validation:
        # The Trainer refuses a planned validation without validation data.
        arguments.eval_strategy = IntervalStrategy.NO
        arguments.load_best_model_at_end = False
    # The Trainer would compute a smoothed loss of its own, without class weights and without the
    # losses of single modalities. The model smooths instead.
    if arguments.label_smoothing_factor:
        model.config.label_smoothing = arguments.label_smoothing_factor
    arguments.label_smoothing_factor = 0.0
    # The collator needs `image` and `text`, and a resumed training needs the patience that is left.
    arguments.remove_unused_columns = False
    arguments.restore_callback_states_from_checkpoint = True
    return arguments


def _was_validated(trainer: Trainer) -> bool:
    """Returns whether a validation took place in the training; warns if none did."""
    if any("eval_loss" in entry for entry in trainer.state.log_history):
        return True
    logger.warning("No validation took place, so the weights of the last step are kept.")
    return False


def _validate_start(
    trainer: Trainer, model: FusionClassifier, best: BestInMemory
) -> list[dict[str, float]]:
    """Validates the weights of the warm start and keeps them; returns the log entry."""
    with lines_of(trainer):
        trainer.evaluate()
    # While it validates, Accelerate marks the unwrapped model as prepared. With this mark, the
    # training on several processes would not wrap it in DDP.
    model.__dict__.pop("_is_accelerate_prepared", None)
    history = list(trainer.state.log_history)
    best.take(model, history[-1])
    return history


def _solve(
    model: FusionClassifier, parts: list[Rows], collate: Any, arguments: TrainingArguments
) -> WarmStart:
    """Solves the probes of the model on all rows of the parts."""
    return start_warm(
        model,
        ConcatDataset(parts),
        collate,
        datasets.concatenate_datasets([table_of(part) for part in parts]),
        batch_size=arguments.per_device_eval_batch_size,
        seed=arguments.seed,
    )


def _choose(trainer: Trainer, model: FusionClassifier, best: BestInMemory, *, writes: bool) -> bool:
    """Loads the best weights into the model; returns whether the first validation was the best."""
    if not writes:
        best.restore(model)
        return best.is_first
    # The Trainer has loaded its best checkpoint. The start was never a checkpoint.
    found = trainer.state.best_metric
    if best.value is None or (found is not None and best.is_beaten_by(found)):
        best.value = found
        return False
    best.restore(model)
    return True


def _temperature(
    model: FusionClassifier,
    processor: FusionProcessor,
    start: WarmStart | None,
    held_out: Rows | None,
    arguments: TrainingArguments,
) -> float:
    """Returns the temperature of a trained model; 1 if there are no rows to fit it on.

    Args:
        model: the classifier.
        processor: its processor.
        start: the warm start, if its weights were kept. It answered more rows than a validation
            part has.
        held_out: rows that the model was not trained on, or None.
        arguments: of the training.
    """
    if start is not None and start.logits is not None:
        return fit_temperature(start.logits, start.labels)
    if held_out is None:
        return 1.0
    logits = torch.from_numpy(predict(model, processor, held_out, arguments=arguments))
    return fit_temperature(logits, torch.from_numpy(label_array(table_of(held_out))))


def _train_or_resume(trainer: Trainer, folder: str | None) -> None:
    """Trains from the last complete checkpoint in `folder`, or from the start if there is none."""
    # The Trainer can choose a checkpoint itself, but it would also choose an incomplete one.
    checkpoint = None if folder is None else last_complete_checkpoint(folder)
    if checkpoint is not None:
        logger.warning(f"Going on from {checkpoint}.")
    quiet = without_bars_of_files()
    with described_writes(trainer.args.output_dir), quiet, lines_of(trainer):
        trainer.train(resume_from_checkpoint=checkpoint)


def _save(trainer: Trainer, model: FusionClassifier, processor: FusionProcessor, rows: Any) -> None:
    """Writes the model, its card and its processor into the output folder."""
    folder = str(trainer.args.output_dir)
    # On several processes only one writes, because all of them hold the same weights.
    if trainer.is_world_process_zero():
        model.card = model_card(model, parts=rows)
        with without_bars_of_files():
            model.save_pretrained(folder)
        processor.save_pretrained(folder)
    # No process may read the folder before the main process has written it.
    trainer.accelerator.wait_for_everyone()


def _validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Returns accuracy and AUROC of a validation; AUROC is left out if only one class occurs."""
    logits = np.asarray(prediction.predictions, dtype=np.float32)
    labels = np.asarray(prediction.label_ids)
    area = auroc(logits, labels)
    # The Trainer would write NaN into trainer_state.json, which is not valid JSON.
    return {"accuracy": accuracy(logits, labels)} | ({} if np.isnan(area) else {"auroc": area})
