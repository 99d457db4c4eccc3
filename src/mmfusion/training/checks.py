"""The checks of what `fit` and `predict` get, so that no option is ignored without a word."""

from typing import Any

from transformers import TrainingArguments

from ..model.validation import check_choice
from .feature_cache import CachedDataset

METRICS = ("loss", "accuracy", "auroc")
"""The metrics of a validation, one of which `metric_for_best_model` may name."""

_REFUSED: dict[str, tuple[Any, str]] = {
    "prediction_loss_only": (False, "The metrics need the logits."),
    "batch_eval_metrics": (False, "The metrics are those of all rows."),
    "eval_do_concat_batches": (True, "The metrics are those of all rows."),
    "bf16_full_eval": (False, "It would convert the weights for good. Use bf16=True."),
    "fp16_full_eval": (False, "It would convert the weights for good. Use fp16=True."),
    "neftune_noise_alpha": (None, "The classifier has no one input embedding."),
    "resume_from_checkpoint": (None, "A call with the same arguments resumes by itself."),
}
"""Argument of the Trainer -> the only value that is allowed, and the reason."""


def check_arguments(arguments: TrainingArguments, *, chooses: bool = False) -> None:
    """Refuses arguments of the Trainer that would change the loss or the metrics unnoticed.

    Args:
        arguments: of the caller.
        chooses: whether the best epoch is chosen by `metric_for_best_model`.

    Raises:
        ValueError: naming the argument.
    """
    for name, (allowed, reason) in _REFUSED.items():
        value = getattr(arguments, name, allowed)
        if value != allowed:
            raise ValueError(f"{name} must be {allowed!r}, got {value!r}. {reason}")
    if arguments.label_names not in (None, ["labels"]):
        raise ValueError(
            f"label_names must be None, got {arguments.label_names!r}. The collator calls the "
            "labels 'labels'."
        )
    strategy = getattr(arguments, "train_sampling_strategy", "random")
    if strategy not in ("random", "sequential"):
        raise ValueError(
            f"train_sampling_strategy must be 'random' or 'sequential', got {strategy!r}. Texts "
            "are tokenized in the batch, so their lengths are not known before."
        )
    if chooses:
        name = str(arguments.metric_for_best_model).removeprefix("eval_")
        check_choice("metric_for_best_model", name, METRICS)


def check_options(
    arguments: TrainingArguments, augment: Any, cache: Any, patience: Any, train: Any, held_out: Any
) -> None:
    """Refuses options of `fit` that exclude each other.

    Args:
        arguments: of the caller.
        augment: as for `fit`.
        cache: as for `fit`.
        patience: as for `fit`.
        train: the rows of the training.
        held_out: the rows of the validation, or None.

    Raises:
        ValueError: naming the option.
    """
    if augment is not None and (cache is not None or isinstance(train, CachedDataset)):
        raise ValueError(
            "augment must be None with a cache, got both: "
            "a cached picture cannot be another one in every epoch. Leave one out."
        )
    if patience is not None and held_out is None:
        raise ValueError(
            f"patience must be None without validation data, got {patience!r}. Pass validation=."
        )
    if patience is not None and arguments.metric_for_best_model is None:
        raise ValueError(
            "patience must be None where metric_for_best_model is None: "
            "there is no best epoch to wait for."
        )
