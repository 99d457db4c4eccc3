"""The preprocessing that a checkpoint was published with, run by the library that published it.

Image processors of transformers have flags and sizes of their own (BGR, rescaling with an offset,
cropping by a share, padding, rounding of sizes). To read these settings one by one means to miss
some of them. So the picture is handed to the checkpoint's own processor, whose settings are part
of the input spec. What the spec says in numbers is measured on pictures of one colour.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from .images_base import image_error

MAX_SIDE = 16_384
"""The largest number of pixels of a side in the settings of an image processor."""

# A crop first scales the shorter side. A very long picture would fill the memory there.
_MAX_SCALED_PIXELS = 2**26
_LEAST_SHARE = 0.05
# Pictures (width, height) of many shapes. Some processors cut large or long ones into parts.
_SHAPES = ((64, 48), (48, 64), (300, 40), (40, 300), (640, 480), (1200, 900))
_COLOURS = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 100, 50))
_KNOWN_SOURCES = ("timm", "transformers")


@final
@dataclass(frozen=True)
class Measured:
    """What pictures of known colours and shapes show of a preprocessing.

    Attributes:
        size: [H, W] of its pixels; None if it changes with the shape of the picture.
        mean: m of each channel of the pixels, which are (p / 255 - m) / s for a colour p.
        std: s of each channel.
        channel_order: "RGB" or "BGR".
        crops: whether the left and right borders of a picture are lost.
    """

    size: list[int] | None
    mean: list[float]
    std: list[float]
    channel_order: str
    crops: bool


@final
class Published:
    """The published preprocessing of an input spec: PIL image in, pixels [C, H, W] out.

    Args:
        spec: an input spec with the entry `published`.

    Raises:
        ValueError: if no such preprocessing exists, or if it does not give one picture of one size.
            The message names it and the reason.
    """

    def __init__(self, spec: Mapping[str, Any]):
        published, self.channels = spec["published"], spec["channels"]
        if not isinstance(published, Mapping) or published.get("source") not in _KNOWN_SOURCES:
            raise ValueError(
                f"published must come from one of {list(_KNOWN_SOURCES)}, got {published!r}. "
                "Take the input_spec of an ImageEncoder."
            )
        is_timm = published["source"] == "timm"
        self.name = (
            "timm's evaluation transform" if is_timm else str(published.get("image_processor_type"))
        )
        _check_numbers(self.name, published)
        self._call = _timm_call(self.name, spec) if is_timm else _transformers_call(published)
        self.measured = self._measure()

    def __call__(self, image: Image.Image) -> Tensor:
        """Returns the pixels [C, H, W] of a picture.

        Args:
            image: the picture in mode "L" or "RGB", as the number of channels asks.

        Raises:
            ImageError: if the processor refuses a picture of this shape.
        """
        size = self.measured.size
        assert size is not None
        named = f"<picture of {image.width} x {image.height} pixels>"
        advice = "Pass fit='squash', 'pad' or 'crop' to the processor, or crop the picture."
        ratio = max(image.size) / min(image.size)
        area = max(size) ** 2
        if self.measured.crops and ratio * area > max(_MAX_SCALED_PIXELS, 32 * area):
            got = f"sides of {ratio:.0f} to 1, which fill the memory when the shorter is scaled"
            raise image_error(named, f"of a shape that {self.name} can crop", got, advice)
        try:
            prepared = self._pixels(image)
        except Exception as error:
            reason = _first_line(error)
            raise image_error(named, f"what {self.name} takes", reason, advice) from error
        if list(prepared.shape[1:]) != size:
            got = f"{list(prepared.shape[1:])}"
            raise image_error(named, f"brought to {size} by {self.name}", got, advice)
        return prepared

    def _pixels(self, image: Image.Image) -> Tensor:
        """Returns the pixels [C, H, W] of a picture, of whatever size."""
        outputs = self._call(image)
        if not isinstance(outputs, Mapping) or "pixel_values" not in outputs:
            names = sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
            raise ValueError(f"it gives {names} in the place of pixel_values")
        pixels = torch.as_tensor(outputs["pixel_values"])
        if pixels.ndim != 4 or tuple(pixels.shape[:2]) != (1, self.channels):
            raise ValueError(
                f"it gives an array {list(pixels.shape)}, which is not one picture "
                f"[1, {self.channels}, H, W]"
            )
        for name, value in outputs.items():
            # A mask of ones says nothing. Everything else would be lost.
            if (
                name != "pixel_values"
                and "pixel" in name
                and not torch.as_tensor(value).eq(1).all()
            ):
                raise ValueError(f"it gives {name} too, which an image encoder does not take")
        return pixels[0].float()

    def _measure(self) -> Measured:
        """Returns what pictures of known colours and shapes show."""
        try:
            shapes = [list(self._pixels(self._picture(*side)).shape[1:]) for side in _SHAPES]
            # A picture of the size of the pixels, so that a processor pads nothing.
            mean, std, order = self._statistics(*reversed(shapes[0]))
            crops = self._loses_borders()
        except Exception as error:
            # Processors raise what they like, for example KeyError where a second input is missing.
            raise _refusal(self.name, _first_line(error)) from error
        same = all(shape == shapes[0] for shape in shapes)
        return Measured(shapes[0] if same else None, mean, std, order, crops)

    def _picture(
        self, width: int, height: int, colour: tuple[int, int, int] = (128, 128, 128)
    ) -> Image.Image:
        image = Image.new("RGB", (width, height), colour)
        return image.getchannel("R") if self.channels == 1 else image

    def _statistics(self, width: int, height: int) -> tuple[list[float], list[float], str]:
        """Returns mean and std of each channel, and their order, from pictures of one colour."""
        maps = [self._pixels(self._picture(width, height, one)) for one in _COLOURS]
        # Where black and grey differ most there is a picture, and not the padding of a processor.
        place = (maps[-1] - maps[0]).abs().sum(0).flatten().argmax()
        seen = [one.flatten(1)[:, place].double() for one in maps]
        black, mixed = seen[0], seen[-1]
        # slopes[i, j]: how channel j of the pixels follows channel i of the picture.
        slopes = (torch.stack(seen[1 : 1 + self.channels]) - black) / 255
        reverse = self.channels == 3 and slopes[0, 0].abs() < slopes[0, 2].abs()
        own = (slopes.flip(0) if reverse else slopes).diagonal()
        colour = torch.tensor(_COLOURS[-1][: self.channels]).double()
        expected = black + own * (colour.flip(0) if reverse else colour)
        if not (own.abs() > 1e-9).all() or not torch.allclose(expected, mixed, atol=1e-3):
            raise ValueError(
                "its pixels are not (p / 255 - mean) / std of the colours of a picture"
            )
        std = 1 / (255 * own)
        # Adding 0 turns -0 into 0.
        return (-black * std + 0).tolist(), std.tolist(), "BGR" if reverse else "RGB"

    def _loses_borders(self) -> bool:
        """Returns whether white borders on the left and the right cannot be seen in the pixels."""
        width, height = _SHAPES[-1]
        values = np.zeros((height, width), np.uint8)
        black = self._pixels(self._picture(width, height, (0, 0, 0)))
        values[:, : width // 64] = values[:, -(width // 64) :] = 255
        framed = Image.fromarray(values).convert("L" if self.channels == 1 else "RGB")
        pixels = self._pixels(framed)
        return pixels.shape == black.shape and torch.equal(pixels, black)


def published_of(spec: Mapping[str, Any]) -> Published:
    """Returns the published preprocessing of an input spec, which is built and measured once.

    Args:
        spec: an input spec with the entry `published`.

    Raises:
        ValueError: as `Published` raises it.
    """
    return _published(json.dumps(dict(spec), sort_keys=True))


@lru_cache(maxsize=16)
def _published(spec: str) -> Published:
    return Published(json.loads(spec))


def _timm_call(name: str, spec: Mapping[str, Any]) -> Callable[[Image.Image], Mapping[str, Any]]:
    """Returns timm's transform for evaluation, as its model cards build it."""
    from timm.data.transforms_factory import create_transform

    published = spec["published"]
    if published.keys() != {"source", "crop_pct", "crop_mode"} or not isinstance(
        published["crop_pct"], int | float
    ):
        raise _refusal(name, f"its entries are {dict(published)}, not a crop_pct and a crop_mode")
    transform: Any = create_transform(
        input_size=(spec["channels"], *spec["size"]),
        interpolation=spec["interpolation"],
        mean=tuple(spec["mean"]),
        std=tuple(spec["std"]),
        crop_pct=published["crop_pct"],
        crop_mode=published["crop_mode"],
        is_training=False,
    )
    return lambda image: {"pixel_values": rearrange(transform(image), "c h w -> 1 c h w")}


def _transformers_call(
    published: Mapping[str, Any],
) -> Callable[[Image.Image], Mapping[str, Any]]:
    """Returns the call of an image processor of transformers, rebuilt from its settings."""
    import transformers
    from transformers import BaseImageProcessor

    settings = {key: value for key, value in published.items() if key != "source"}
    name = settings.pop("image_processor_type", None)
    kind: Any = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, BaseImageProcessor)):
        raise ValueError(
            "image_processor_type must be an image processor of the installed transformers "
            f"{transformers.__version__}, got {name!r}. Install the version that it was saved with."
        )
    if settings.get("class_info_file"):
        # OneFormer's would be read from a hub.
        raise _refusal(name, "it reads another file")
    try:
        processor: Any = kind(**settings)
    except Exception as error:
        raise _refusal(name, _first_line(error)) from error
    # The words on a picture are not part of the pixels, and to read them needs another program.
    options: dict[str, Any] = {"return_tensors": "pt"}
    if hasattr(processor, "apply_ocr"):
        options["apply_ocr"] = False
    return lambda image: processor(images=image, **options)


def _check_numbers(name: str, published: Mapping[str, Any]) -> None:
    """Raises if a size in the settings would fill the memory.

    A saved file may come from anybody.
    """
    for key, number in _numbers(published):
        is_side = any(word in key for word in ("size", "height", "width", "edge"))
        # `max_pixels` is an area, also where it is a part of `size`.
        limit = _MAX_SCALED_PIXELS if key.endswith("pixels") else MAX_SIDE
        if is_side and number > limit:
            raise _refusal(name, f"its {key} of {number} is more than {limit} pixels")
        # The shorter side is scaled to the size divided by this share.
        if key == "crop_pct" and not _LEAST_SHARE <= number <= 2:
            raise _refusal(name, f"its {key} of {number} is not from {_LEAST_SHARE} to 2")


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Yields the numbers of nested settings with the names under which they stand."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, key)
    elif isinstance(value, int | float):
        yield key, value


def _refusal(name: Any, reason: str) -> ValueError:
    """Returns the error of an image processor that cannot be used, with the reason."""
    return ValueError(
        f"image processor must give one picture for one picture, got {name}, which does not: "
        f"{reason}."
    )


def _first_line(error: Exception) -> str:
    """Returns the first line of an error, with its kind where it was not meant for users."""
    parts = error.args[0] if error.args and isinstance(error.args[0], tuple) else [str(error)]
    lines = "".join(map(str, parts)).strip().splitlines()
    text = lines[0].rstrip(".") if lines else ""
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
