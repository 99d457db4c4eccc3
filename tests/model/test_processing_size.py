"""The check of an input spec, and the ways in which a picture is brought to its size."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmfusion.model.processing import FusionProcessor
from mmfusion.model.processing_size import checked_spec, fitted

COLOUR = {"channels": 3, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
SPEC = {"size": [8, 12], "interpolation": "bilinear"} | COLOUR


def picture(width: int = 24, height: int = 10, mode: str = "RGB") -> Image.Image:
    array = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(array).convert(mode)


RAW = {"size": [6, 6], "channels": 1, "mean": [0.0], "std": [1.0], "interpolation": "nearest"}


def halves(width: int, height: int) -> Image.Image:
    """Returns a picture that is black on the left and white on the right."""
    array = np.zeros((height, width), np.uint8)
    array[:, width // 2 :] = 255
    return Image.fromarray(array)


def test_squash_takes_each_side_by_itself() -> None:
    pixels = FusionProcessor(input_spec=RAW)(images=halves(12, 6))["pixel_values"][0, 0]
    assert pixels.tolist() == [[0, 0, 0, 1, 1, 1]] * 6


def test_pad_keeps_the_shape_and_adds_black() -> None:
    pixels = FusionProcessor(input_spec=RAW, fit="pad")(images=Image.new("L", (12, 6), 255))[
        "pixel_values"
    ][0, 0]
    assert pixels.mean(1).tolist() == [0, 1, 1, 1, 0, 0]
    pixels = FusionProcessor(input_spec=RAW, fit="pad")(images=Image.new("L", (600, 1), 255))[
        "pixel_values"
    ][0, 0]
    assert pixels.sum() == 6


def test_crop_keeps_the_shape_and_the_middle() -> None:
    pixels = FusionProcessor(input_spec=RAW, fit="crop")(images=halves(24, 6))["pixel_values"][0, 0]
    assert pixels.tolist() == [[0, 0, 0, 1, 1, 1]] * 6
    stripes = Image.fromarray(
        np.repeat(np.array([0, 9, 255, 9, 0], np.uint8), 6)[:, None].repeat(6, 1)
    )
    pixels = FusionProcessor(input_spec=RAW, fit="crop")(images=stripes)["pixel_values"][0, 0]
    assert bool((pixels == 1).all())


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("width", "height"), [(40, 90), (90, 40), (33, 33), (7, 60), (61, 9)])
@pytest.mark.parametrize("size", [(16, 16), (50, 31), (9, 40)])
def test_crop_is_the_middle_of_the_whole_resized_picture(
    interpolation: str, width: int, height: int, size: tuple[int, int]
) -> None:
    # A smooth picture in floats, because the passes of PIL's filters round in bytes.
    waves = np.add.outer(np.sin(np.arange(height) / 9), np.cos(np.arange(width) / 7))
    image = Image.fromarray((waves * 60 + 128).astype(np.uint8))
    scale = max(size[1] / width, size[0] / height)
    large = round(width * scale), round(height * scale)
    filters = {name: getattr(Image.Resampling, name.upper()) for name in (interpolation,)}
    whole = np.asarray(image.convert("F").resize(large, filters[interpolation]))
    left, top = (large[0] - size[1] + 1) // 2, (large[1] - size[0] + 1) // 2
    right = whole[top : top + size[0], left : left + size[1]]
    found = np.asarray(fitted(image, size, interpolation, "crop")).astype(float)
    assert found.shape == size
    # A pixel on the border of two may fall to either with "nearest".
    assert np.abs(found - right).max() <= (20 if interpolation == "nearest" else 2)
    assert np.abs(found - right).mean() <= 1


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1)])
def test_the_crop_of_a_very_long_picture_takes_little_memory(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.arange(20_000, dtype=np.uint16).reshape(shape) // 79
    sizes: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def noted(image: Image.Image, size: tuple[int, int], *args: Any, **options: Any) -> Any:
        sizes.append(size)
        return resize(image, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", noted)
    picture = fitted(Image.fromarray(pixels.astype(np.uint8)), (224, 224), "bicubic", "crop")
    assert picture.size == (224, 224) and sizes == [(224, 224)]
    # The middle of the ramp is left, and hardly changes within 1 of 20,000 pixels.
    assert abs(int(np.asarray(picture).mean()) - 126) <= 1 and np.ptp(np.asarray(picture)) <= 1


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (7, 5)])
def test_every_fit_gives_the_size(fit: str, size: tuple[int, int]) -> None:
    pixels = FusionProcessor(input_spec=SPEC, fit=fit)(images=picture(*size))["pixel_values"]
    assert pixels.shape == (1, 3, 8, 12) and bool(pixels.isfinite().all())


def test_a_checked_spec_is_a_copy_with_integer_sizes() -> None:
    spec = SPEC | {"size": (8.0, 12)}
    checked = checked_spec(spec)
    assert checked == SPEC and checked is not spec and spec["size"] == (8.0, 12)
    assert all(type(side) is int for side in checked["size"])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"std": [0.5, 0.0, 0.5]}, "std must be a number other than 0 for each channel"),
        ({"std": [0.5, float("nan"), 0.5]}, "std must be a finite number for each channel"),
        ({"mean": [float("inf"), 0, 0]}, "mean must be a finite number for each channel"),
        ({"mean": [None, 0, 0]}, "mean must be a finite number for each channel"),
        ({"size": [8, 0]}, r"size must be \[H, W\], two whole numbers above 0"),
        ({"size": [8.5, 8]}, r"size must be \[H, W\], two whole numbers above 0"),
        ({"size": [8]}, r"size must be \[H, W\], two whole numbers above 0"),
        ({"size": 8}, r"size must be \[H, W\], two whole numbers above 0"),
        ({"size": [200_000, 200_000]}, "with at most 178956970 pixels"),
        ({"channel_order": "GBR"}, "channel_order must be 'RGB' or, with 3 channels, 'BGR'"),
        (
            {"channel_order": "BGR", "channels": 1, "mean": [0], "std": [1]},
            "channel_order must be 'RGB' or, with 3 channels, 'BGR'",
        ),
    ],
)
def test_wrong_values_are_refused_when_the_processor_is_made(
    entries: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FusionProcessor(input_spec=SPEC | entries)


def test_blue_comes_first_where_the_spec_says_so() -> None:
    spec = SPEC | {"channel_order": "BGR"}
    pixels = FusionProcessor(input_spec=spec)(images=Image.new("RGB", (24, 16), (200, 100, 50)))
    expected = [
        (colour / 255 - mean) / std
        for colour, mean, std in zip((50, 100, 200), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), strict=True)
    ]
    torch.testing.assert_close(pixels["pixel_values"].mean((0, 2, 3)), torch.tensor(expected))


@pytest.mark.parametrize(
    ("name", "filter_"), [("box", Image.Resampling.BOX), ("hamming", Image.Resampling.HAMMING)]
)
def test_the_two_rarer_interpolations_are_pils(name: str, filter_: Image.Resampling) -> None:
    pixels = FusionProcessor(input_spec=SPEC | {"interpolation": name})(images=picture())
    resized = np.asarray(picture().resize((12, 8), filter_)) / 255
    expected = (resized - COLOUR["mean"]) / COLOUR["std"]  # type: ignore[operator]
    np.testing.assert_allclose(
        pixels["pixel_values"][0].permute(1, 2, 0).numpy(), expected, atol=1e-5
    )


def test_the_interpolation_is_the_one_that_is_named() -> None:
    grey = Image.fromarray(np.array([[0, 200]], np.uint8))
    assert np.asarray(fitted(grey, [1, 4], "nearest", "squash")).tolist() == [[0, 0, 200, 200]]
    # The new pixels lie at -1/4, 1/4, 3/4 and 5/4 of the way from the first value to the second.
    bilinear = np.asarray(fitted(grey, [1, 4], "bilinear", "squash"))
    assert bilinear.tolist() == [[0, 50, 150, 200]]
