"""The check of an input spec, and the resizing of a picture to its size."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from transformers.utils import logging

from .processing_published import published_of
from .validation import closest

logger = logging.get_logger(__name__)

FIT = ("squash", "pad", "crop", "published")
"""The ways in which a picture of another shape is brought to a size."""

# As many as PIL opens. A batch of more would fill the memory.
_MAX_PIXELS = 178_956_970

_INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


def checked_spec(spec: Mapping[str, Any], *, of_pictures: bool = True) -> dict[str, Any]:
    """Returns a copy of an input spec in plain Python numbers, which JSON can hold.

    Args:
        spec: `ImageEncoder.input_spec`.
        of_pictures: whether the pixels must be those of pictures, which have 1 or 3 channels. An
            encoder itself may have others.

    Raises:
        ValueError: if an entry is missing, unknown or wrong.
    """
    if not isinstance(spec, Mapping):
        raise ValueError(
            f"input_spec must be a mapping, got {spec!r}. Take the input_spec of an ImageEncoder."
        )
    needed = {"size", "channels", "mean", "std", "interpolation"}
    valid = needed | {"channel_order", "published"}
    for key in sorted(needed - spec.keys()):
        raise ValueError(f"input_spec lacks entry {key!r}. It must have {sorted(needed)}.")
    for key in sorted(spec.keys() - valid):
        raise ValueError(f"input_spec has an unknown entry {key!r}. {closest(key, sorted(valid))}")
    if spec["interpolation"] not in _INTERPOLATION:
        names = sorted(_INTERPOLATION)
        raise ValueError(
            f"interpolation must be one of {names}, got {spec['interpolation']!r}. "
            f"{closest(str(spec['interpolation']), names)}"
        )
    channels = spec["channels"]
    mean, std = (_checked_numbers(name, spec[name]) for name in ("mean", "std"))
    if (of_pictures and channels not in (1, 3)) or not (channels == len(mean) == len(std)):
        raise ValueError(
            f"channels must be 1 or 3 with a mean and std for each, got {dict(spec)!r}."
        )
    order = spec.get("channel_order", "RGB")
    if order not in ("RGB", "BGR") or (order == "BGR" and channels != 3):
        raise ValueError(
            f"channel_order must be 'RGB' or, with 3 channels, 'BGR', got {order!r}. Correct it."
        )
    checked = dict(spec) | {
        "size": _checked_size(spec["size"]),
        "channels": int(channels),
        "mean": mean,
        "std": std,
    }
    if 0.0 in checked["std"]:
        raise ValueError(
            f"std must be a number other than 0 for each channel, got {checked['std']!r}. "
            "The pixels are divided by it. 1 changes nothing."
        )
    if "published" in checked:
        # A copy that nobody else can change.
        checked["published"] = json.loads(json.dumps(spec["published"]))
    return checked


def _checked_size(size: Any) -> list[int]:
    """Returns [H, W] as plain whole numbers."""
    try:
        sides = [int(side) for side in size if side == int(side)]
    except (TypeError, ValueError, OverflowError):
        sides = []
    if len(sides) != 2 or min(sides) < 1 or math.prod(sides) > _MAX_PIXELS:
        raise ValueError(
            f"size must be [H, W], two whole numbers above 0 with at most {_MAX_PIXELS} pixels, "
            f"got {size!r}."
        )
    return sides


def _checked_numbers(name: str, values: Any) -> list[float]:
    """Returns mean or std as plain finite numbers."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        numbers = [math.nan]
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{name} must be a finite number for each channel, got {values!r}.")
    return numbers


def checked_fit(fit: str | None, spec: Mapping[str, Any] | None) -> str:
    """Returns how pictures are brought to the size of an input spec.

    Args:
        fit: one of `FIT`; None means "published" where the spec has that entry, else "squash".
        spec: the checked input spec; None for a processor of texts alone.

    Raises:
        ValueError: for an unknown `fit`, or if the published preprocessing does not do what the
            spec says.
    """
    has_published = spec is not None and "published" in spec
    if fit is None:
        fit = "published" if has_published else "squash"
    own = [name for name in FIT if name != "published"]
    if fit not in FIT:
        raise ValueError(f"fit must be one of {list(FIT)}, got {fit!r}. {closest(fit, list(FIT))}")
    if fit != "published":
        return fit
    if spec is None or not has_published:
        raise ValueError(
            f"fit must be one of {own} without published preprocessing, got 'published'. "
            "Load published weights by name, or choose one of these."
        )
    published = published_of(spec)
    measured = published.measured
    if measured.size is None:
        raise ValueError(
            f"fit must be one of {own} for this checkpoint, got 'published': the size of the "
            f"pixels that {published.name} gives changes with the picture. Choose one of these."
        )
    same = (
        measured.size == spec["size"]
        and measured.channel_order == spec.get("channel_order", "RGB")
        and np.allclose(measured.mean, spec["mean"], rtol=1e-4, atol=1e-4)
        and np.allclose(measured.std, spec["std"], rtol=1e-4, atol=1e-6)
    )
    # Either somebody changed the spec, or another version of the library does another thing.
    if not same:
        raise ValueError(
            f"input_spec must agree with its published preprocessing, got {spec!r}, while "
            f"{published.name} gives {measured!r}. Pass fit='squash', 'pad' or 'crop', or install "
            "the version of the library that the spec was made with."
        )
    if measured.crops:
        logger.warning_once(
            f"The checkpoint's own preprocessing ({published.name}) cuts off the borders of "
            "pictures. Pass fit='pad' or fit='squash' to the processor to keep them."
        )
    return fit


def fitted(image: Image.Image, size: Sequence[int], interpolation: str, fit: str) -> Image.Image:
    """Returns the image at `size`.

    Args:
        image: the image, in mode "L" or "RGB".
        size: [H, W] in pixels.
        interpolation: "nearest", "bilinear", "bicubic", "lanczos", "box" or "hamming".
        fit: "squash", "pad" or "crop", as `FusionProcessor` describes them.
    """
    height, width = size
    resampling = _INTERPOLATION[interpolation]
    if fit == "squash":
        return image.resize((width, height), resampling)
    ratios = width / image.width, height / image.height
    scale = min(ratios) if fit == "pad" else max(ratios)
    wide, high = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if fit == "crop":
        # Resize only the part that is kept. The whole of a very long picture would be enormous.
        left, top = (wide - width + 1) // 2, (high - height + 1) // 2
        across, down = image.width / wide, image.height / high
        kept = (left * across, top * down, (left + width) * across, (top + height) * down)
        # Rounding may put an end of the box a little outside of the picture.
        box = (*kept[:2], min(kept[2], image.width), min(kept[3], image.height))
        return image.resize((width, height), resampling, box=box)
    scaled = image.resize((wide, high), resampling)
    # A new canvas is black.
    canvas = Image.new(image.mode, (width, height))
    canvas.paste(scaled, ((width - wide) // 2, (height - high) // 2))
    return canvas


def normalised(image: Image.Image, spec: Mapping[str, Any]) -> Tensor:
    """Returns the pixels [C, H, W] of an image of the right size: (p / 255 - mean) / std.

    Args:
        image: the image, in mode "L" or "RGB".
        spec: the checked input spec.
    """
    array = np.asarray(image, dtype=np.float32) / 255
    if spec.get("channel_order") == "BGR":
        array = np.ascontiguousarray(array[..., ::-1])
    # A grey image has no axis of channels.
    tensor = torch.from_numpy(array[..., None] if array.ndim == 2 else array)
    return rearrange(
        (tensor - torch.tensor(spec["mean"])) / torch.tensor(spec["std"]), "h w c -> c h w"
    )
