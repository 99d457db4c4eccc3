"""The config of an open_clip model: found by name, read, and checked before it is built."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from transformers import AutoConfig

from .configuration import backbone_entries
from .processing_open_clip import SCHEMES, found_file, open_clip_module
from .validation import closest

CONFIG = "open_clip_config.json"
"""The file that holds it on a hub and in a folder."""


def is_open_clip(name: object, *, kind: str) -> bool:
    """Returns whether a name stands for an open_clip model on a hub or in a folder.

    Args:
        name: an encoder's first argument.
        kind: "image" or "text". timm knows `hf-hub:` too, but only for pictures.
    """
    if not isinstance(name, str):
        return False
    has_scheme = name.startswith(SCHEMES)
    if has_scheme and kind == "text":
        return True
    if not has_scheme and not Path(name).is_dir():
        return False
    if found_file(name, CONFIG) is None:
        return False
    other = found_file(name, "config.json")
    if other is None:
        return True
    # The same folder may hold the model for another library too.
    return has_scheme and "architecture" not in _read_json(other, name)


def described(name: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the config of a model, and of its preprocessing (empty if it has none).

    Args:
        name: `hf-hub:owner/model`, a folder, or one of open_clip's own configs.
        options: of the encoder. An entry `model_cfg` stands in the place of the name's config.

    Raises:
        ValueError: if there is no such model, or its config is damaged.
    """
    if options.get("model_cfg") is not None:
        return _checked_config(copy.deepcopy(options["model_cfg"]), name), {}
    if name.startswith(SCHEMES) or Path(name).is_dir():
        path = found_file(name, CONFIG)
        if path is None:
            raise ValueError(
                f"name must be a repository or a folder with {CONFIG}, got {name!r}, in which it "
                "was not found. Check the name and the network."
            )
        config = _read_json(path, name)
        return _checked_config(config.get("model_cfg", config), name), dict(
            config.get("preprocess_cfg") or {}
        )
    open_clip = open_clip_module()
    config = open_clip.get_model_config(name)
    if config is None:
        raise ValueError(
            f"name must be hf-hub:owner/model, a folder, or a config of open_clip, got {name!r}. "
            f"{closest(name, open_clip.list_models())[:300]}"
        )
    return _checked_config(config, name), {}


def _read_json(path: str, name: str) -> dict[str, Any]:
    """Returns a JSON file's entries, or raises a ValueError that names the model."""
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"name must be a model with an undamaged {Path(path).name}, got {name!r}: {error}."
        ) from error
    if not isinstance(entries, dict):
        raise ValueError(f"{Path(path).name} of {name!r} must be an object, got {entries!r:.80}.")
    return entries


def _checked_config(config: Any, name: str) -> dict[str, Any]:
    """Returns a model's config, if its entries are there."""
    for key, kind in (("embed_dim", int), ("vision_cfg", Mapping), ("text_cfg", Mapping)):
        given = config.get(key) if isinstance(config, Mapping) else None
        # A saved encoder keeps its own tower's entry alone.
        if given is None and key != "embed_dim" and isinstance(config, Mapping):
            continue
        if not isinstance(given, kind):
            raise ValueError(
                f"model_cfg of {name!r} must have {key!r} as open_clip writes it, got {given!r}."
            )
    return dict(config)


def check_part(part: dict[str, Any], name: str) -> None:
    """Refuses a tower that would be fetched from elsewhere, or whose tokens have another width.

    It also removes what the library sets itself.

    Args:
        part: the entry of the tower in the model's config.
        name: of the model, for the error.

    Raises:
        ValueError: for such a tower.
    """
    for key in ("output_tokens", "timm_model_pretrained", "hf_model_pretrained"):
        part.pop(key, None)
    network = part.get("timm_model_name")
    if network and not timm.is_model(str(network)):
        raise ValueError(
            f"timm_model_name of {name!r} must be the plain name of a timm model, got {network!r}."
        )
    pools = part.get("timm_pool")
    if isinstance(part.get("layers"), list) or (network and pools in ("abs_attn", "rot_attn")):
        raise ValueError(
            f"the image tower of {name!r} must keep the width of its tokens, got attention pooling "
            "that ends with a projection. Take timm's model, such as 'resnet50_clip.openai'."
        )
    if network:
        part["timm_model_pretrained"] = False


def text_backbone_of(name: str) -> dict[str, Any]:
    """Returns the config of a transformers text model, as an encoder's config keeps it.

    Args:
        name: of the text model.

    Raises:
        ValueError: if its config cannot be read.
    """
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"hf_model_name must be a transformers model whose config can be read, got {name!r}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return backbone_entries(config)
