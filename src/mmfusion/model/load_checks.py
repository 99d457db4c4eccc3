"""What the config of a saved classifier may say, checked before anything is built from it.

A folder may come from anybody. Its config names the parts that are built. So only what
`save_pretrained` writes is accepted: it never leads to the network, to another file, or to code.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig
from transformers.utils.hub import cached_file

from .registry import is_registered

ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""The kinds of attention that a config may name. Other names stand for code from a hub."""

_FOREIGN = frozenset(
    {
        *("auto_map", "backbone", "bnb_config", "cache_dir", "checkpoint_path", "features_only"),
        *("file", "hf_hub_filename", "hf_hub_id", "pretrained", "pretrained_cfg", "source"),
        *("quantization_config", "state_dict", "url", "use_pretrained_backbone"),
        *("pretrained_backbone", "use_timm_backbone"),
    }
)
"""Entries that lead to the network, to another file, or to code."""

_COUNTS = re.compile(r"(layers?|depths?|blocks?|layer_types)$")
_WIDTHS = re.compile(
    r"(size|heads|experts|queries|tokens|rank|dims?|width|channels|hidden|embd|d_(model|ff|inner))$"
)
_NO_WEIGHTS = re.compile(r"(image|img|patch|window|kernel|crop|input|chunk|block)_?size$")
_LARGEST_PICTURE = _SMALL_WIDTH = 8192
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


def check_saved(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of a saved classifier's config, if they come from `save_pretrained`.

    They are not looked at where the user gives a config.

    Args:
        name: its folder or hub name.
        options: the keyword arguments of `from_pretrained`.

    Raises:
        ValueError: if an entry leads elsewhere, or is larger than the weights allow.
    """
    hub = {key: options[key] for key in _HUB_OPTIONS if key in options}
    if "config" in options:
        return {}
    entries: dict[str, Any]
    entries, _ = PreTrainedConfig.get_config_dict(name, **hub)
    for field in ("image_encoder", "text_encoder"):
        encoder = entries.get(field)
        if encoder is not None:
            _check_encoder(field, encoder)
    for path, value in _entries(entries):
        _check_entry(path, value)
    shapes = _saved_shapes(name, hub)
    if shapes:
        _check_sizes(entries, shapes)
    return entries


def _check_encoder(field: str, encoder: Any) -> None:
    """Refuses an encoder that is known by a name alone, which could lead to the network."""
    encoder = encoder if isinstance(encoder, Mapping) else {"name": encoder}
    source = encoder.get("source")
    architecture = encoder.get("architecture")
    if source == "timm" and (not isinstance(architecture, str) or not timm.is_model(architecture)):
        raise ValueError(
            f"{field}.architecture in config.json must be the plain name of a timm model, got "
            f"{architecture!r}. Was the classifier saved with save_pretrained?"
        )
    if source == "transformers" and not isinstance(encoder.get("backbone"), Mapping):
        raise ValueError(
            f"{field}.backbone in config.json must be a config, got {encoder.get('backbone')!r}. "
            "Was the classifier saved with save_pretrained?"
        )
    if source == "open_clip":
        _check_open_clip(field, encoder.get("options"))
    elif source == "keras":
        _check_keras(field, encoder.get("name"))
    elif source not in ("timm", "transformers") and not is_registered(str(encoder.get("name"))):
        raise ValueError(
            f"{field}.name in config.json must be a registered backbone, got "
            f"{encoder.get('name')!r}. Call register_backbone before loading."
        )


def _check_keras(field: str, name: Any) -> None:
    """Refuses a Keras model whose name could be that of a file."""
    if not isinstance(name, str) or not name.isalnum():
        raise ValueError(
            f"{field}.name in config.json must be a model of keras.applications, got {name!r}. "
            "Was the classifier saved with save_pretrained?"
        )


def _check_open_clip(field: str, options: Any) -> None:
    """Refuses an open_clip tower whose parts would come from elsewhere."""
    options = options if isinstance(options, Mapping) else {}
    config = options.get("model_cfg")
    parts = [
        part
        for key in ("vision_cfg", "text_cfg")
        if isinstance(config, Mapping) and isinstance(part := config.get(key), Mapping)
    ]
    if not parts:
        raise ValueError(
            f"{field}.options.model_cfg in config.json must be the config of an open_clip model, "
            f"got {config!r}. Was the classifier saved with save_pretrained?"
        )
    for part in parts:
        if part.get("hf_model_name") and not isinstance(options.get("text_backbone"), Mapping):
            raise ValueError(
                f"{field}.options.text_backbone in config.json must be a config, got "
                f"{options.get('text_backbone')!r}. Was the classifier saved with save_pretrained?"
            )


def _entries(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields every entry inside dicts and lists, with the names that lead to it."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield (*path, str(key)), entry
            yield from _entries(entry, (*path, str(key)))
    elif isinstance(value, list):
        for entry in value:
            yield from _entries(entry, path)


def _check_entry(path: tuple[str, ...], value: Any) -> None:
    """Refuses an entry that leads to the network, to another file, or to code."""
    inside = path[0] in ("image_encoder", "text_encoder") and len(path) > 2
    # A custom module's options may have any names. The preprocessing names one of two libraries.
    inside = inside and path[1] != "input_spec"
    leads_away = inside and path[-1] in _FOREIGN and value not in (None, False, [], {})
    if path[-1].endswith("attn_implementation"):
        kinds = value.values() if isinstance(value, Mapping) else [value]
        leads_away = any(kind is not None and kind not in ATTENTIONS for kind in kinds)
    if leads_away and not (path[-1] == "backbone" and isinstance(value, Mapping)):
        raise ValueError(
            f"{'.'.join(path)} in config.json must be left out, or be what save_pretrained writes, "
            f"got {value!r}. It would load something that is not in the folder."
        )


def weight_files(name: str, stem: str, hub: Mapping[str, Any] | None = None) -> list[str]:
    """Returns the files of a checkpoint's weights, one or several shards.

    Args:
        name: the folder or hub name of the checkpoint.
        stem: the name of the file if there is one, such as "model.safetensors".
        hub: options of the hub, such as the revision.

    Returns:
        The paths; none if the checkpoint has no such file.

    Raises:
        ValueError: if a list of shards is damaged, or a shard is missing.
    """

    def found(file: str) -> str | None:
        path: str | None = cached_file(
            name,
            file,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
            **(hub or {}),
        )
        return path

    whole = found(stem)
    index = found(f"{stem}.index.json") if whole is None else None
    if index is None:
        return [] if whole is None else [whole]
    try:
        shards = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()
        files = {shard: found(str(shard)) for shard in sorted(set(shards))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{stem}.index.json of {name!r} must list the files of the weights, got "
            f"{type(error).__name__}: {error}. Fetch it again."
        ) from error
    if missing := [shard for shard, path in files.items() if path is None]:
        raise ValueError(
            f"checkpoint {name!r} must hold every file of its weights, got none for {missing}. "
            "Fetch it again."
        )
    return [path for path in files.values() if path is not None]


def _saved_shapes(name: str, hub: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Returns the shapes of all saved tensors; an empty list if they cannot be read here."""
    shapes = []
    # The loader itself says that weights are missing or damaged.
    try:
        for file in weight_files(name, "model.safetensors", hub):
            with safe_open(file, "pt") as opened:
                keys = opened.keys()
                shapes += [tuple(opened.get_slice(key).get_shape()) for key in keys]
    except (SafetensorError, OSError, ValueError):
        return []
    return shapes


def _check_sizes(entries: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> None:
    """Refuses counts of layers above the number of tensors, and widths above every axis.

    A layer has at least one tensor, and a width is the length of an axis of one. So a config that
    says more cannot fit the weights, and building it could take all memory.
    """
    widest = max((max(shape, default=1) for shape in shapes), default=1)
    for path, value in _entries(entries):
        numbers = value if isinstance(value, list) else [value]
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int):
                continue
            limit = None
            if _NO_WEIGHTS.search(path[-1]):
                limit = max(_LARGEST_PICTURE, widest)
            elif _COUNTS.search(path[-1]):
                limit = len(shapes)
            elif _WIDTHS.search(path[-1]):
                limit = max(widest, _SMALL_WIDTH)
            if limit is not None and number > limit:
                raise ValueError(
                    f"{'.'.join(path)} in config.json must be at most {limit}, got {number!r}. The "
                    f"weights file has {len(shapes)} tensors, whose longest axis is {widest}."
                )
