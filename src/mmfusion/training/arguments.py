"""The arguments of the Trainer, with defaults that suit this library."""

import inspect
import os
from typing import Any

import torch

from ..model.modeling import FusionClassifier
from ..model.validation import did_you_mean
from .recipe import RECIPES, FusionArguments, what_trains


def training_arguments(
    output_dir: str | os.PathLike[str],
    model: FusionClassifier | None = None,
    **options: Any,
) -> FusionArguments:
    """Returns the `TrainingArguments` of transformers with defaults that suit this library.

    Learning rates, weight decay, epochs and patience come from the recipe for what trains
    (`RECIPES`). The rate rises in the first tenth of the steps and then falls like a cosine.

    By default the Trainer validates and writes a checkpoint after every epoch. It keeps at most two
    checkpoints on disk and loads the one with the lowest validation loss at the end. It reports to
    no other service. The options that bit-exact resumption needs are set.

    Args:
        output_dir: the folder for the checkpoints and the model.
        model: the classifier, which tells what trains. None: all of the encoders.
        **options: any option of `TrainingArguments` (`num_train_epochs`,
            `per_device_train_batch_size`, `learning_rate`, `bf16`, `seed` ...), and
            `pretrained_learning_rate` and `patience` (`FusionArguments`). A `learning_rate` alone
            is that of all parameters.

    Raises:
        ValueError: if `TrainingArguments` has no such option. The message names the closest one.

    Example:
        >>> training_arguments("out", num_train_epochs=3).metric_for_best_model
        'loss'
        >>> training_arguments("out", num_epochs=3)
        Traceback (most recent call last):
            ...
        ValueError: TrainingArguments has no option 'num_epochs'. Did you mean 'num_train_epochs'?
    """
    option_names = list(inspect.signature(FusionArguments.__init__).parameters)
    for name in options:
        if name not in option_names:
            raise ValueError(
                f"TrainingArguments has no option {name!r}.{did_you_mean(name, option_names)}"
            )
    recipe = RECIPES["all" if model is None else what_trains(model)]
    defaults: dict[str, Any] = {
        "learning_rate": recipe.learning_rate,
        "pretrained_learning_rate": recipe.pretrained_learning_rate,
        "weight_decay": recipe.weight_decay,
        "num_train_epochs": recipe.epochs,
        "patience": recipe.patience,
        "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_total_limit": 2,
        "metric_for_best_model": "loss",
        "greater_is_better": None,
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 64,
        "report_to": "none",
        # By default, transformers decides this by the level of its own messages.
        "disable_tqdm": False,
        # If all images of a batch are missing on one process, that process does not run the image
        # tower. DDP must then find out which parameters got no gradient.
        "ddp_find_unused_parameters": True,
        # The Trainer would remove `image` and `text`, because the model's forward has no arguments
        # of these names. The collator needs both columns to make the model's inputs.
        "remove_unused_columns": False,
        "restore_callback_states_from_checkpoint": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": not torch.cuda.is_available() and not torch.backends.mps.is_available(),
    }
    # The order of the samples then depends on no earlier draws and on no number of processes.
    defaults["data_seed"] = options.get("seed", 42)
    # The Trainer can only load the best checkpoint if checkpoints are written and evaluated.
    # Without checkpoints, `fit` keeps the weights of the best epoch in memory.
    defaults["load_best_model_at_end"] = "no" not in (
        options.get("save_strategy"),
        options.get("eval_strategy"),
    )
    defaults["load_best_model_at_end"] &= options.get("metric_for_best_model", "loss") is not None
    if "learning_rate" in options:
        del defaults["pretrained_learning_rate"]
    if options.get("eval_strategy") == "no" or options.get("metric_for_best_model", "") is None:
        # Without validations there is nothing to be patient about.
        defaults["patience"] = None
    merged = defaults | options
    # The direction of the caller's metric follows from its name: a loss is better when lower.
    if "metric_for_best_model" in options and "greater_is_better" not in options:
        merged["greater_is_better"] = not str(options["metric_for_best_model"]).endswith("loss")
    return FusionArguments(output_dir=os.fspath(output_dir), **merged)
