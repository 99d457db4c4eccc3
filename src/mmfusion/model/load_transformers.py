"""transformers models by name or config, loaded strictly and without the unused pooler."""

import copy
import inspect
from typing import Any

from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from .load_weights import load_strictly
from .validation import closest


def build_transformers(
    name: Any, load: bool, options: dict[str, Any], *, tower: str
) -> PreTrainedModel:
    """Returns a transformers backbone without its pooler, which is not used.

    Args:
        name: a hub name, a folder or a config.
        load: whether to load the weights of the checkpoint.
        options: entries of the config to override.
        tower: "vision_config" or "text_config": the tower to take from a dual encoder.

    Raises:
        ValueError: for a checkpoint that cannot be read or does not fit, for an encoder-decoder, or
            for an option that the config does not have.
    """
    try:
        config = name if isinstance(name, PreTrainedConfig) else AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"name must be a transformers checkpoint (a hub name or a folder), got {name!r}, "
            f"which could not be read: {str(error).splitlines()[0]}"
        ) from error
    is_dual = hasattr(config, tower)
    # Copy: the options and the attention that is chosen later must not change the caller's config.
    config = copy.deepcopy(getattr(config, tower, config))
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"name must be an encoder, got {config.model_type!r}, an encoder-decoder. Choose an "
            "encoder-only model."
        )
    valid = config.to_dict()
    for key, value in options.items():
        if key not in valid:
            raise ValueError(
                f"{type(config).__name__} has no option {key!r}. {closest(key, sorted(valid))}"
            )
        setattr(config, key, value)
    model_class: Any = AutoModel._model_mapping[type(config)]
    pooler = (
        {"add_pooling_layer": False}
        if "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
        else {}
    )
    if not load:
        # `_from_config` builds in the dtype of the config, the constructor in torch's default one.
        return (
            model_class._from_config(config, **pooler)
            if isinstance(name, PreTrainedConfig) or options
            else model_class(config, **pooler)
        )
    # The checkpoint of a dual encoder also holds the other tower, whose keys are left over.
    prefixes = {"vision_config": "vision_model.", "text_config": "text_model."}
    model, _ = load_strictly(
        lambda **strict: model_class.from_pretrained(name, config=config, **strict, **pooler),
        what=f"checkpoint {name!r}",
        known_heads=True,
        prefix=prefixes[tower] if is_dual else None,
    )
    backbone: PreTrainedModel = model
    return backbone


def config_dict(config: PreTrainedConfig) -> dict[str, Any]:
    """Returns a backbone's config for JSON: the model type and what differs from the defaults.

    Args:
        config: the config.
    """
    changed: dict[str, Any] = config.to_diff_dict()
    return {"model_type": config.model_type} | {
        key: value
        for key, value in changed.items()
        if key not in ("transformers_version", "architectures", "dtype")
    }


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
