"""Checks that the inputs of a forward pass are tensors with the axes that models take."""

from collections.abc import Mapping

from torch import Tensor

AXES = {"pixel_values": "B, C, H, W", "input_ids": "B, L", "attention_mask": "B, L"}
"""The axes of an encoder's inputs."""

AXES_OF_PARTS = {
    "pixel_values": "B, V, C, H, W",
    "input_ids": "B, W, L",
    "attention_mask": "B, W, L",
}
"""The axes where a sample has several pictures, or a text several windows."""


def check_axes(tensors: Mapping[str, object], *, parts: bool) -> None:
    """Refuses pixels, token ids and masks that are no tensors or have other axes.

    Args:
        tensors: input name -> tensor or None; inputs with other names are passed over.
        parts: whether a sample may have several pictures, or a text several windows.

    Raises:
        TypeError: for what is no tensor.
        ValueError: for other axes, or a mask of another shape than the token ids.

    Example:
        >>> import torch
        >>> check_axes({"pixel_values": torch.zeros(3, 64, 64)}, parts=False)
        Traceback (most recent call last):
            ...
        ValueError: pixel_values must be [B, C, H, W], got the shape (3, 64, 64). One sample is a
        batch of one: pixel_values[None].
    """
    for name, axes in AXES.items():
        value = tensors.get(name)
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name} must be a tensor of torch, got {type(value).__name__}. torch.as_tensor "
                "makes one."
            )
        allowed = [axes, AXES_OF_PARTS[name]] if parts else [axes]
        numbers = [len(one.split(",")) for one in allowed]
        if value.ndim not in numbers:
            wanted = " or ".join(f"[{one}]" for one in allowed)
            lacks_one = value.ndim + 1 in numbers
            hint = f" One sample is a batch of one: {name}[None]." if lacks_one else ""
            raise ValueError(f"{name} must be {wanted}, got the shape {tuple(value.shape)}.{hint}")
    ids, mask = tensors.get("input_ids"), tensors.get("attention_mask")
    if isinstance(ids, Tensor) and isinstance(mask, Tensor) and ids.shape != mask.shape:
        raise ValueError(
            f"attention_mask must have the shape of input_ids, {tuple(ids.shape)}, got "
            f"{tuple(mask.shape)}."
        )
