"""The strict loading of weights: keys that do not fit are an error that lists them."""

import os
from collections.abc import Callable, Iterable, Mapping
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
"""Parts of the keys of heads and poolers, which checkpoints hold and backbones here lack.

`load_weights` compares the first part of a key. `raise_for_loading_info` compares every part.
"""

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
"""Prefixes under which the checkpoint of a larger model holds the keys of its backbone."""


def read_weights(weights: str | os.PathLike[str] | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of a file or of a mapping by their keys.

    Args:
        weights: a safetensors file, a state dict that torch.load reads with weights_only=True, or a
            mapping of tensors.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or holds something else than tensors (a pickled object,
            for example).
    """
    if isinstance(weights, Mapping):
        return dict(weights)
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"weights must be a file of tensors, got {str(path)!r}, which does not exist. "
            "Check the path."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"weights must be an undamaged file of tensors, got {str(path)!r}. Fetch it again."
        ) from error
    # torch raises pickle.UnpicklingError for anything that is not a tensor. Older versions raise
    # other errors.
    except Exception as error:
        raise ValueError(
            f"weights must be tensors alone, got {str(path)!r}, a pickle of other objects, "
            "which could run code when read. Save its state_dict as safetensors."
        ) from error
    # Training scripts often save the state dict inside a dict with other entries.
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise ValueError(
            f"weights must be a state dict, got {type(state).__name__} in {str(path)!r}. "
            "Save module.state_dict()."
        )
    return dict(state)


def load_weights(module: nn.Module, weights: str | os.PathLike[str] | Mapping[str, Tensor]) -> None:
    """Copies `weights` into `module`.

    Heads and poolers that the module does not have are left out and listed in the log.

    Args:
        module: the backbone.
        weights: as `read_weights` takes them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or if keys are missing, mis-shaped or left over. The
            message lists these keys.
    """
    state = _unwrapped(read_weights(weights), set(module.state_dict()))
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    shapes = sorted(
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if state[key].shape != own[key].shape
    )
    unexpected = sorted(state.keys() - own.keys())
    heads = [key for key in unexpected if key.split(".")[0] in _HEADS]
    source = f" {os.fspath(weights)!r}" if not isinstance(weights, Mapping) else ""
    raise_unless_complete(
        missing, [key for key in unexpected if key not in heads], shapes, what=f"weights{source}"
    )
    if heads:
        logger.info(f"Left out of {type(module).__name__}: {', '.join(heads)}.")
    module.load_state_dict({key: state[key] for key in own})


def raise_unless_complete(
    missing: list[str], left_over: list[str], shapes: list[str], *, what: str
) -> None:
    """Raises an error that lists the keys that do not fit, if there are any.

    Args:
        missing: keys of the model that the weights lack.
        left_over: keys of the weights that the model lacks.
        shapes: keys whose shapes differ.
        what: the weights, for the error.

    Raises:
        ValueError: if one of the lists is not empty.
    """
    faults = [
        f"{label}: {', '.join(keys[:10])}{f' and {len(keys) - 10} more' if len(keys) > 10 else ''}"
        for label, keys in (("missing", missing), ("left over", left_over), ("mis-shaped", shapes))
        if keys
    ]
    if faults:
        raise ValueError(
            f"{what} must fit the model key by key, got {'; '.join(faults)}. "
            "Is it a checkpoint of this model?"
        )


@torch.no_grad()
def draw_anew(model: nn.Module, keys: Iterable[str]) -> None:
    """Draws the parameters that found no weights of their shape; buffers become zero.

    transformers leaves them uninitialised.

    Args:
        model: the model that was loaded.
        keys: the names of those parameters and buffers.
    """
    for key in keys:
        owner, _, leaf = key.rpartition(".")
        module: Any = model.get_submodule(owner)
        if leaf in dict(module.named_buffers(recurse=False)):
            # Such as the prior of the classes: zeros stand for an even one.
            getattr(module, leaf).zero_()
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()
        else:
            getattr(module, leaf).normal_(std=0.02)


def load_strictly(
    load: Callable[..., Any],
    *,
    what: str,
    known_heads: bool = False,
    forgives_shapes: bool = False,
    prefix: str | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Returns a model that transformers loads, and its loading report, if every key fits.

    Args:
        load: a function that passes its keyword arguments to `from_pretrained`.
        what: the checkpoint, for the error.
        known_heads: whether heads that the model lacks are left out without an error.
        forgives_shapes: whether keys of another shape are left out without an error.
        prefix: the prefix of this tower's keys. Left-over keys without it belong to another tower
            and are no error. None means that the checkpoint holds one tower.

    Raises:
        ValueError: for damaged weights, or for keys that do not fit. The message lists these keys.
    """
    try:
        # Mis-shaped keys are allowed here so that the report lists all of them. They raise below.
        model, info = load(output_loading_info=True, ignore_mismatched_sizes=True)
    except SafetensorError as error:
        raise ValueError(
            f"{what} must hold undamaged weights, got {error}. Fetch it again."
        ) from error
    report = dict(info)
    if prefix is not None:
        unexpected = report["unexpected_keys"]
        report["unexpected_keys"] = {key for key in unexpected if key.startswith(prefix)}
    if forgives_shapes:
        report["mismatched_keys"] = []
    raise_for_loading_info(report, what=what, known_heads=known_heads)
    return model, info


def load_classifier(load: Callable[..., Any], what: str, options: dict[str, Any]) -> Any:
    """Returns a classifier that transformers loads strictly.

    Gradient flags and unsaved buffers, which a checkpoint cannot hold, are restored afterwards.

    Args:
        load: a function that passes its keyword arguments to `from_pretrained`.
        what: the checkpoint, for the error.
        options: the user's keyword arguments.

    Raises:
        ValueError: as `load_strictly` does.
    """
    options = {"use_safetensors": True} | options
    wants_info = options.pop("output_loading_info", False)
    forgiven = options.pop("ignore_mismatched_sizes", False)
    model, info = load_strictly(
        lambda **strict: load(**(options | strict)), what=what, forgives_shapes=forgiven
    )
    draw_anew(model, [key for key, *_ in info["mismatched_keys"]])
    for tower in (model.image_encoder, model.text_encoder):
        if tower is not None:
            tower.restore_gradient_flags()
            tower.restore_unsaved_buffers()
    return (model, info) if wants_info else model


def raise_for_loading_info(info: Mapping[str, Any], *, what: str, known_heads: bool) -> None:
    """Raises an error that lists the keys that, by transformers' report, do not fit.

    Args:
        info: the report of `from_pretrained`.
        what: the checkpoint, for the error.
        known_heads: whether heads that the model lacks are left out without an error.

    Raises:
        ValueError: if keys are missing, left over or mis-shaped.
    """
    unexpected = sorted(info["unexpected_keys"])
    heads = (
        [key for key in unexpected if any(part in _HEADS for part in key.split("."))]
        if known_heads
        else []
    )
    shapes = sorted(str(key) for key in info["mismatched_keys"])
    left_over = [key for key in unexpected if key not in heads]
    raise_unless_complete(sorted(info["missing_keys"]), left_over, shapes, what=what)
    if heads:
        logger.info(f"Left out of {what}: {', '.join(heads)}.")


def _unwrapped(state: dict[str, Tensor], own: set[str]) -> dict[str, Tensor]:
    """Returns `state` with the backbone's own keys, without the prefix of a larger model."""
    for prefix in _WRAPPERS:
        inner = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix)
        }
        # Remove a prefix only if no key fits with it and some keys fit without it.
        if not own & state.keys() and own & inner.keys():
            rest = {key: value for key, value in state.items() if not key.startswith(prefix)}
            return inner | rest
    return state
