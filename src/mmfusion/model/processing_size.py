"""The check of an input spec, and the resizing of a picture to its size."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from .validation import closest

FIT = ("squash", "pad", "crop")
"""The ways in which a picture of another shape is brought to a size."""

_INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def checked_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of an input spec with integer sizes.

    Args:
        spec: `ImageEncoder.input_spec`.

    Raises:
        ValueError: if an entry is missing, unknown or wrong.
    """
    valid = {"size", "channels", "mean", "std", "interpolation"}
    for key in sorted(spec.keys() ^ valid):
        state = "lacks" if key in valid else "has an unknown"
        raise ValueError(f"input_spec {state} entry {key!r}. {closest(key, sorted(valid))}")
    if spec["interpolation"] not in _INTERPOLATION:
        names = sorted(_INTERPOLATION)
        raise ValueError(
            f"interpolation must be one of {names}, got {spec['interpolation']!r}. "
            f"{closest(spec['interpolation'], names)}"
        )
    if (
        spec["channels"] not in (1, 3)
        or len(spec["mean"]) != spec["channels"]
        or len(spec["std"]) != spec["channels"]
    ):
        raise ValueError(
            f"channels must be 1 or 3 with a mean and std for each, got {dict(spec)!r}."
        )
    return dict(spec) | {"size": [int(side) for side in spec["size"]]}


def fitted(image: Image.Image, size: Sequence[int], interpolation: str, fit: str) -> Image.Image:
    """Returns the image at `size`.

    Args:
        image: the image, in mode "L" or "RGB".
        size: [H, W] in pixels.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos".
        fit: one of `FIT`, as `FusionProcessor` describes them.
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
