"""transformers models by name or config, loaded strictly and without the unused pooler."""

import copy
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from .encoder_families import FIXED_FIELDS, model_class_of
from .load_checks import weight_files
from .load_weights import load_backbone, pooler_option, read_weights
from .validation import closest, plain_value

_TOWERS = {"vision_config": "vision_model", "text_config": "text_model"}
"""The prefix under which a dual encoder's checkpoint holds each tower."""


def build_transformers(
    name: Any,
    load: bool,
    options: dict[str, Any],
    *,
    tower: str,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """Returns a transformers backbone without its pooler, which is not used.

    Args:
        name: a hub name, a folder or a config.
        load: whether to load the weights of the checkpoint.
        options: entries of the config to override.
        tower: "vision_config" or "text_config": the tower to take from a dual encoder.
        dtype: of the weights, whatever type they are stored in. None: torch's default.

    Raises:
        ValueError: for a checkpoint that cannot be read or does not fit, for an encoder-decoder, or
            for an option that the config does not have.
    """
    try:
        config = (
            name
            if isinstance(name, PreTrainedConfig)
            else AutoConfig.from_pretrained(name, trust_remote_code=False)
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"name must be a transformers checkpoint (a hub name or a folder), got {name!r}, "
            f"which could not be read: {str(error).splitlines()[0]}"
        ) from error
    is_dual = hasattr(config, tower)
    # Copy: the options and the attention that is chosen later must not change the caller's config.
    config = copy.deepcopy(getattr(config, tower, config))
    takes = "pixel_values" if tower == "vision_config" else "input_ids"
    model_class = model_class_of(config, takes=takes)
    _set_options(config, plain_value(options), takes)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not load:
        pooler = pooler_option(model_class)
        built: PreTrainedModel = model_class._from_config(config, dtype=dtype, **pooler)
        return built
    backbone: PreTrainedModel = load_backbone(
        model_class,
        config,
        _read_checkpoint(str(name)),
        what=f"checkpoint {name!r}",
        prefixes=(_TOWERS[tower],) if is_dual else (),
        dtype=dtype,
    )
    return backbone


def _set_options(config: Any, options: dict[str, Any], takes: str) -> None:
    """Sets entries of a backbone's config: the user's, and those that have one lawful value.

    Raises:
        ValueError: if the config has no such entry, or not this value of it.
        TypeError: if the value is of another type.
    """
    valid = config.to_dict()
    for key, value in options.items():
        if key not in valid:
            raise ValueError(
                f"{type(config).__name__} has no option {key!r}. {closest(key, sorted(valid))}"
            )
        try:
            setattr(config, key, value)
        except StrictDataclassFieldValidationError as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise TypeError(
                f"{key} must be of the type that {type(config).__name__} has, got {value!r}. "
                f"{reason}"
            ) from error
    for key, value in FIXED_FIELDS.get(config.model_type, {}).items():
        if options.get(key, value) != value:
            raise ValueError(
                f"{key} must be {value!r} for {config.model_type!r}, got {options[key]!r}. Leave "
                "it out."
            )
        setattr(config, key, value)
    if takes == "input_ids" and getattr(config, "use_cache", False):
        # A cache of keys and values serves the next token of a generated text. An encoder has none.
        config.use_cache = False


def _read_checkpoint(name: str) -> dict[str, Tensor]:
    """Returns all tensors of a checkpoint by key.

    Args:
        name: a hub name or a folder.

    Raises:
        ValueError: if there are no weights, or damaged ones.
    """
    for stem in ("model.safetensors", "pytorch_model.bin"):
        try:
            files = weight_files(name, stem)
            if files:
                return {key: value for file in files for key, value in read_weights(file).items()}
        except (OSError, ValueError) as error:
            raise ValueError(
                f"checkpoint {name!r} must hold undamaged weights: {str(error).splitlines()[0]}"
            ) from error
    raise ValueError(
        f"checkpoint {name!r} must hold weights (model.safetensors), got none. Fetch it again, or "
        "pass pretrained=False."
    )


def backbone_width(module: Any) -> int:
    """Returns the width of a transformers model's last hidden state.

    Args:
        module: the model.

    Raises:
        ValueError: if its config does not hold the width.
    """
    config = module.config
    # Backbones with stages list one width per stage. The last stage makes the features.
    if getattr(config, "hidden_sizes", None):
        return int(config.hidden_sizes[-1])
    for name in ("hidden_size", "hidden_dim", "num_features", "d_model"):
        if isinstance(getattr(config, name, None), int):
            return int(getattr(config, name))
    raise ValueError(
        f"{type(module).__name__} must be a backbone whose config tells its width "
        f"(hidden_size), got {type(config).__name__}. "
        "Wrap it in a module of your own and register that with register_backbone."
    )
