"""The file that binds the checkpoints in a folder to the training that made them.

A checkpoint may only be continued by the training that wrote it. Another one, such as the next fold
of a cross-validation in the same folder, would go on with weights that have seen its test rows.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ..data.collate import Augment
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from .digests import add_tensors, rows_digest
from .feature_cache import table_of
from .feature_store import preprocessing
from .resume import checkpoints_in, last_complete_checkpoint
from .stored import write_json

BINDING_FILE = "training.json"
"""The name of the file, which lies beside the checkpoints."""

_NEUTRAL = frozenset(
    {
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
        "debug",
        "disable_tqdm",
        "enable_jit_checkpoint",
        "eval_accumulation_steps",
        "eval_use_gather_object",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "include_num_input_tokens_seen",
        "local_rank",
        "output_dir",
        "per_device_eval_batch_size",
        "project",
        "push_to_hub",
        "remove_unused_columns",
        "report_to",
        "resume_from_checkpoint",
        "run_name",
        "save_on_each_node",
        "save_total_limit",
        "skip_memory_metrics",
        "torch_empty_cache_steps",
        "use_cpu",
    }
)
_NEUTRAL_PREFIXES = ("dataloader_", "ddp_", "do_", "hub_", "log", "torch_compile", "trackio_")
"""Arguments of the Trainer that change where, how fast or how loudly it trains, but not what."""
_COUNTED = ("dataloader_drop_last",)
_SHOWN = 5


def training_facts(
    model: FusionClassifier,
    processor: FusionProcessor,
    train: Any,
    validation: Any,
    arguments: TrainingArguments,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns all that decides the weights at the end of a training, as JSON can hold it.

    Args:
        model: the classifier before its training.
        processor: its processor.
        train: the rows of the training, cached or not.
        validation: the rows of the validation, or None.
        arguments: of the Trainer.
        options: further options of `fit`, as JSON can hold them.
    """
    config = {
        key: value
        for key, value in model.config.to_dict().items()
        # `fit` sets the temperature, and transformers writes its own version.
        if key not in ("temperature", "transformers_version", "architectures", "_name_or_path")
    }
    data = {"train": train} if validation is None else {"train": train, "validation": validation}
    told = {
        "model": config,
        "encoder weights": _encoders_digest(model),
        "processor": {name: preprocessing(processor, name) for name in model.modalities},
        "data": {
            name: f"{len(rows)} rows ({rows_digest(table_of(rows))[:16]})"
            for name, rows in data.items()
        },
        "arguments": _arguments(arguments),
        "options": dict(options),
    }
    facts: dict[str, Any] = json.loads(json.dumps(told, default=str))
    return facts


def told_options(
    patience: int | None,
    warm_start: bool,
    augment: Augment | None,
    teachers: Mapping[str, FusionClassifier] | None,
    distillation: float,
) -> dict[str, Any]:
    """Returns the options of `fit` that decide the weights, as JSON can hold them.

    Args:
        patience: as for `fit`.
        warm_start: as for `fit`.
        augment: as for `fit`; its name counts.
        teachers: as for `fit`; the names of the modalities count.
        distillation: as for `fit`.
    """
    return {
        "patience": patience,
        "warm_start": warm_start,
        "augment": augment_name(augment),
        "teachers": {name: distillation for name in sorted(teachers or {})},
    }


def augment_name(augment: Augment | None) -> str | None:
    """Returns the name by which a stored training knows its augmentation.

    Args:
        augment: as for `fit`.

    Example:
        >>> from mmfusion import Augmentation
        >>> augment_name(Augmentation("xray"))
        "Augmentation('xray')"
    """
    if augment is None:
        return None
    return str(getattr(augment, "__qualname__", type(augment).__qualname__))


def bind(arguments: TrainingArguments, facts: Mapping[str, Any], *, overwrite: bool) -> None:
    """Binds the checkpoints in the `output_dir` to a training, or refuses the training.

    Args:
        arguments: of the Trainer; its `output_dir` need not exist.
        facts: of the training, as `training_facts` returns them.
        overwrite: whether checkpoints that are there are deleted, so that the training begins anew.

    Raises:
        ValueError: if the folder holds a checkpoint that another training made. The message says
            what differs.
    """
    # One process writes, and the others read what it wrote.
    with arguments.main_process_first(local=False, desc="binding of the checkpoints"):
        folder = Path(str(arguments.output_dir))
        if overwrite:
            for checkpoint in checkpoints_in(folder).values():
                shutil.rmtree(checkpoint, ignore_errors=not _is_main(arguments))
        elif last_complete_checkpoint(folder) is not None:
            _refuse_another(folder, facts)
        if _is_main(arguments):
            write_json(folder / BINDING_FILE, facts)


def _is_main(arguments: TrainingArguments) -> bool:
    """Returns whether this is the process that writes."""
    return bool(arguments.process_index == 0)


def _refuse_another(folder: Path, facts: Mapping[str, Any]) -> None:
    """Raises the ValueError that says how a training differs from that of the checkpoints."""
    differences = _differences(folder / BINDING_FILE, facts)
    if differences:
        more = len(differences) - _SHOWN
        told = "; ".join(differences[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise ValueError(
            f"output_dir must hold no checkpoint of another training, got {str(folder)!r}: "
            f"{told}. Choose another folder, or pass overwrite=True, which deletes its "
            "checkpoints."
        )


def _differences(path: Path, facts: Mapping[str, Any]) -> list[str]:
    """Returns what differs between the training that a file describes and another one."""
    try:
        stored = dict(_flat(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError):
        return [f"{BINDING_FILE}, which says what made its checkpoints, is absent or damaged"]
    own = dict(_flat(facts))
    return [
        f"{name} was {stored.get(name)!r:.60} and is {own.get(name)!r:.60}"
        for name in dict.fromkeys([*own, *stored])
        if stored.get(name) != own.get(name)
    ]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the entries of nested mappings, each with its path of keys."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _arguments(arguments: TrainingArguments) -> dict[str, Any]:
    """Returns the arguments that decide the weights, and how many samples a step has."""
    told = {
        key: value
        for key, value in arguments.to_dict().items()
        if key in _COUNTED or not (key in _NEUTRAL or key.startswith(_NEUTRAL_PREFIXES))
    }
    return told | {
        "processes": arguments.world_size,
        "train_batch_size": arguments.train_batch_size,
    }


def _encoders_digest(model: FusionClassifier) -> str:
    """Returns a digest of the weights with which the encoders begin."""
    digest = hashlib.sha256()
    for name in model.modalities:
        add_tensors(digest, getattr(model, f"{name}_encoder").state_dict().items())
    return digest.hexdigest()[:16]
