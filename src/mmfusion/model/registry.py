"""The users' own backbones by name, so that classifiers with them can be saved and rebuilt."""

from collections.abc import Callable
from typing import Any

from torch import nn

from .validation import closest

# Global, because a saved config holds only the name, and from_pretrained takes no factories.
_CUSTOM: dict[str, Callable[..., nn.Module]] = {}


def register_backbone(name: str, factory: Callable[..., nn.Module]) -> None:
    """Registers a backbone of your own by name, so that its classifiers can be saved and rebuilt.

    The module must have its width as the attribute `dim`. The forward of an image backbone takes
    `pixel_values` [B, C, H, W]. The forward of a text backbone takes `input_ids` and
    `attention_mask` [B, L]. Both may return tokens [B, N, D], one vector per sample [B, D] or an
    `Encoded`. One vector is then the only token. An image backbone may also return a feature map
    [B, D, H, W]. If the constructor takes options, the method
    `get_config()` must return them. An image backbone may have an `input_spec` (see
    `ImageEncoder.input_spec`).

    Args:
        name: the name that saved classifiers use for it.
        factory: the class or function that builds it from its options.

    Raises:
        ValueError: if another factory has the name.

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
    """Returns whether a backbone is registered as `name`.

    Args:
        name: the name.
    """
    return name in _CUSTOM


def registered_name(module: nn.Module) -> str:
    """Returns the name under which the class of `module` is registered.

    Args:
        module: the backbone.

    Raises:
        ValueError: if the class is not registered.
    """
    for name, factory in _CUSTOM.items():
        if factory is type(module):
            return name
    raise ValueError(
        f"backbone must be of a registered class, got {type(module).__name__}. "
        f"Call register_backbone('a-name', {type(module).__name__}) first, so that the classifier "
        "can be saved and rebuilt."
    )


def custom_backbone(name: str, **options: Any) -> nn.Module:
    """Returns a backbone that the factory registered as `name` builds.

    Args:
        name: the registered name.
        **options: what the factory takes.

    Raises:
        ValueError: if no such name is registered.
    """
    if name not in _CUSTOM:
        raise ValueError(
            f"name must be a registered backbone, got {name!r}. "
            f"{closest(name, list(_CUSTOM)) if _CUSTOM else ''} "
            "Call register_backbone before building or loading."
        )
    return _CUSTOM[name](**options)
