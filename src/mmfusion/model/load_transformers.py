"""transformers models by name or config: built without the pooler that is not used, loaded strictly."""

import copy
import inspect
from typing import Any

from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .load_weights import load_strictly
from .validation import closest

logger = logging.get_logger(__name__)


def build_transformers(
    name: Any, load: bool, options: dict[str, Any], *, tower: str
) -> PreTrainedModel:
    """A transformers backbone without the pooler that is not used; of a dual encoder, the tower asked for."""
    try:
        config = name if isinstance(name, PreTrainedConfig) else AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"name must be a transformers checkpoint (a hub name or a folder), got {name!r}, which could not be read: "
            f"{str(error).splitlines()[0]}"
        ) from error
    is_dual = hasattr(config, tower)
    # A copy: options, and the attention that is chosen later, are this encoder's alone.
    config = copy.deepcopy(getattr(config, tower, config))
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"name must be an encoder, got {config.model_type!r}, an encoder-decoder. Choose an encoder-only model."
        )
    known = config.to_dict()
    for key, value in options.items():
        if key not in known:
            raise ValueError(
                f"{type(config).__name__} has no option {key!r}. {closest(key, sorted(known))}"
            )
        setattr(config, key, value)
    model_class: Any = AutoModel._model_mapping[type(config)]
    pooler = (
        {"add_pooling_layer": False}
        if "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
        else {}
    )
    if not load:
        return (
            model_class._from_config(config, **pooler)
            if isinstance(name, PreTrainedConfig) or options
            else model_class(config, **pooler)
        )
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
    """A backbone's config as JSON: what differs from the defaults, and the model type."""
    known: dict[str, Any] = config.to_diff_dict()
    return {"model_type": config.model_type} | {
        key: value
        for key, value in known.items()
        if key not in ("transformers_version", "architectures", "dtype")
    }


def transformers_input_spec(config: PreTrainedConfig, checkpoint: str | None) -> dict[str, Any]:
    """Size, channels, mean, std and interpolation of a transformers vision model, the last three from its `checkpoint` if any."""
    size = getattr(config, "image_size", 224)
    spec = default_input_spec() | {
        "size": list(size) if isinstance(size, (list, tuple)) else [size, size],
        "channels": getattr(config, "num_channels", 3),
        "mean": [0.5] * getattr(config, "num_channels", 3),
        "std": [0.5] * getattr(config, "num_channels", 3),
        "interpolation": "bilinear",
    }
    if checkpoint is not None:
        from transformers import AutoImageProcessor

        try:
            processor = AutoImageProcessor.from_pretrained(checkpoint)
        except OSError:
            logger.warning(
                f"{checkpoint!r} has no preprocessor_config.json: {spec} is assumed of its pixels."
            )
            return spec
        spec |= {"mean": list(processor.image_mean), "std": list(processor.image_std)}
        size = dict(getattr(processor, "crop_size", None) or processor.size)
        if {"height", "width"} <= size.keys():
            spec["size"] = [size["height"], size["width"]]
        names = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
        spec["interpolation"] = names.get(int(processor.resample), "bilinear")
    return spec


def default_input_spec() -> dict[str, Any]:
    """What is assumed of a backbone that declares nothing: 224 pixels, ImageNet's mean and deviation."""
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return {
        "size": [224, 224],
        "channels": 3,
        "mean": mean,
        "std": std,
        "interpolation": "bilinear",
    }


def backbone_width(module: Any) -> int:
    """Returns the width of a transformers model's last hidden state.

    Args:
        module: the model.

    Raises:
        ValueError: when its config does not tell the width.
    """
    config = module.config
    if getattr(config, "hidden_sizes", None):
        return int(config.hidden_sizes[-1])
    for name in ("hidden_size", "hidden_dim", "num_features", "d_model"):
        if isinstance(getattr(config, name, None), int):
            return int(getattr(config, name))
    raise ValueError(
        f"{type(module).__name__} must be a backbone whose config tells its width (hidden_size), got "
        f"{type(config).__name__}. Wrap it in a module of your own and register that with register_backbone."
    )
