"""The input spec of a backbone: what its pixels must be, read from where it was published."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timm.data.config import resolve_model_data_config
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import logging

from .processing_published import published_of

logger = logging.get_logger(__name__)

# The numbers of PIL.Image.Resampling, as preprocessor_config.json keeps them.
_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")


def default_input_spec() -> dict[str, Any]:
    """Returns the spec of a backbone that declares none: 224 pixels, ImageNet's mean and std."""
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return {
        "size": [224, 224],
        "channels": 3,
        "mean": mean,
        "std": std,
        "interpolation": "bilinear",
    }


def timm_input_spec(
    model: nn.Module, options: Mapping[str, Any], published: bool = False
) -> dict[str, Any]:
    """Returns the input spec that a timm model was made for.

    Args:
        model: the model.
        options: the options that it was made with. An `img_size` among them overrides the published
            size.
        published: whether its weights are the published ones. Then the spec holds timm's own
            transform for evaluation too.
    """
    data = resolve_model_data_config(model)
    return _timm_spec(
        data,
        # The option comes first, because not every model keeps its number of channels.
        options.get("in_chans") or getattr(model, "in_chans", None) or data["input_size"][0],
        options.get("img_size"),
        published,
    )


def _timm_spec(
    data: Mapping[str, Any], channels: int, size: Any, published: bool
) -> dict[str, Any]:
    """Returns the spec of timm's data config."""
    _, height, width = data["input_size"]
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
    mean, std = list(data["mean"]), list(data["std"])
    # Statistics of three colours do not fit another number of channels: each gets their average.
    if channels != len(mean):
        mean, std = [sum(mean) / len(mean)] * channels, [sum(std) / len(std)] * channels
    spec = {
        "size": [height, width],
        "channels": channels,
        "mean": mean,
        "std": std,
        "interpolation": data["interpolation"],
    }
    if published:
        spec["published"] = {
            "source": "timm",
            "crop_pct": data["crop_pct"],
            "crop_mode": data["crop_mode"],
        }
    return spec


def transformers_input_spec(
    config: PreTrainedConfig, checkpoint: str | None, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns the input spec of a transformers vision model.

    Args:
        config: the model's config, which holds size and channels.
        checkpoint: a hub name or a folder with an image processor, which becomes part of the spec;
            None if there is none.
        options: the entries of the config that the user gave. With an `image_size` among them, the
            pictures get that size, and not the one that was published.

    Raises:
        ValueError: if the checkpoint's image processor cannot be read, or does not turn one picture
            into one picture. The message names it and the reason.
    """
    size = getattr(config, "image_size", 224)
    channels = getattr(config, "num_channels", 3)
    spec: dict[str, Any] = {
        "size": list(size) if isinstance(size, (list, tuple)) else [size, size],
        "channels": channels,
        "mean": [0.5] * channels,
        "std": [0.5] * channels,
        "interpolation": "bilinear",
    }
    if checkpoint is None:
        return spec
    processor = _image_processor(checkpoint)
    if processor is None:
        logger.warning(
            f"{checkpoint!r} has no preprocessor_config.json: {spec} is assumed of its pixels."
        )
        return spec
    if type(processor).__name__ == "TimmWrapperImageProcessor":
        return _timm_spec(processor.data_config, channels, None, True)
    settings = json.loads(processor.to_json_string())
    settings.pop("auto_map", None)
    spec["published"] = {"source": "transformers", **settings}
    try:
        measured = published_of(spec).measured
    except ValueError as error:
        raise ValueError(
            f"{error} It belongs to {checkpoint!r}. To prepare the pixels yourself, pass the "
            "model's config as the name and its file as weights."
        ) from error
    spec["mean"] = _nominal(measured.mean, getattr(processor, "image_mean", None))
    spec["std"] = _nominal(measured.std, getattr(processor, "image_std", None))
    resample = getattr(processor, "resample", None)
    if resample is not None and 0 <= int(resample) < len(_RESAMPLING):
        spec["interpolation"] = _RESAMPLING[int(resample)]
    if measured.channel_order != "RGB":
        spec["channel_order"] = measured.channel_order
    if "image_size" in (options or {}):
        del spec["published"]
    elif measured.size is not None:
        spec["size"] = measured.size
    return spec


def _image_processor(checkpoint: str) -> Any:
    """Returns the image processor of a checkpoint, or None if it was published without one."""
    # Imported here, because only models from a checkpoint need it.
    from transformers import AutoImageProcessor

    try:
        # Without trust_remote_code=False, transformers asks on standard input whether to run code.
        processor: Any = AutoImageProcessor.from_pretrained(checkpoint, trust_remote_code=False)
        # Without a name, transformers took the class that belongs to the kind of model, in the
        # place of the checkpoint's own code.
        if hasattr(processor, "auto_map") and not hasattr(processor, "image_processor_type"):
            raise ValueError("trust_remote_code")
    except Exception as error:
        # transformers raises OSError for a file that is missing and for one that is no JSON.
        files = ("preprocessor_config.json", "processor_config.json")
        if isinstance(error, OSError) and not any((Path(checkpoint) / f).exists() for f in files):
            return None
        reason = str(error).strip().splitlines() or [type(error).__name__]
        if "trust_remote_code" in str(error):
            reason = ["it names Python code (auto_map). Code of a checkpoint is never run."]
        raise ValueError(
            "name must be a checkpoint whose image processor is one of transformers' own and can "
            f"be read, got {checkpoint!r}: {reason[0]} To prepare the pixels yourself, pass the "
            "model's config as the name and its file as weights."
        ) from error
    return processor


def _nominal(measured: Sequence[float], stated: Any) -> list[float]:
    """Returns the stated numbers where they are the measured ones, else the measured ones."""
    # Measured in float32, 0.485 comes out as 0.48500001.
    if (
        isinstance(stated, (list, tuple))
        and len(stated) == len(measured)
        and all(
            math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6)
            for a, b in zip(stated, measured, strict=True)
        )
    ):
        return [float(value) for value in stated]
    return [float(f"{value:.6g}") for value in measured]
