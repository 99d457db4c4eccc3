"""The place of a processor's pixels in the picture, against the formulas of each fit."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmfusion import FusionProcessor
from mmfusion.inference.explain_place import Box, on_picture, visible_box

SPEC = {
    "size": [96, 96],
    "channels": 3,
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.4],
    "interpolation": "bicubic",
}
TIMM = {"source": "timm", "crop_pct": 0.75, "crop_mode": "center"}
HF = {
    "source": "transformers",
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 96, "width": 96},
    "resample": 3,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.4],
}


def expected(fit: str, width: int, height: int) -> tuple[float, float, float, float]:
    """Returns the frame by the definition of a fit: what square of the picture is shown."""
    if fit in ("squash", "hf"):
        return 0, 0, width, height
    # The side of the square that the pixels show; timm cuts off a quarter of it.
    side = {"pad": max(width, height), "crop": min(width, height)}.get(fit)
    side = 0.75 * min(width, height) if side is None else side
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


@pytest.mark.parametrize("fit", ["squash", "pad", "crop", "timm", "hf"])
@pytest.mark.parametrize("size", [(300, 200), (150, 400), (1200, 900), (50, 40), (96, 96)])
def test_the_box_is_the_one_of_the_fit(fit, size):
    own = {"timm": SPEC | {"published": TIMM}, "hf": SPEC | {"published": HF}}.get(fit, SPEC)
    processor = FusionProcessor(None, own, fit="published" if own is not SPEC else fit)
    box = visible_box(processor, size)
    # Sizes are rounded to whole pixels of the processor, which are max(size) / 96 wide.
    assert box == pytest.approx(expected(fit, *size), abs=0.75 * max(1, max(size) / 96))


@pytest.mark.parametrize("fit", ["squash", "pad", "crop", "timm"])
@pytest.mark.parametrize("size", [(300, 200), (160, 400)])
def test_a_spot_comes_back_to_its_place(fit, size):
    own = SPEC | {"published": TIMM} if fit == "timm" else SPEC
    processor = FusionProcessor(None, own, fit="published" if fit == "timm" else fit)
    values = np.zeros((size[1], size[0]), np.uint8)
    # Not in the middle, and at another place in each axis.
    down, across = int(0.42 * size[1]), int(0.6 * size[0])
    values[down - 8 : down + 8, across - 8 : across + 8] = 255
    pixels = processor.pixel_values(Image.fromarray(values)).sum(0)
    heat = on_picture(pixels - pixels.min(), visible_box(processor, size), size)
    assert heat.shape == values.shape
    weights = heat / heat.sum()
    found = (weights * np.arange(size[1])[:, None]).sum(), (weights * np.arange(size[0])).sum()
    # The padding of black bars is as dark as the ground, so only the spot has heat.
    assert found == pytest.approx((down - 0.5, across - 0.5), abs=1.0)


def test_what_is_not_shown_has_no_heat():
    heat = on_picture(torch.ones(3, 3), Box(10, 0, 30, 20), (40, 20))
    assert (heat[:, :10] == 0).all() and (heat[:, 30:] == 0).all()
    np.testing.assert_allclose(heat[:, 10:30], 1, rtol=1e-6)


def test_a_very_narrow_picture_has_its_place():
    processor = FusionProcessor(None, SPEC, fit="pad")
    box = visible_box(processor, (2000, 10))
    assert (box.left, box.right) == pytest.approx((0, 2000), abs=2)
    # The picture is less than one pixel high, and a pixel is drawn.
    assert box.top < 0 and box.bottom > 10


def test_a_processor_that_shows_nothing_is_an_error(monkeypatch):
    processor = FusionProcessor(None, SPEC)
    monkeypatch.setattr(processor, "pixel_values", lambda image: torch.zeros(3, 96, 96))
    with pytest.raises(ValueError, match="processor must show a part of a picture of 9 x 8"):
        visible_box(processor, (9, 8))
