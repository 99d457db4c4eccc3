"""transformers models by name or config, loaded strictly and without the unused pooler."""

import copy
from typing import Any, NamedTuple, final

import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.utils import logging
from transformers.utils.hub import cached_file

from .encoder_families import FIXED_FIELDS, model_class_of
from .load_checkpoint import read_checkpoint
from .load_projection import projection_width, take_projection
from .load_weights import load_backbone
from .pooling import TEXT_POOLING, image_pooling, pooler_option, text_pooling
from .processing_inputs import load_tokenizer
from .validation import closest, plain_value

_TOWERS = {"vision_config": ("vision_model",), "text_config": ("text_model", "text_encoder")}
"""The prefixes under which checkpoints of dual encoders hold each tower."""

logger = logging.get_logger(__name__)


@final
class Built(NamedTuple):
    """A transformers backbone, and how its vector is made.

    Attributes:
        backbone: the model, without a projection.
        pooling: as `EncoderConfig.pooling`.
        projection: width of the projection that was asked for, or None.
        weight: of the projection, where the checkpoint holds it.
    """

    backbone: PreTrainedModel
    pooling: str | None
    projection: int | None
    weight: Tensor | None


def build_transformers(
    name: Any,
    load: bool,
    options: dict[str, Any],
    *,
    tower: str,
    dtype: torch.dtype | None = None,
    pooling: str | None = None,
    projection: bool | int = False,
) -> Built:
    """Returns a transformers backbone, with a pooler only where the pooling uses it.

    Args:
        name: a hub name, a folder or a config.
        load: whether to load the weights of the checkpoint.
        options: entries of the config to override.
        tower: "vision_config" or "text_config": the tower to take from a dual encoder.
        dtype: of the weights, whatever type they are stored in. None: torch's default.
        pooling: as for `TextEncoder` and `ImageEncoder`.
        projection: as for `TextEncoder`.

    Raises:
        ValueError: for a checkpoint that cannot be read or does not fit, for an encoder-decoder, or
            for an option, a pooling or a projection that the model does not have.
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
    dual = config if hasattr(config, tower) else None
    # Copy: the options and the attention that is chosen later must not change the caller's config.
    config = copy.deepcopy(getattr(config, tower, config))
    takes = "pixel_values" if tower == "vision_config" else "input_ids"
    model_class = model_class_of(config, takes=takes)
    _set_options(config, plain_value(options), takes)
    width = projection_width(projection, config, dual)
    state = read_checkpoint(str(name), ("model.safetensors", "pytorch_model.bin")) if load else {}
    if dual is not None:
        state = _renamed(state, dual.model_type)
    state, weight = take_projection(state, takes)
    asked, pooling = pooling, _pooling_of(pooling, config, dual, model_class, tower, state)
    if asked is None and width is not None and pooling == "mean":
        raise ValueError(
            f"pooling must be given for a projection of {config.model_type!r}, got None. It was "
            "not published with a pooled vector."
        )
    dtype = torch.get_default_dtype() if dtype is None else dtype
    with_pooler = pooler_option(model_class, pooling == "pooler")
    if not load:
        built: PreTrainedModel = model_class._from_config(config, dtype=dtype, **with_pooler)
        return Built(built, pooling, width, None)
    if TEXT_POOLING.get(config.model_type) == "last":
        _take_padding(config, str(name))
    backbone: PreTrainedModel = load_backbone(
        model_class,
        config,
        state,
        what=f"checkpoint {name!r}",
        prefixes=() if dual is None else _TOWERS[tower],
        dtype=dtype,
        pooler=pooling == "pooler",
    )
    return Built(backbone, pooling, width, weight)


def _pooling_of(
    wanted: str | None, config: Any, dual: Any, model_class: Any, tower: str, state: dict[str, Any]
) -> str | None:
    """Returns how a tower is pooled; `state` are the tensors of its checkpoint, if there is one."""
    has_pooler = bool(pooler_option(model_class, True))
    kind = None if dual is None else dual.model_type
    if tower == "vision_config":
        # A BLIP that was trained for retrieval compares the class token itself.
        if wanted is None and any(key.startswith("vision_proj.") for key in state):
            return None
        return image_pooling(wanted, config, dual=kind)
    pooling = text_pooling(wanted, config.model_type, has_pooler=has_pooler, dual=kind)
    if wanted is None and pooling == "pooler" and any(k.startswith("text_proj.") for k in state):
        return "cls"
    return pooling


def _renamed(state: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    """Returns a dual encoder's tensors with the keys that transformers uses today.

    transformers renames the keys of a model by its family. A tower alone has another family.
    """
    for renaming in get_checkpoint_conversion_mapping(family) or ():
        if isinstance(renaming, WeightRenaming):
            state = {renaming.rename_source_key(key)[0]: value for key, value in state.items()}
    return state


def _take_padding(config: Any, name: str) -> None:
    """Sets the padding id of a config to that of the checkpoint's tokenizer.

    A text model that attends to its padding needs the id with which it was trained. The config of a
    SigLIP 2 has a default that is not the id of its tokenizer.

    Raises:
        ValueError: if the tokenizer pads on the left.
    """
    files = ("tokenizer_config.json", "tokenizer.json", "spiece.model")
    # Without files, transformers makes an empty tokenizer of the family.
    if not any(_found(name, file) for file in files):
        logger.warning(
            f"{name!r} has no tokenizer: the padding id {config.pad_token_id} of its config is "
            "assumed to be the one it was trained with."
        )
        return
    tokenizer = load_tokenizer(name)
    if tokenizer.padding_side != "right":
        raise ValueError(
            f"name must be a checkpoint whose tokenizer pads on the right, got {name!r}, which "
            f"pads on the {tokenizer.padding_side}. Set padding_side in its tokenizer_config.json "
            "if the model was trained so."
        )
    if tokenizer.pad_token_id is not None:
        config.pad_token_id = int(tokenizer.pad_token_id)


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


def _found(name: str, file: str) -> str | None:
    """Returns where a file of a checkpoint lies on this machine, or None if there is none."""
    path: str | None = cached_file(
        name,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return path


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
