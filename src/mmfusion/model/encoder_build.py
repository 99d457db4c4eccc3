"""How an encoder is made: what a name stands for, and how a config becomes an encoder again."""

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from .configuration import EncoderConfig
from .encoder_base import Encoder
from .load_open_clip_config import is_open_clip
from .pooling import CAUSAL
from .registry import custom_backbone, is_registered, registered_name
from .validation import check_choice, plain_value

Weights = str | os.PathLike[str] | Mapping[str, Tensor]
"""What `weights` may be: a file of tensors, or a mapping of them."""


def as_encoder(kind: Any, given: Any) -> Any:
    """Returns the encoder of a classifier, made from a name, a config or a module where needed.

    Args:
        kind: ImageEncoder or TextEncoder.
        given: an encoder, what its first argument takes, or None.
    """
    return given if given is None or isinstance(given, Encoder) else kind(given)


def described_encoder(kind: Any, config: Any, attn_implementation: str | None) -> Any:
    """Returns the encoder that a classifier's config describes, or None if it describes none.

    Args:
        kind: ImageEncoder or TextEncoder.
        config: of the encoder, or None.
        attn_implementation: as for `rebuild`.
    """
    return None if config is None else rebuild(kind, config, attn_implementation)


def rebuild(
    kind: Any,
    config: EncoderConfig | Mapping[str, Any],
    attn_implementation: str | None,
) -> Any:
    """Returns an encoder with random weights, rebuilt from the config of another.

    If the config holds only a name, the backbone of that name gets random weights.

    Args:
        kind: ImageEncoder or TextEncoder.
        config: of the other encoder.
        attn_implementation: of a transformers backbone; None takes its own choice.

    Raises:
        ValueError: for an entry that does not exist.
    """
    config = EncoderConfig.from_dict(config) if isinstance(config, Mapping) else config
    # A copy: what is frozen later is this encoder's alone.
    config = copy.deepcopy(config)
    name: Any = config.architecture or config.name
    if config.backbone is not None:
        backbone = dict(config.backbone)
        name = AutoConfig.for_model(backbone.pop("model_type"), **backbone)
        # A backbone that supports "sdpa" chooses it by default. MPNet lacks it and would refuse it.
        if attn_implementation not in (None, "sdpa"):
            name._attn_implementation = attn_implementation
    extra = _made_with(config)
    # from_pretrained builds on the meta device. There, unsaved buffers would never get values. So
    # models of timm, open_clip and keras, custom ones and those of an unknown source are built on
    # the CPU.
    on_cpu = config.source in ("timm", "open_clip", "keras", "custom", None)
    with torch.device("cpu") if on_cpu else torch.get_default_device():
        encoder = kind(
            name, source=config.source, pretrained=False, **extra, **(config.options or {})
        )
    for field in fields(encoder.config):
        if getattr(config, field.name) is None:
            setattr(config, field.name, getattr(encoder.config, field.name))
    is_pooled_otherwise = encoder.config.pooling != config.pooling
    encoder.config = config
    if is_pooled_otherwise:
        encoder.renew_adapter()
    if config.backbone is not None:
        config.follow(encoder.backbone.config)
    return encoder.apply_training_config()


def _made_with(config: EncoderConfig) -> dict[str, Any]:
    """Returns the arguments, besides the options of the backbone, that a saved config stands for.

    A picture's encoder that was saved before vision models were pooled as published has no pooling.
    It keeps the one that it had. A text encoder may have been saved with "cls" where this is
    refused today. `rebuild` gives it that pooling afterwards.
    """
    said = {"pooling": config.pooling, "padding": config.padding, "projection": config.projection}
    made = {key: value for key, value in said.items() if value is not None}
    family = (config.backbone or {}).get("model_type")
    if config.pooling == "cls" and family in CAUSAL:
        made["pooling"] = "mean"
    if config.backbone is not None and config.input_spec is not None and config.pooling is None:
        made["pooling"] = "tokens"
    return made


def source_of(name: object, source: str | None, *, kind: str) -> str:
    """Returns where a backbone comes from: one of the sources that `EncoderConfig` lists.

    Args:
        name: an encoder's first argument.
        source: what the user said. None: derived from the name.
        kind: "image" or "text".

    Raises:
        TypeError: when `name` is nothing that an encoder takes.
        ValueError: for an unknown source.
    """
    if source is not None:
        first, last = (["timm"], ["keras"]) if kind == "image" else ([], [])
        check_choice("source", source, [*first, "transformers", "open_clip", *last, "custom"])
        return source
    if isinstance(name, nn.Module):
        return "custom"
    if isinstance(name, PreTrainedConfig):
        return "transformers"
    if not isinstance(name, str) or not name:
        example = "resnet18" if kind == "image" else "google-bert/bert-base-uncased"
        raise TypeError(
            f"name must be a model name, a transformers config or an nn.Module, got {name!r}. "
            f"For example {example!r}."
        )
    if is_registered(name):
        return "custom"
    if is_open_clip(name, kind=kind):
        return "open_clip"
    has_scheme = name.startswith(("timm/", "hf-hub:", "local-dir:"))
    is_timm = has_scheme or ("/" not in name and not Path(name).is_dir())
    return "timm" if kind == "image" and is_timm else "transformers"


def loads_published(name: object, pretrained: bool | None, weights: Weights | None) -> bool:
    """Returns whether published weights are to be loaded.

    Args:
        name: an encoder's first argument.
        pretrained: what the user said; None means yes for a name without `weights`.
        weights: the user's own weights.

    Raises:
        ValueError: when `pretrained` contradicts the others.
    """
    if pretrained and weights is not None:
        raise ValueError(
            "pretrained must be False or None when weights are given, got True. Give one of the "
            "two."
        )
    if pretrained and not isinstance(name, str):
        raise ValueError(
            f"pretrained must be False or None for {type(name).__name__}, got True. Give a name, "
            "or weights."
        )
    return isinstance(name, str) and weights is None if pretrained is None else pretrained


def label_of(name: object) -> str:
    """Returns the name under which an encoder's config keeps its backbone.

    Args:
        name: an encoder's first argument.

    Raises:
        ValueError: when it is a module of a class that is not registered.
    """
    if isinstance(name, str):
        return name
    if isinstance(name, nn.Module):
        return registered_name(name)
    return str(getattr(name, "model_type", "")) or type(name).__name__


def checked_dtype(dtype: Any) -> torch.dtype:
    """Returns a type of weights that an encoder can have.

    Args:
        dtype: what the user said.

    Raises:
        TypeError: when it is no type of floating-point numbers.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(
            f"dtype must be a floating-point type of torch, got {dtype!r}. For example "
            "torch.float32."
        )
    return dtype


def common_dtype(*towers: Encoder | None) -> torch.dtype:
    """Returns the type of the weights of a classifier's towers.

    Args:
        *towers: the encoders; None for a modality without one.

    Raises:
        ValueError: when they have two types.
    """
    found = {tower.dtype for tower in towers if tower is not None and tower.dtype}
    if len(found) > 1:
        raise ValueError(
            f"the encoders must have one dtype, got {sorted(map(str, found))}. Give both the same "
            "dtype, or none, and call model.to(...) on the classifier."
        )
    return found.pop() if found else torch.get_default_dtype()


def build_custom(name: Any, options: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Returns a backbone of the user's own, and the options from which it is rebuilt.

    Args:
        name: a module, or a registered name.
        options: for the registered factory.

    Raises:
        ValueError: when options are given beside a module, or the name is not registered.
    """
    if isinstance(name, nn.Module):
        if options:
            raise ValueError(
                f"options must be given to the module's own constructor, got {sorted(options)}. "
                "Leave them out."
            )
        get_config: Any = getattr(name, "get_config", dict)
        config = plain_value(dict(get_config()))
        _check_rebuilt(name, config)
        return name, config
    return custom_backbone(str(name), **options), plain_value(options)


def _check_rebuilt(module: nn.Module, config: dict[str, Any]) -> None:
    """Refuses a module of the user's own that would come back different from a saved classifier.

    Raises:
        ValueError: when its options are no JSON, or do not build the same parts.
    """
    what = f"{type(module).__name__}.get_config must return the options of its constructor"
    advice = "Return all of them, as numbers, strings, lists and dicts."
    try:
        again = _built_again(registered_name(module), json.loads(json.dumps(config)))
    # A constructor may fail in any way.
    except Exception as error:
        raise ValueError(f"{what}, got {config!r}, which fail: {error}. {advice}") from error
    shapes, others = (
        {key: tuple(value.shape) for key, value in one.state_dict().items()}
        for one in (module, again)
    )
    different = sorted(key for key, _ in shapes.items() ^ others.items())
    # Options without weights, such as a stride, show where a module is printed.
    if different or str(module) != str(again):
        parts = f"other weights: {sorted(set(different))[:5]}" if different else "other parts"
        raise ValueError(f"{what}, got {config!r}, which build {parts}. {advice}")


def _built_again(name: str, config: dict[str, Any]) -> nn.Module:
    """Returns a registered backbone of these options, without drawing from torch's generator."""
    try:
        with torch.device("meta"):
            return custom_backbone(name, **config)
    # The meta device holds no values, which some constructors read.
    except (RuntimeError, NotImplementedError):
        with torch.random.fork_rng(), torch.device("cpu"):
            return custom_backbone(name, **config)


def declared_dim(module: nn.Module) -> int:
    """Returns the width that a module of the user's own declares.

    Args:
        module: the backbone.

    Raises:
        ValueError: when it declares none.
    """
    dim = getattr(module, "dim", getattr(module, "num_features", None))
    if not isinstance(dim, int) or dim < 1:
        raise ValueError(
            f"{type(module).__name__}.dim must be its output's width, got {dim!r}. "
            "Set self.dim in its constructor."
        )
    return dim
