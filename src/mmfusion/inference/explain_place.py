"""Where the pixels of a processor lie in the picture that they were made of."""

from typing import NamedTuple, final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..model.processing import FusionProcessor

# Grey values outside of this range may be changed by the filters at the borders of a picture.
_INNER = (0.06, 0.94)


@final
class Box(NamedTuple):
    """The frame of a processor's pixels, in pixels of the picture.

    The frame of a padded picture is larger than the picture, the frame of a cropped one smaller.

    Attributes:
        left: the left border; 0 is the left border of the picture.
        top: the upper border.
        right: the right border.
        bottom: the lower border.
    """

    left: float
    top: float
    right: float
    bottom: float


def visible_box(processor: FusionProcessor, size: tuple[int, int]) -> Box:
    """Returns where the pixels that a processor makes of a picture lie in the picture.

    It is measured: pictures whose grey value is the place of a pixel are given to the processor. So
    it holds for each `fit`, also for the preprocessing of a checkpoint that is not known here.

    Args:
        processor: a processor with an image part.
        size: width and height of the picture.

    Raises:
        ValueError: if the processor shows nothing of such a picture.

    Example:
        >>> from mmfusion import ImageEncoder
        >>> encoder = ImageEncoder("resnet10t", pretrained=False)
        >>> processor = FusionProcessor.from_encoders(encoder, None, fit="pad")
        >>> [round(side) for side in visible_box(processor, (200, 100))]
        [0, -50, 200, 150]
    """
    black = processor.pixel_values(Image.new("L", size, 0))
    white = processor.pixel_values(Image.new("L", size, 255))
    span = (white - black).mean(0)
    # Where black and white pictures give the same pixels there is padding.
    shown = span.abs() > span.abs().max() / 2
    if not shown.any() or float(span.abs().max()) == 0:
        raise ValueError(
            f"processor must show a part of a picture of {size[0]} x {size[1]} pixels, "
            "got pixels that do not change with the picture. Choose another fit."
        )
    # Only the inner pixels: a filter mixes those at the border with the padding.
    borders = []
    for axis, length in enumerate(size):
        places, low, high = shown.any(axis).nonzero().flatten(), 0.0, float(length)
        # The second ramp covers only what the first one showed, so 256 greys are enough.
        for _ in range(2):
            ramp = processor.pixel_values(_ramp(size, axis, low, high))
            share = torch.where(shown, (ramp - black).mean(0) / span, 0.0)
            share = share.sum(axis) / shown.sum(axis).clamp(min=1)
            start, stop = _borders(places, share, low, high, shown.shape[1 - axis])
            low, high = max(0.0, start), min(float(length), stop)
        borders.append((start, stop))
    (left, right), (top, bottom) = borders
    return Box(left, top, right, bottom)


def _ramp(size: tuple[int, int], axis: int, low: float, high: float) -> Image.Image:
    """Returns a picture that is black at place `low` of an axis and white at place `high`."""
    width, height = size
    places = np.arange(size[axis]) + 0.5
    greys = np.clip((places - low) / (high - low), 0, 1) * 255
    row = np.rint(greys).astype(np.uint8)
    values = row[None, :] if axis == 0 else row[:, None]
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(values, (height, width))))


def _borders(
    places: Tensor, share: Tensor, low: float, high: float, length: int
) -> tuple[float, float]:
    """Returns where an axis of the pixels begins and ends, in pixels of the picture."""
    inner = [int(at) for at in places if _INNER[0] < float(share[at]) < _INNER[1]]
    if len(inner) < 3:
        # Too few pixels for a line: the whole side of a narrow picture lies in these places.
        first, scale = int(places[0]), (high - low) / len(places)
        return low - first * scale, low + (length - first) * scale
    at = np.asarray(inner) + 0.5
    scale, start = np.polyfit(at, low + share[inner].double().numpy() * (high - low), 1)
    return float(start), float(start + scale * length)


def on_picture(grid: Float[Tensor, "h w"], box: Box, size: tuple[int, int]) -> NDArray[np.float32]:
    """Returns a map over the processor's pixels as a map over the picture [H, W].

    Values between the centres of two cells are interpolated. What the pixels do not show is 0.

    Args:
        grid: one value per cell, the cells together being the frame of the pixels.
        box: where that frame lies.
        size: width and height of the picture.

    Example:
        >>> on_picture(torch.tensor([[0.0, 1.0]]), Box(0, 0, 4, 1), (4, 1)).tolist()
        [[0.0, 0.25, 0.75, 1.0]]
    """
    width, height = size
    across = _normalised(width, box.left, box.right)
    down = _normalised(height, box.top, box.bottom)
    places = torch.stack([across.expand(height, -1), down.unsqueeze(1).expand(-1, width)], dim=-1)
    values = F.grid_sample(
        grid[None, None].float().cpu(),
        places.unsqueeze(0),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )[0, 0]
    shown = (across.abs() <= 1)[None, :] & (down.abs() <= 1)[:, None]
    return torch.where(shown, values, 0.0).numpy()


def _normalised(length: int, start: float, stop: float) -> Tensor:
    """Returns the centres of the pixels of a side, as -1 .. 1 between the borders of a frame."""
    centres = torch.arange(length, dtype=torch.float32) + 0.5
    return 2 * (centres - start) / (stop - start) - 1
