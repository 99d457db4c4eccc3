"""Backbones of the user's own, known by name so that classifiers built on them can be saved and rebuilt."""

from collections.abc import Callable
from typing import Any

from torch import nn

from .validation import closest

_CUSTOM: dict[str, Callable[..., nn.Module]] = {}


def register_backbone(name: str, factory: Callable[..., nn.Module]) -> None:
    """Make a backbone of your own known by name, so that classifiers built on it can be saved and rebuilt.

    The module declares its width as `dim`; its forward takes `pixel_values` [B, C, H, W] (image) or
    `input_ids` and `attention_mask` [B, L] (text) and returns tokens [B, N, D], a feature map [B,
    D, H, W] or an `Encoded`. Where its constructor takes
    options, `get_config()` returns them. An image backbone may declare an `input_spec` (see
    `ImageEncoder.input_spec`).

    Args:
        name: the name it is saved under.
        factory: the class, or a function, that builds it from its options.

    Raises:
        ValueError: when the name is taken by another factory.

    Example:
        >>> import torch
        >>> class Tiny(torch.nn.Module):
        ...     dim = 4
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv = torch.nn.Conv2d(3, 4, 8, stride=8)
        ...     def forward(self, pixel_values):
        ...         return self.conv(pixel_values)
        >>> register_backbone("doctest-tiny", Tiny)
        >>> from mmfusion import ImageEncoder
        >>> ImageEncoder(Tiny()).dim
        4
    """
    if _CUSTOM.get(name, factory) is not factory:
        raise ValueError(
            f"name must be new, got {name!r}, which {_CUSTOM[name]!r} has. Choose another name."
        )
    _CUSTOM[name] = factory


def is_registered(name: str) -> bool:
    """Whether a backbone is registered as `name`."""
    return name in _CUSTOM


def registered_name(module: nn.Module) -> str:
    """The name under which the class of `module` is registered.

    Raises:
        ValueError: when it is not registered.
    """
    for name, factory in _CUSTOM.items():
        if factory is type(module):
            return name
    raise ValueError(
        f"backbone must be of a registered class, got {type(module).__name__}. "
        f"Call register_backbone('a-name', {type(module).__name__}) first, so that the classifier can be saved and rebuilt."
    )


def custom_backbone(name: str, **options: Any) -> nn.Module:
    """A backbone built by the factory registered as `name`.

    Raises:
        ValueError: when no such name is registered.
    """
    if name not in _CUSTOM:
        raise ValueError(
            f"name must be a registered backbone, got {name!r}. {closest(name, list(_CUSTOM)) if _CUSTOM else ''} "
            "Call register_backbone before building or loading."
        )
    return _CUSTOM[name](**options)
