"""The arguments of the Trainer, with defaults that suit this library."""

import inspect
import os
from typing import Any

import torch
from transformers import TrainingArguments

from ..model.validation import did_you_mean


def training_arguments(output_dir: str | os.PathLike[str], **options: Any) -> TrainingArguments:
    """The `TrainingArguments` of transformers, with defaults that suit this library.

    Validation and a checkpoint after every epoch, the best one kept by validation loss, two
    checkpoints on disk, no reports to other services, and what bit-exact resumption needs.

    Args:
        output_dir: where checkpoints and the model go.
        **options: any option of `TrainingArguments` (`num_train_epochs`,
            `per_device_train_batch_size`, `learning_rate`, `bf16`, `seed` ...).

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
            raise ValueError(
                f"TrainingArguments has no option {name!r}.{did_you_mean(name, known)}"
            )
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
    # The order of the samples follows the seed alone, not what drew random numbers before, on
    # however many processes.
    defaults["data_seed"] = options.get("seed", 42)
    # What is not written cannot be loaded again: `fit` keeps the best epoch in memory then.
    defaults["load_best_model_at_end"] = "no" not in (
        options.get("save_strategy"),
        options.get("eval_strategy"),
    )
    defaults["load_best_model_at_end"] &= options.get("metric_for_best_model", "loss") is not None
    merged = defaults | options
    if "metric_for_best_model" in options and "greater_is_better" not in options:
        merged["greater_is_better"] = not str(options["metric_for_best_model"]).endswith("loss")
    return TrainingArguments(output_dir=os.fspath(output_dir), **merged)
