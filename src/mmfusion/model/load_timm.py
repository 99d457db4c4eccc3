"""timm models by name, built without their classifier and without a head that is not used."""

from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.data.config import resolve_model_data_config
from timm.models import load_model_config_from_hf, parse_model_name
from timm.models._hub import load_model_config_from_path
from torch import nn

from .graph import evaluating
from .validation import closest, plain_value


def build_timm(
    name: str, pretrained: bool, options: dict[str, Any]
) -> tuple[nn.Module, str, dict[str, Any]]:
    """Returns a timm backbone, and the `architecture` and `options` that rebuild it offline.

    Args:
        name: a timm model, `timm/...`, `hf-hub:owner/model` or `local-dir:/a/folder`.
        pretrained: whether to load the published weights.
        options: the keyword arguments that timm.create_model takes for this model.

    Raises:
        ValueError: for a name that timm does not know, for an option that the model does not take,
            or for weights that cannot be read or do not fit.
    """
    if name.startswith("timm/"):
        name = f"hf-hub:{name}"
    scheme, location = parse_model_name(name)
    architecture, options = name, plain_value(dict(options))
    # A model on the hub or in a folder is rebuilt later from the architecture and the options of
    # its config.json, because the hub or the folder may be out of reach then.
    if scheme:
        architecture, published = _described(name, scheme, location)
        options = published | options
    elif not timm.is_model(name):
        raise ValueError(
            "image encoder must be a timm model, a transformers checkpoint (a name with a slash) "
            f"or a folder, got {name!r}. "
            f"{closest(name, timm.list_models(pretrained=False))[:300]}"
        )
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except TypeError as error:
        raise ValueError(
            f"backbone_options must be what {name!r} takes, got {sorted(options)}: {error}."
        ) from error
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"name must be a timm model whose weights can be read and fit, got {name!r}: "
            f"{str(error).splitlines()[0]} Pass pretrained=False, or weights=a file."
        ) from error
    published, _, _ = resolve_model_data_config(model)["input_size"]
    channels = options.get("in_chans", published)
    if channels != published:
        _check_channels(architecture, options)
    _drop_unused_head(model, channels)
    return model, architecture, options


def _described(name: str, scheme: str, location: str) -> tuple[str, dict[str, Any]]:
    """Returns the architecture and options in the config.json of a hub repository or a folder."""
    read_config = load_model_config_from_hf if scheme == "hf-hub" else load_model_config_from_path
    try:
        _, architecture, options = read_config(location)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"name must be a timm model on the hub or in a folder, got {name!r}, "
            f"whose config.json could not be read: {str(error).splitlines()[0]}"
        ) from error
    # The published number of classes is left out, because a backbone has no classifier here.
    return architecture, {
        key: value for key, value in (options or {}).items() if key != "num_classes"
    }


def _check_channels(architecture: str, options: dict[str, Any]) -> None:
    """Refuses a number of channels that a model accepts but cannot run with.

    A twin without weights is run on the meta device, which computes shapes alone.
    """
    with torch.device("meta"), torch.no_grad():
        twin: Any = timm.create_model(architecture, pretrained=False, num_classes=0, **options)
        channels, size = options["in_chans"], resolve_model_data_config(twin)["input_size"]
        try:
            twin.eval().forward_features(torch.zeros(1, channels, *size[1:]))
        except RuntimeError as error:
            raise ValueError(
                f"in_chans must be what {architecture!r} can run with, got {channels!r}: "
                f"{str(error).splitlines()[0]}. Leave it out."
            ) from error


def _drop_unused_head(model: Any, channels: int) -> None:
    """Replaces a head whose pooled vector has another width than the features.

    Such a pooled vector is not used, so nothing would train the head.

    Args:
        model: the model.
        channels: how many its pictures have.
    """
    if getattr(model, "head_hidden_size", model.num_features) == model.num_features:
        return
    # No attribute names the modules of a head. They are those that forward_features does not call.
    called: set[str] = set()
    handles = [
        child.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, part in model.named_children()
        for child in part.modules()
    ]
    with evaluating(model), torch.no_grad():
        first = next(model.parameters())
        _, height, width = resolve_model_data_config(model)["input_size"]
        model.forward_features(torch.zeros(1, channels, height, width, dtype=first.dtype))
    for handle in handles:
        handle.remove()
    for name, part in list(model.named_children()):
        if name not in called and any(True for _ in part.parameters()):
            setattr(model, name, nn.Identity())
