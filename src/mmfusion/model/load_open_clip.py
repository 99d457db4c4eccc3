"""open_clip models by name: `hf-hub:owner/model` and folders with an open_clip_config.json."""

from collections.abc import Mapping
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.utils import logging

from .adapter_open_clip import OpenClipTower
from .load_checkpoint import read_checkpoint
from .load_open_clip_config import check_part, described, text_backbone_of
from .load_transformers import backbone_width
from .load_weights import load_weights, read_weights
from .processing_open_clip import (
    open_clip_module,
    open_clip_tokenizer,
    without_scheme,
)
from .validation import closest, plain_value

logger = logging.get_logger(__name__)

_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_SHARED = ("embed_dim", "quick_gelu")
_OPTIONS = ("model_cfg", "text_backbone", "pad_id")
_TINY_VISION = {"image_size": 8, "patch_size": 8, "width": 8, "head_width": 8, "layers": 1}
_TINY_TEXT = {"context_length": 4, "vocab_size": 4, "width": 8, "heads": 1, "layers": 1}
_OUTSIDE = ("logit_scale", "logit_bias", "visual.", "text_decoder.")
_FRAMES = {"shortest": "center", "squash": "squash"}
"""How open_clip brings a picture to size -> timm's name for the same.

The third way, "longest", fills borders with black, and timm's with the mean.
"""


@final
class BuiltOpenClip(NamedTuple):
    """A tower of an open_clip model.

    Attributes:
        backbone: the tower.
        options: from which it is rebuilt without network.
        projection: width of the projection, or None without one.
        preprocess: how its pictures are prepared; empty for a tower of texts.
    """

    backbone: OpenClipTower
    options: dict[str, Any]
    projection: int | None
    preprocess: dict[str, Any]


def build_open_clip(
    name: str,
    load: bool,
    options: Mapping[str, Any],
    *,
    tower: str,
    projection: bool | int = False,
    dtype: torch.dtype | None = None,
) -> BuiltOpenClip:
    """Returns a tower of an open_clip model.

    Args:
        name: `hf-hub:owner/model`, a folder, or one of open_clip's own configs such as "ViT-B-32".
        load: whether to load the weights of the hub or the folder.
        options: `model_cfg` stands in the place of the config of the name; `text_backbone` is the
            config of a transformers text model; `pad_id` the id with which texts are padded.
        tower: "vision_cfg" or "text_cfg".
        projection: whether the vectors pass the projection. A number must be its width.
        dtype: of the weights. None: torch's default.

    Raises:
        ImportError: if open_clip is not installed.
        ValueError: for an unknown name, a model that cannot be one tower, or weights that do not
            fit.
    """
    for key in options:
        if key not in _OPTIONS:
            raise ValueError(
                f"an open_clip encoder has no option {key!r}. {closest(key, _OPTIONS)}"
            )
    config, preprocess = described(name, options)
    part = dict(config[tower])
    width = _checked_width(projection, config["embed_dim"])
    check_part(part, name)
    text_backbone = options.get("text_backbone")
    if part.get("hf_model_name"):
        text_backbone = text_backbone or text_backbone_of(part["hf_model_name"])
    built = _built(config, tower, part, text_backbone, name)
    pad_id = options.get("pad_id")
    if tower == "text_cfg" and pad_id is None:
        pad_id = _pad_id(name, part, text_backbone, load)
    own_width = _width(built) if width is None else width
    length = _context_length(part, text_backbone) if tower == "text_cfg" else None
    backbone = OpenClipTower(built, own_width, width is not None, pad_id or 0, length)
    if load:
        load_weights(
            backbone, tower_weights(read_checkpoint(without_scheme(name), _WEIGHTS), backbone)
        )
    backbone.to(torch.get_default_dtype() if dtype is None else dtype)
    kept = {"model_cfg": {key: config[key] for key in (*_SHARED, tower) if key in config}}
    if text_backbone is not None:
        kept["text_backbone"] = text_backbone
    if pad_id is not None:
        kept["pad_id"] = pad_id
    size = part.get("image_size", 224)
    return BuiltOpenClip(backbone, plain_value(kept), width, {"size": size} | preprocess)


def tower_weights(state: Mapping[str, Tensor], backbone: OpenClipTower) -> dict[str, Tensor]:
    """Returns the tensors of one tower, from those of a whole open_clip model.

    Args:
        state: all tensors by key. Those of a tower alone are returned as they are.
        backbone: the tower.
    """
    if any(key.startswith("tower.") for key in state):
        return dict(state)
    prefix = "visual." if backbone.kind in ("vit", "timm") else "text."
    inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not inner and prefix == "text.":
        # Older models hold the text tower's parts beside the picture's tower.
        inner = {k: v for k, v in state.items() if not k.startswith(_OUTSIDE)}
    # Old checkpoints hold these two, which the towers make themselves.
    inner = {k: v for k, v in inner.items() if not k.endswith("position_ids") and k != "attn_mask"}
    own = {key.removeprefix("tower.") for key in backbone.state_dict()}
    dropped = {"proj", "text_projection", "head", "pooler"}
    return {
        f"tower.{key}": value
        for key, value in inner.items()
        # A projection that was not asked for is not there.
        if key in own or not dropped & set(key.split(".")[:3])
    }


def backbone_weights(backbone: Any, weights: Any) -> Any:
    """Returns the weights that belong to a backbone: those of an open_clip model by tower.

    Args:
        backbone: of an encoder.
        weights: what the user gave.
    """
    if not isinstance(backbone, OpenClipTower):
        return weights
    return tower_weights(read_weights(weights), backbone)


def open_clip_input_spec(preprocess: Mapping[str, Any], published: bool) -> dict[str, Any]:
    """Returns the input spec of an open_clip model.

    Args:
        preprocess: the entry `preprocess_cfg` of its config, with `size`.
        published: whether its weights are the published ones. Then the spec holds the published
            preprocessing too.

    Raises:
        ValueError: if pictures are prepared in a way that is not known.
    """
    open_clip = open_clip_module()
    size, mode = preprocess["size"], preprocess.get("resize_mode", "shortest")
    if published and mode not in _FRAMES:
        raise ValueError(
            f"resize_mode must be one of {sorted(_FRAMES)}, got {mode!r}. To prepare the pixels "
            "yourself, build the encoder with pretrained=False and weights."
        )
    height, width = (size, size) if isinstance(size, int) else size
    spec = {
        "size": [height, width],
        "channels": 3,
        "mean": list(preprocess.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        "std": list(preprocess.get("std") or open_clip.OPENAI_DATASET_STD),
        "interpolation": preprocess.get("interpolation", "bicubic"),
    }
    if published:
        spec["published"] = {"source": "timm", "crop_pct": 1.0, "crop_mode": _FRAMES[mode]}
    return spec


def _checked_width(projection: Any, embed_dim: int) -> int | None:
    """Returns the width of the projection that was asked for, or None."""
    if projection is False or projection is None:
        return None
    if projection is not True and projection != embed_dim:
        raise ValueError(
            f"projection must be True, False or {embed_dim} for this model, got {projection!r}."
        )
    return embed_dim


def _built(
    config: Mapping[str, Any],
    tower: str,
    part: dict[str, Any],
    text_backbone: Mapping[str, Any] | None,
    name: str,
) -> Any:
    """Returns a tower with random weights."""
    open_clip = open_clip_module()
    try:
        if tower == "text_cfg" and text_backbone is not None:
            return _built_hf(part, dict(text_backbone), config["embed_dim"])
        other = {"text_cfg": _TINY_TEXT, "vision_cfg": _TINY_VISION} | {tower: part}
        shared = {key: config[key] for key in _SHARED if key in config}
        model = open_clip.CustomTextCLIP(**shared, **other)
    except (TypeError, ValueError, AssertionError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"model_cfg of {name!r} must be one that open_clip can build, got {part}: "
            f"{type(error).__name__}: {error}"
        ) from error
    built: Any = model.visual if tower == "vision_cfg" else model.text
    trunk = getattr(built, "trunk", None)
    if trunk is not None and getattr(trunk, "head_hidden_size", None) != trunk.num_features:
        raise ValueError(
            f"the image tower of {name!r} must pool to the width of its tokens, got "
            f"{part['timm_model_name']!r}, which does not. Load the network with timm."
        )
    return built


def _built_hf(part: Mapping[str, Any], entries: dict[str, Any], embed_dim: int) -> Any:
    """Returns the tower of a transformers text model, built as open_clip builds it from a name."""
    config = AutoConfig.for_model(entries.pop("model_type"), **entries)
    pooler = part.get("hf_pooler_type", "mean_pooler")
    built = open_clip_module("open_clip.hf_model").HFTextEncoder(
        part["hf_model_name"],
        output_dim=embed_dim,
        config=config,
        proj_type=part.get("hf_proj_type", "mlp"),
        pooler_type=pooler,
        pretrained=False,
    )
    if getattr(config, "is_encoder_decoder", False):
        built.transformer = built.transformer.encoder
    # From a name, open_clip builds the model's own pooler only if it is used.
    elif pooler != "cls_pooler" and getattr(built.transformer, "pooler", None) is not None:
        built.transformer.pooler = None
    return built


def _width(tower: Any) -> int:
    """Returns the width of a tower's pooled vector before the projection."""
    if hasattr(tower, "trunk"):
        return int(tower.trunk.num_features)
    if hasattr(tower, "ln_post"):
        return int(tower.ln_post.normalized_shape[0])
    return int(tower.width) if hasattr(tower, "width") else backbone_width(tower.transformer)


def _context_length(part: Mapping[str, Any], text_backbone: Mapping[str, Any] | None) -> int:
    """Returns the most tokens of a text: what the model was trained with."""
    default = 77 if text_backbone is None else 512
    return int(part.get("context_length", default))


def _pad_id(name: str, part: Mapping[str, Any], backbone: Any, load: bool) -> int:
    """Returns the token id with which texts are padded."""
    if backbone is not None:
        return int(AutoConfig.for_model(**backbone).pad_token_id or 0)
    # open_clip's own tokenizer pads with 0.
    stated = int(part.get("pad_id", 0))
    if not load or part.get("hf_tokenizer_name") is None:
        return stated
    # The tokens may attend to the padding, so it must be that of the tokenizer.
    try:
        return int(open_clip_tokenizer(name, part).pad_token_id or 0)
    except (ValueError, OSError) as error:
        logger.warning(
            f"The padding id {stated} is assumed of {name!r}, whose tokenizer could not be read: "
            f"{str(error).splitlines()[0]}"
        )
        return stated
