"""timm models by name: built without their classifier and without a head that the library does not use."""

from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.data.config import resolve_model_data_config
from timm.models import load_model_config_from_hf, parse_model_name
from timm.models._hub import load_model_config_from_path
from torch import nn

from .graph import evaluating
from .validation import closest


def build_timm(
    name: str, pretrained: bool, options: dict[str, Any]
) -> tuple[nn.Module, str, dict[str, Any]]:
    """A timm backbone, and the `architecture` and `options` from which it is rebuilt without network.

    Args:
        name: a timm model, `timm/...`, `hf-hub:owner/model` or `local-dir:/a/folder`.
        pretrained: whether to load the published weights.
        options: what timm.create_model takes for this model.

    Raises:
        ValueError: for a name timm does not know, or an option the model does not take.
    """
    if name.startswith("timm/"):
        name = f"hf-hub:{name}"
    scheme, location = parse_model_name(name)
    architecture, options = name, dict(options)
    if scheme:
        architecture, published = _described(name, scheme, location)
        options = published | options
    elif not timm.is_model(name):
        raise ValueError(
            f"image encoder must be a timm model, a transformers checkpoint (a name with a slash) or a folder, got {name!r}. "
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
            f"name must be a timm model whose weights can be read and fit, got {name!r}: {str(error).splitlines()[0]} "
            "Pass pretrained=False, or weights=a file."
        ) from error
    _drop_unused_head(model)
    return model, architecture, options


def _described(name: str, scheme: str, location: str) -> tuple[str, dict[str, Any]]:
    """The architecture and options that a hub repository or a folder names in its config.json."""
    read = load_model_config_from_hf if scheme == "hf-hub" else load_model_config_from_path
    try:
        _, architecture, options = read(location)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"name must be a timm model on the hub or in a folder, got {name!r}, whose config.json could not be read: "
            f"{str(error).splitlines()[0]}"
        ) from error
    # Here a backbone is built without its classifier, whatever number of classes it was published
    # with.
    return architecture, {
        key: value for key, value in (options or {}).items() if key != "num_classes"
    }


def timm_input_spec(model: nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """Size, channels, mean, std and interpolation that a timm model was made for.

    Args:
        model: the model.
        options: what it was made with; an `img_size` among them goes before the published size.
    """
    data = resolve_model_data_config(model)
    channels, height, width = data["input_size"]
    size = options.get("img_size")
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
    first = next(model.parameters())
    channels = getattr(model, "in_chans", channels if first.ndim != 4 else None) or channels
    mean, std = list(data["mean"]), list(data["std"])
    if channels != len(mean):
        mean, std = [sum(mean) / len(mean)] * channels, [sum(std) / len(std)] * channels
    return {
        "size": [height, width],
        "channels": channels,
        "mean": mean,
        "std": std,
        "interpolation": data["interpolation"],
    }


def _drop_unused_head(model: Any) -> None:
    """Replace the head of a model whose pooled vector has another width than its features: nothing would train it."""
    if getattr(model, "head_hidden_size", model.num_features) == model.num_features:
        return
    called: set[str] = set()
    handles = [
        child.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, part in model.named_children()
        for child in part.modules()
    ]
    with evaluating(model), torch.no_grad():
        first = next(model.parameters())
        model.forward_features(
            torch.zeros(1, *resolve_model_data_config(model)["input_size"], dtype=first.dtype)
        )
    for handle in handles:
        handle.remove()
    for name, part in list(model.named_children()):
        if name not in called and any(True for _ in part.parameters()):
            setattr(model, name, nn.Identity())
