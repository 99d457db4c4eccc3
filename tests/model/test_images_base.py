"""What all sources of pictures share: sizes, scaling to bytes, and errors that name the picture."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mmfusion.model.images
from mmfusion.model.images import ImageError, load_image
from mmfusion.model.images_base import check_finite, check_size, explained, image_error, scaled

RAMP = np.arange(30, dtype=np.uint8).reshape(5, 6) * 8


@pytest.mark.parametrize("source", [RAMP, Image.fromarray(RAMP), torch.from_numpy(RAMP)])
def test_max_pixels_holds_for_every_source(source):
    assert load_image(source, max_pixels=30).size == (6, 5)
    with pytest.raises(ImageError, match="must be at most 29 pixels, got 6x5 = 30"):
        load_image(source, max_pixels=29)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("images", {"numpy", "PIL"}),
        ("images_base", {"numpy"}),
        ("images_dicom", {"numpy", "PIL"}),
        ("images_dicom_header", set()),
        ("images_dicom_limits", set()),
        ("images_dicom_tables", {"numpy"}),
        ("images_files", {"PIL"}),
        ("images_jpeg", set()),
        ("images_tiff", {"PIL"}),
    ],
)
def test_only_numpy_and_pil_are_imported(name, expected):
    source = Path(mmfusion.model.images.__file__).with_name(f"{name}.py").read_text()
    imported = set(re.findall(r"^\s*(?:from|import)\s+(\w+)", source, flags=re.MULTILINE))
    assert imported - set(sys.stdlib_module_names) == expected


def test_values_are_scaled_as_in_a_loop() -> None:
    values = np.array([[-3.0, 0.0, 0.7], [2.49, 5.0, 9.0]])
    expected = [
        [min(255, max(0, round((value - 0.5) / 4.5 * 255))) for value in row]
        for row in values.tolist()
    ]
    found = scaled(values, 0.5, 5.0, "x")
    assert found.dtype == np.uint8 and found.tolist() == expected
    assert scaled(np.array([1, 2, 3], np.int16), 1, 3, "x").tolist() == [0, 128, 255]
    assert scaled(np.full((2, 1), 7), 7, 7, "x").tolist() == [[0], [0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, float("nan")], "image x must be finite everywhere, got 1 NaN and 0 infinite of 2"),
        ([float("inf"), -float("inf"), 0.0], "got 0 NaN and 2 infinite of 3 values"),
        ([-1e308, 1e308], r"of a range that a float can hold, got -1e\+308 to 1e\+308"),
    ],
)
def test_values_that_cannot_be_scaled(values: list[float], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        scaled(np.array(values), values[0], values[-1], "x")


def test_errors_of_decoders_name_the_picture_and_the_advice() -> None:
    with (
        pytest.raises(
            ImageError, match=r"^image 'a.png' must be whole, got KeyError \('b'\)\. Do x\.$"
        ) as error,
        explained("'a.png'", "whole", "Do x."),
    ):
        raise KeyError("b")
    assert isinstance(error.value.__cause__, KeyError)
    with (
        pytest.raises(ImageError, match=r"got OSError \(no reason\)"),
        explained("x", "whole", "Do x."),
    ):
        raise OSError
    # An error that is explained already stays as it is.
    own = image_error("y", "small", "3", "Do y.")
    with pytest.raises(ImageError) as error, explained("x", "whole", "Do x."):
        raise own
    assert error.value is own and str(own) == "image y must be small, got 3. Do y."


def test_values_are_finite() -> None:
    check_finite(np.array([[1, -5]]), "x")
    check_finite(np.array([1e308, -0.0]), "x")
    with pytest.raises(ImageError, match="x must be finite everywhere, got 2 NaN and 1 infinite"):
        check_finite(np.array([np.nan, -np.inf, np.nan]), "x")


def test_a_picture_has_a_pixel_and_not_too_many() -> None:
    check_size(1, 1, "x", 1)
    check_size(5, 6, "x", 30)
    for width, height in ((0, 4), (4, 0)):
        with pytest.raises(ImageError, match=f"at least 1x1 pixel, got {width}x{height}"):
            check_size(width, height, "x", 99)
    with pytest.raises(
        ImageError, match=r"at most 29 pixels, got 5x6 = 30\. Pass a larger max_pix"
    ):
        check_size(5, 6, "x", 29)
