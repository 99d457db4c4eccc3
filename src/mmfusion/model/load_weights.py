"""Weights from a file into a backbone, strictly: every key finds its place, or the error lists those that do not."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.utils import logging

logger = logging.get_logger(__name__)

_HEADS = (
    "head",
    "heads",
    "head_dist",
    "fc",
    "classifier",
    "pooler",
    "cls",
    "lm_head",
    "pre_logits",
    "qa_outputs",
    "score",
    "vocab_layer_norm",
    "vocab_projector",
    "vocab_transform",
    "decoder",
    "fc_norm",
    "conv_head",
    "norm_head",
)
"""First parts of the names under which checkpoints keep heads and poolers that a backbone here does without."""

_WRAPPERS = (
    "module.",
    "model.",
    "backbone.",
    "bert.",
    "roberta.",
    "distilbert.",
    "mpnet.",
    "vit.",
    "deit.",
    "base_model.model.",
)


def read_weights(weights: str | os.PathLike[str] | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, of a state dict read with weights_only=True, or of a mapping.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file holds something else than tensors (a pickled object, say) or is
            damaged.
    """
    if isinstance(weights, Mapping):
        return dict(weights)
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"weights must be a file of tensors, got {str(path)!r}, which does not exist. Check the path."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"weights must be an undamaged file of tensors, got {str(path)!r}. Fetch it again."
        ) from error
    except Exception as error:  # torch raises pickle.UnpicklingError, and older ones others, for anything that is not a tensor
        raise ValueError(
            f"weights must be tensors alone, got {str(path)!r}, a pickle of other objects, which could run code when read. "
            "Save its state_dict as safetensors."
        ) from error
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise ValueError(
            f"weights must be a state dict, got {type(state).__name__} in {str(path)!r}. Save module.state_dict()."
        )
    return dict(state)


def load_weights(module: nn.Module, weights: str | os.PathLike[str] | Mapping[str, Tensor]) -> None:
    """Copy `weights` into `module`; heads and poolers that are left over are dropped and listed in the log.

    Raises:
        ValueError: listing the keys that are missing, mis-shaped or left over.
    """
    state = _unwrapped(read_weights(weights), set(module.state_dict()))
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    shapes = sorted(
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if state[key].shape != own[key].shape
    )
    left = sorted(state.keys() - own.keys())
    heads = [key for key in left if key.split(".")[0] in _HEADS]
    source = f" {os.fspath(weights)!r}" if not isinstance(weights, Mapping) else ""
    raise_unless_complete(
        missing, [key for key in left if key not in heads], shapes, what=f"weights{source}"
    )
    if heads:
        logger.info(f"Left out of {type(module).__name__}: {', '.join(heads)}.")
    module.load_state_dict({key: state[key] for key in own})


def raise_unless_complete(
    missing: list[str], left_over: list[str], shapes: list[str], *, what: str
) -> None:
    """Nothing, or an error that lists what did not fit.

    Raises:
        ValueError: when one of the lists is not empty.
    """
    faults = [
        f"{label}: {', '.join(keys[:10])}{f' and {len(keys) - 10} more' if len(keys) > 10 else ''}"
        for label, keys in (("missing", missing), ("left over", left_over), ("mis-shaped", shapes))
        if keys
    ]
    if faults:
        raise ValueError(
            f"{what} must fit the model key by key, got {'; '.join(faults)}. Is it a checkpoint of this model?"
        )


def load_strictly(
    load: Callable[..., Any],
    *,
    what: str,
    known_heads: bool = False,
    forgives_shapes: bool = False,
    prefix: str | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Returns a model that transformers loads, and its report, after a strict reading of that report.

    Args:
        load: calls `from_pretrained` with the keywords that it is called with.
        what: the checkpoint, for the error.
        known_heads: whether heads that are left over may be dropped.
        forgives_shapes: whether keys of another shape are let through.
        prefix: left-over keys that begin otherwise belong to another tower.

    Raises:
        ValueError: listing the keys that do not fit, or for damaged weights.
    """
    try:
        # Mis-shaped keys are let through here so that they come back as a list, and are refused
        # below.
        model, info = load(output_loading_info=True, ignore_mismatched_sizes=True)
    except SafetensorError as error:
        raise ValueError(
            f"{what} must hold undamaged weights, got {error}. Fetch it again."
        ) from error
    report = dict(info)
    if prefix is not None:
        left = report["unexpected_keys"]
        report["unexpected_keys"] = {key for key in left if key.startswith(prefix)}
    if forgives_shapes:
        report["mismatched_keys"] = []
    raise_for_loading_info(report, what=what, known_heads=known_heads)
    return model, info


def raise_for_loading_info(info: Mapping[str, Any], *, what: str, known_heads: bool) -> None:
    """The strict reading of what transformers' from_pretrained reports.

    Raises:
        ValueError: when keys are missing, left over (heads excepted where `known_heads`), or
            mis-shaped.
    """
    left = sorted(info["unexpected_keys"])
    heads = (
        [key for key in left if any(part in _HEADS for part in key.split("."))]
        if known_heads
        else []
    )
    shapes = sorted(str(key) for key in info["mismatched_keys"])
    raise_unless_complete(
        sorted(info["missing_keys"]), [key for key in left if key not in heads], shapes, what=what
    )
    if heads:
        logger.info(f"Left out of {what}: {', '.join(heads)}.")


def _unwrapped(state: dict[str, Tensor], own: set[str]) -> dict[str, Tensor]:
    """`state` under the names of the backbone: a checkpoint of a larger model keeps it behind a prefix."""
    for prefix in _WRAPPERS:
        inner = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix)
        }
        if not own & state.keys() and own & inner.keys():
            rest = {key: value for key, value in state.items() if not key.startswith(prefix)}
            return inner | rest
    return state
