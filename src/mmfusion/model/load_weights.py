"""The strict loading of weights: keys that do not fit are an error that lists them."""

import copy
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from .load_checks import check_saved
from .load_projection import checked_projection, projection_of, take_projection
from .pooling import pooler_option
from .quiet import without_messages
from .validation import described_errors, plain_value

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
"""First parts of the keys of heads that lie beside the backbone's own parts, without a prefix."""

_NOT_BUILT = frozenset({"crossattention", "mask_token", "pooler", "position_ids"})
"""Parts of a backbone that are not built here, except a pooler that is the pooling.

`crossattention`: BLIP's texts attend to a picture with it. `mask_token`: only pretraining puts it
in. `position_ids`: older checkpoints hold this list of numbers, which every backbone makes itself.
"""


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

    Everything outside the backbone is a head. It is left out and listed in the log.

    Args:
        module: the backbone.
        weights: as `read_weights` takes them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or if keys of the backbone are missing, mis-shaped or
            left over. The message lists these keys.
    """
    source = f" {os.fspath(weights)!r}" if not isinstance(weights, Mapping) else ""
    what, state = f"weights{source}", read_weights(weights)
    if isinstance(module, PreTrainedModel):
        takes = "pixel_values" if module.main_input_name == "pixel_values" else "input_ids"
        state, weight = take_projection(state, takes)
        pooler = getattr(module, "pooler", None) is not None
        loaded = load_backbone(
            type(module), module.config, state, what=what, like=module, pooler=pooler
        )
        held = dict(loaded.state_dict())
        if projection_of(module) is not None:
            held |= checked_projection(module, weight, takes=takes, what=what)
        module.load_state_dict(held)
        return
    own = module.state_dict()
    inner, outside = _of_the_backbone(state, own.keys(), (), what)
    shapes = sorted(
        f"{key} {tuple(inner[key].shape)} for {tuple(own[key].shape)}"
        for key in own.keys() & inner.keys()
        if inner[key].shape != own[key].shape
    )
    left_over = [key for key in sorted(inner.keys() - own.keys()) if not _is_head(key, bare=True)]
    raise_unless_complete(sorted(own.keys() - inner.keys()), left_over, shapes, what=what)
    _log_heads([*outside, *(inner.keys() - own.keys())], type(module).__name__)
    module.load_state_dict({key: inner[key] for key in own})


def load_backbone(
    model_class: Any,
    config: Any,
    state: dict[str, Tensor],
    *,
    what: str,
    prefixes: tuple[str, ...] = (),
    like: nn.Module | None = None,
    dtype: torch.dtype | None = None,
    pooler: bool = False,
) -> Any:
    """Returns a transformers backbone with the weights of a checkpoint, without its heads.

    Args:
        model_class: the class of the backbone.
        config: its config.
        state: all tensors of the checkpoint by key.
        what: the checkpoint, for the error.
        prefixes: names under which the checkpoint may hold the backbone, the likeliest first.
        like: a module with the backbone's keys. None: built here on the meta device.
        dtype: of the weights. None: torch's default.
        pooler: whether the backbone has its pooler.

    Raises:
        ValueError: if keys of the backbone are missing, left over or mis-shaped.
    """
    options = pooler_option(model_class, pooler)
    if like is None:
        with torch.device("meta"):
            like = model_class(copy.deepcopy(config), **options)
    names = (*prefixes, model_class.base_model_prefix)
    own = [key for key in like.state_dict() if not key.startswith("shared_projection.")]
    inner, outside = _of_the_backbone(state, own, names, what)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    # transformers finds the keys of some older checkpoints only behind the model's own prefix, and
    # of others only without. So it gets all keys but the heads that have a name of the backbone.
    # In AltCLIP it is the name of a part of the backbone. Then the keys stay as they are.
    is_part = hasattr(like, model_class.base_model_prefix)
    own_prefix = "" if is_part else f"{model_class.base_model_prefix}."
    given = {key: state[key] for key in outside if key not in inner and not is_part}
    given |= {f"{own_prefix}{key}" if outside else key: inner[key] for key in inner}
    # transformers renames the keys of older checkpoints. Mis-shaped keys are allowed here so that
    # the report lists all of them. transformers' own report of the keys is hidden: below, the keys
    # are compared, and an error or the log tells what does not fit.
    with without_messages():
        model, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=given,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    bare = not outside
    unexpected = sorted(info["unexpected_keys"])
    inside = [
        key.removeprefix(own_prefix) for key in unexpected if bare or key.startswith(own_prefix)
    ]
    left_over = [key for key in inside if not _is_head(key, bare=bare)]
    shapes = sorted(str(key) for key in info["mismatched_keys"])
    raise_unless_complete(sorted(info["missing_keys"]), left_over, shapes, what=what)
    _log_heads({*outside, *unexpected}, what)
    return model


def _of_the_backbone(
    state: Mapping[str, Tensor], own: Collection[str], names: tuple[str, ...], what: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the tensors of the backbone by its own keys, and the other keys.

    The backbone lies under the prefix under which all its keys are found. A checkpoint of an older
    version holds it under other keys, and a wrong one lacks some. Then the prefix is one of
    `names`, or none, or the one under which most keys are found.

    Raises:
        ValueError: if two whole copies of the backbone are found.
    """
    found: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in own:
                found["".join(f"{part}." for part in parts[:start])] += 1
    whole = [prefix for prefix, count in found.items() if count == len(own)]
    if len(whole) > 1:
        raise ValueError(
            f"{what} must hold one copy of the model, got copies under {sorted(whole)}. Pass the "
            "tensors of one of them as weights."
        )
    named = [f"{name}." for name in names if any(key.startswith(f"{name}.") for key in state)]
    if whole:
        prefix = whole[0]
    elif named:
        prefix = named[0]
    else:
        # A key that is found as it stands tells that there is no prefix.
        prefix = "" if found[""] else max(found, key=lambda one: found[one], default="")
    inner = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
    return inner, [key for key in state if not key.startswith(prefix)]


def _is_head(key: str, *, bare: bool) -> bool:
    """Returns whether a left-over key of a backbone belongs to a part that is not built here.

    Args:
        key: the key, without the prefix of the backbone.
        bare: whether heads may lie beside the backbone's own parts.
    """
    parts = key.split(".")
    return bool(_NOT_BUILT & set(parts)) or (bare and parts[0] in _HEADS)


def _log_heads(keys: Iterable[str], what: str) -> None:
    heads = sorted(keys)
    if heads:
        logger.info(f"Left out of {what}: {', '.join(heads)}.")


def raise_unless_complete(
    missing: list[str],
    left_over: list[str],
    shapes: list[str],
    *,
    what: str,
    may_differ: bool = False,
) -> None:
    """Raises an error that lists the keys that do not fit, if there are any.

    Args:
        missing: keys of the model that the weights lack.
        left_over: keys of the weights that the model lacks.
        shapes: keys whose shapes differ.
        what: the weights, for the error.
        may_differ: whether the caller takes `ignore_mismatched_sizes`, which the error then names.

    Raises:
        ValueError: if one of the lists is not empty.
    """
    hint = " Or pass ignore_mismatched_sizes=True, which draws the mis-shaped ones anew."
    faults = [
        f"{label}: {', '.join(keys[:10])}{f' and {len(keys) - 10} more' if len(keys) > 10 else ''}"
        for label, keys in (("missing", missing), ("left over", left_over), ("mis-shaped", shapes))
        if keys
    ]
    if faults:
        raise ValueError(
            f"{what} must fit the model key by key, got {'; '.join(faults)}. "
            f"Is it a checkpoint of this model?{hint if may_differ and shapes else ''}"
        )


def keep_weights(parts: Iterable[nn.Module]) -> None:
    """Keeps transformers from initialising parts anew, as it does with what it did not load.

    Args:
        parts: modules whose weights are pretrained or drawn already.
    """
    for part in parts:
        for inner in part.modules():
            inner.__dict__["_is_hf_initialized"] = True


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
    load: Callable[..., Any], *, what: str, forgives_shapes: bool = False
) -> tuple[Any, dict[str, Any]]:
    """Returns a model that transformers loads, and its loading report, if every key fits.

    Args:
        load: a function that passes its keyword arguments to `from_pretrained`.
        what: the checkpoint, for the error.
        forgives_shapes: whether keys of another shape are left out without an error.

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
    shapes = [] if forgives_shapes else sorted(str(key) for key in info["mismatched_keys"])
    missing, left_over = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    raise_unless_complete(missing, left_over, shapes, what=what, may_differ=True)
    return model, info


def load_classifier(load: Callable[..., Any], name: str, options: dict[str, Any]) -> Any:
    """Returns a classifier that transformers loads strictly.

    Gradient flags and unsaved buffers, which a checkpoint cannot hold, are restored afterwards.

    Args:
        load: a function that passes its keyword arguments to `from_pretrained`.
        name: the folder or hub name of the checkpoint.
        options: the user's keyword arguments.

    Raises:
        ValueError: as `load_strictly` does.
    """
    what = f"checkpoint {name!r}"
    rule, advice = "have a config that a model can be built from", "Fetch or save it again."
    with described_errors(what, rule, advice):
        saved = check_saved(name, options)
    options = {"use_safetensors": True} | options
    wants_info = options.pop("output_loading_info", False)
    forgiven = options.pop("ignore_mismatched_sizes", False)
    classes, known = plain_value(options.get("num_labels")), len(saved.get("id2label") or "12")
    if saved and "id2label" not in options and classes not in (None, known):
        if not forgiven:
            raise ValueError(
                f"num_labels must be {known} (the classes of {what}), got {classes!r}. Pass "
                "ignore_mismatched_sizes=True too for a head that starts anew."
            )
        # transformers would keep the names of the saved classes.
        del options["num_labels"]
        options["id2label"] = {index: f"LABEL_{index}" for index in range(classes)}
        options["label2id"] = {name: index for index, name in options["id2label"].items()}
    with described_errors(what, rule, advice):
        model, info = load_strictly(
            lambda **strict: load(**(options | strict)), what=what, forgives_shapes=forgiven
        )
    draw_anew(model, [key for key, *_ in info["mismatched_keys"]])
    for tower in (model.image_encoder, model.text_encoder):
        if tower is not None:
            tower.restore_gradient_flags()
            tower.restore_unsaved_buffers()
    return (model, info) if wants_info else model
