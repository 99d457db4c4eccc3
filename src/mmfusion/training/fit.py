"""Fit and evaluate on the Hugging Face Trainer: engine, progress bar, distribution and resume are its.

What is here is what it lacks: caching of frozen towers, and evaluation with intervals. `checkpoints.py` chooses the checkpoint to
resume from.
"""

import copy
import difflib
import inspect
import os
import tempfile
import time
from dataclasses import asdict, dataclass, field
from typing import Any, final

import datasets
import numpy as np
import torch
from transformers import EarlyStoppingCallback, EvalPrediction, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from ..data.collate import Augment, Augmented, FusionCollator
from ..metrics.bootstrap import Interval, evaluate_predictions
from ..metrics.functional import accuracy, auroc
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from .feature_cache import CachedCollator, CachedDataset, cache_features
from .resume import last_complete_checkpoint

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class FitResult:
    """What a training came to.

    Attributes:
        history: what the Trainer logged, one dict per entry (loss, eval_loss, eval_accuracy, learning_rate, epoch ...).
        best_metric: the best validation value of `metric_for_best_model`, or None without validation or without a metric.
        epochs: how many epochs were trained (early stopping counted in).
        seconds_per_epoch: the mean time of an epoch's training steps, validation left out, of this run alone.
        trained_parameters: how many parameters train.
        folder: where the model and the processor were saved.
    """

    history: list[dict[str, float]]
    best_metric: float | None
    epochs: float
    seconds_per_epoch: float
    trained_parameters: int
    folder: str


@dataclass(frozen=True)
class Evaluation:
    """What a model came to on a dataset.

    Attributes:
        metrics: name -> Interval(estimate, low, high): accuracy, balanced_accuracy, auroc, cross_entropy, ece.
        logits: [B, C] float32.
        labels: [B] or [B, C].
        groups: the group (patient) of each sample, over which the intervals were resampled; None where each is its own.
    """

    metrics: dict[str, Interval]
    logits: np.ndarray[Any, Any] = field(repr=False)
    labels: np.ndarray[Any, Any] = field(repr=False)
    groups: list[str] | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The metrics as JSON."""
        return {name: asdict(interval) for name, interval in self.metrics.items()}


def training_arguments(output_dir: str | os.PathLike[str], **options: Any) -> TrainingArguments:
    """The `TrainingArguments` of transformers, with defaults that suit this library.

    Validation and a checkpoint after every epoch, the best one kept by validation loss, two checkpoints on disk, no reports to
    other services, and what bit-exact resumption needs.

    Args:
        output_dir: where checkpoints and the model go.
        **options: any option of `TrainingArguments` (`num_train_epochs`, `per_device_train_batch_size`, `learning_rate`,
            `bf16`, `seed` ...).

    Raises:
        ValueError: for an option that `TrainingArguments` does not have (the closest one is named).

    Example:
        >>> training_arguments("out", num_train_epochs=3).metric_for_best_model
        'loss'
        >>> training_arguments("out", num_epochs=3)
        Traceback (most recent call last):
            ...
        ValueError: TrainingArguments has no option 'num_epochs'. Did you mean 'num_train_epochs'?
    """
    known = list(inspect.signature(TrainingArguments.__init__).parameters)
    for name in options:
        if name not in known:
            match = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"TrainingArguments has no option {name!r}.{f' Did you mean {match[0]!r}?' if match else ''}")
    defaults: dict[str, Any] = {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_total_limit": 2,
        "metric_for_best_model": "loss",
        "greater_is_better": None,
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 64,
        "report_to": "none",
        # A batch whose images are all missing on one process uses no image tower there.
        "ddp_find_unused_parameters": True,
        # The columns are pictures and texts; the collator makes the model's inputs of them.
        "remove_unused_columns": False,
        "restore_callback_states_from_checkpoint": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": not torch.cuda.is_available() and not torch.backends.mps.is_available(),
    }
    # The order of the samples follows the seed alone, not what drew random numbers before, on however many processes.
    defaults["data_seed"] = options.get("seed", 42)
    # What is not written cannot be loaded again: `fit` keeps the best epoch in memory then.
    defaults["load_best_model_at_end"] = "no" not in (options.get("save_strategy"), options.get("eval_strategy"))
    defaults["load_best_model_at_end"] &= options.get("metric_for_best_model", "loss") is not None
    merged = defaults | options
    if "metric_for_best_model" in options and "greater_is_better" not in options:
        merged["greater_is_better"] = not str(options["metric_for_best_model"]).endswith("loss")
    return TrainingArguments(output_dir=os.fspath(output_dir), **merged)


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

    A run that was stopped, however rudely, goes on from its last complete checkpoint when it is called again with the same
    arguments, and ends at the same weights as one that was not stopped. The model ends with the weights of the best epoch; with
    `save_strategy="no"` these are kept in memory, and nothing is written. With `metric_for_best_model=None` no epoch is chosen:
    the validation data are only watched, and the last weights stay.

    Args:
        model: the classifier, with freshly drawn or pretrained weights.
        processor: its processor.
        train: rows with `image`, `text`, `label`, as `load_manifest` reads them, or what `cache_features` made of them.
        validation: rows to choose the best epoch on; None trains to the end and keeps the last weights.
        arguments: from `training_arguments`, or a `TrainingArguments` of your own.
        augment: `augment(picture, rng)` returns another picture; seeded by (seed, epoch, index).
        cache: a folder for what frozen towers compute; see `cache_features`.
        patience: stop when the metric has not got better for so many validations; None never stops early.
        callbacks: more of the Trainer's callbacks.

    Raises:
        ValueError: when `augment` and `cache` are both given, or `patience` is without validation or without a metric.
    """
    folder = str(arguments.output_dir)
    if augment is not None and (cache is not None or isinstance(train, CachedDataset)):
        raise ValueError(
            "augment must be None with a cache, got both: a cached picture cannot be another one in every epoch. Leave one out."
        )
    if patience is not None and validation is None:
        raise ValueError(f"patience must be None without validation data, got {patience!r}. Pass validation=.")
    writes = arguments.save_strategy != "no"
    if validation is None:
        arguments.eval_strategy = IntervalStrategy.NO
    chooses = arguments.metric_for_best_model is not None
    if patience is not None and not chooses:
        raise ValueError("patience must be None where metric_for_best_model is None: there is no best epoch to wait for.")
    arguments.load_best_model_at_end = writes and chooses and validation is not None
    rows, collate = _rows_and_collator(model, processor, train, arguments, cache, augment)
    held_out = None if validation is None else _rows_and_collator(model, processor, validation, arguments, cache)[0]
    clock, best = _Clock(), _BestInMemory(arguments)
    extra: list[TrainerCallback] = [clock] if writes or not chooses or validation is None else [clock, best]
    if patience is not None:
        extra.append(EarlyStoppingCallback(early_stopping_patience=patience))
    if augment is not None:
        extra.append(_Epochs(rows))
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
            return predict(model, processor, dataset, arguments=training_arguments(folder), cache=cache)
    if isinstance(dataset, datasets.Dataset) and "label" in dataset.column_names:
        dataset = dataset.remove_columns("label")
    rows, collate = _rows_and_collator(model, processor, dataset, arguments, cache)
    # What a training may drop, the last and smaller batch, a prediction may not.
    arguments = copy.copy(arguments)
    arguments.dataloader_drop_last = False
    # The Trainer asks for validation data wherever its arguments plan a validation, also when it is to predict alone.
    trainer = Trainer(model=model, args=arguments, data_collator=collate, eval_dataset=rows)
    logits = trainer.predict(rows).predictions
    # Accelerate marks the bare model as prepared when it predicts; a later fit on several processes would then not wrap it, and
    # every process would train weights of its own.
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
        group: the column that holds the patient; a dataset without it resamples single rows. None: the same.
        resamples: bootstrap resamples, at least 1.
        seed: of the bootstrap.

    Raises:
        ValueError: when the dataset has no labels.
    """
    if "label" not in dataset.column_names:
        raise ValueError(f"dataset must have a column 'label', got {dataset.column_names}. Use predict for unlabelled data.")
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
    groups = [str(g) for g in table[group]] if group is not None and group in table.column_names else None
    metrics = evaluate_predictions(logits, labels, groups=groups, resamples=resamples, seed=seed)
    return Evaluation(metrics, logits, labels, groups)


def _rows_and_collator(
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
    # A classifier of one modality learns from the same rows as one of both: what it has no tower for is left aside.
    unused = [name for name in ("image", "text") if name in dataset.column_names and name not in model.modalities]
    dataset = dataset.remove_columns(unused)
    if cache is not None:
        # One process encodes, the others find it done.
        with arguments.main_process_first(desc="cache"):
            if model.device != arguments.device:
                torch.nn.Module.to(model, arguments.device)
            return cache_features(model, processor, dataset, cache)
    rows = Augmented(dataset, seed=arguments.seed) if augment is not None else dataset
    return rows, FusionCollator(processor, augment=augment)


@final
class _BestInMemory(TrainerCallback):
    """Keeps what trained, as it was at the best validation, where no checkpoints are written."""

    def __init__(self, arguments: TrainingArguments) -> None:
        name = str(arguments.metric_for_best_model)
        self._metric = name if name.startswith("eval_") else f"eval_{name}"
        self._sign = 1 if arguments.greater_is_better else -1
        self._weights: dict[str, torch.Tensor] = {}
        self.value: float | None = None

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Keep the weights if the metric is better than ever."""
        model, value = given["model"], given["metrics"].get(self._metric)
        if value is not None and (self.value is None or self._sign * value > self._sign * self.value):
            self.value = value
            frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
            self._weights = {k: v.detach().clone() for k, v in model.state_dict().items() if k not in frozen}

    def restore(self, model: torch.nn.Module) -> None:
        """Put the best weights back."""
        if self._weights:
            model.load_state_dict(self._weights, strict=False)


@final
class _Clock(TrainerCallback):
    """Times the epochs without their validation and checkpoints."""

    def __init__(self) -> None:
        self._started = 0.0
        self._seconds: list[float] = []

    @property
    def seconds_per_epoch(self) -> float:
        """The mean, or NaN where no epoch was trained."""
        return float(np.mean(self._seconds)) if self._seconds else float("nan")

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Stop it, before validation begins."""
        self._seconds.append(time.perf_counter() - self._started)


@final
class _Epochs(TrainerCallback):
    """Tells the augmented rows the epoch.

    Accelerate does so too, but not in an epoch that is resumed in its middle, whose batch sampler it wraps.
    """

    def __init__(self, rows: Augmented) -> None:
        self._rows = rows

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell the epoch that begins, or goes on."""
        self._rows.set_epoch(int((state.epoch or 0) + 1e-6))


def _validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy and AUROC of a validation pass; AUROC is left out where one class alone occurs."""
    logits, labels = np.asarray(prediction.predictions, dtype=np.float32), np.asarray(prediction.label_ids)
    area = auroc(logits, labels)
    return {"accuracy": accuracy(logits, labels)} | ({} if np.isnan(area) else {"auroc": area})
