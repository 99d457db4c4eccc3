"""Low-rank adapters inside a backbone (LoRA): where they are put, merged and checked.

Source: Hu et al. 2021, LoRA (arXiv 2106.09685); done by peft.
"""

import sys
from typing import Any

from torch import nn


def default_targets(module: nn.Module) -> list[str]:
    """Returns the names of the modules that get an adapter if the user names none.

    They are every linear layer, or every ungrouped convolution of a backbone without linear layers.

    Args:
        module: the backbone.
    """
    linear = [name for name, inner in module.named_modules() if isinstance(inner, nn.Linear)]
    convolutions = [
        name
        for name, inner in module.named_modules()
        if isinstance(inner, nn.Conv2d) and inner.groups == 1
    ]
    return linear or convolutions


def has_adapters(module: nn.Module) -> bool:
    """Returns whether there are layers of peft inside a backbone.

    Args:
        module: the backbone.
    """
    return bool(_adapted(module))


def merge_adapters(module: nn.Module) -> None:
    """Adds the adapters to the weights beside them, and takes the adapters away.

    Args:
        module: the backbone.
    """
    for name, layer in _adapted(module).items():
        if not layer.merged:
            layer.merge()
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, layer.get_base_layer())


def check_adapters(module: nn.Module, *, described: bool) -> bool:
    """Returns whether a backbone has adapters, after a check that it can be saved with them.

    Args:
        module: the backbone.
        described: whether its config describes adapters.

    Raises:
        ValueError: if the adapters are part of the weights already, or the config does not describe
            them. A saved model would come back with other weights.
    """
    layers = _adapted(module)
    merged = [name for name, layer in layers.items() if layer.merged]
    if merged:
        raise ValueError(
            f"adapters must be apart from the weights when a model is saved, got {len(merged)} "
            f"merged ones ({merged[0]} first). Call merge_lora() to keep the sum alone, or "
            "unmerge_adapter() of peft."
        )
    if layers and not described:
        raise ValueError(
            f"adapters must be made by add_lora to be saved, got {len(layers)} of another origin "
            f"({next(iter(layers))} first). Save them with peft, or call merge_lora()."
        )
    return bool(layers)


def _adapted(module: nn.Module) -> dict[str, Any]:
    """Returns the layers of peft inside a module, by their names."""
    # peft takes long to import, and without it there are no layers of it.
    peft: Any = sys.modules.get("peft.tuners.tuners_utils")
    if peft is None:
        return {}
    return {
        name: inner
        for name, inner in module.named_modules()
        if isinstance(inner, peft.BaseTunerLayer)
    }
