"""Pictures as files have them: turned, inverted, cut off, several in one, and real X-rays."""

import io
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

import mmfusion.model.images
from mmfusion.model.images import ImageError, load_image

COLOUR = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def eight(values: list[Any]) -> np.ndarray:
    return np.array(values, dtype=np.uint8)


def pixels_of(image: Image.Image) -> np.ndarray:
    assert image.mode in ("L", "RGB")
    assert type(image) is Image.Image
    return np.asarray(image)


def with_file(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return make


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


PICTURE = Image.fromarray(COLOUR)


GOOD_PNG = encoded(PICTURE, "PNG")


def test_unreadable_permissions_name_the_file(tmp_path, monkeypatch):
    path = with_file("secret.png", GOOD_PNG)(tmp_path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    # chmod would not do: the tests may run as the superuser, who may read everything.
    monkeypatch.setattr(mmfusion.model.images, "open", refuse, raising=False)
    with pytest.raises(
        ImageError, match=r"secret.png' must be a readable file, got Permission denied"
    ):
        load_image(path)


def grey16(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint16))


DEEP = np.array([[0, 1000], [2000, 4000]])


DEEP_SEEN = eight([[0, 64], [128, 255]])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_orientation_is_applied_once(kind, orientation, turn, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    path = with_file("o", encoded(PICTURE, kind, exif=exif, **options))(tmp_path)
    np.testing.assert_array_equal(pixels_of(load_image(path)), np.rot90(COLOUR, turn))
    with Image.open(path) as lazy:
        np.testing.assert_array_equal(pixels_of(load_image(lazy)), np.rot90(COLOUR, turn))


def test_sixteen_bit_tiff_with_white_as_zero_is_inverted(tmp_path):
    content = encoded(grey16(DEEP), "TIFF")
    black_is_zero, white_is_zero = (struct.pack("<HHIHH", 262, 3, 1, value, 0) for value in (1, 0))
    assert content.count(black_is_zero) == 1
    path = with_file("w.tif", content.replace(black_is_zero, white_is_zero))(tmp_path)
    np.testing.assert_array_equal(pixels_of(load_image(path)), 255 - DEEP_SEEN)


def test_multi_picture_jpeg_of_a_phone_gives_its_first_picture(tmp_path):
    first = Image.fromarray(COLOUR)
    content = encoded(
        first, "MPO", save_all=True, append_images=[Image.new("RGB", (5, 5))], quality=95
    )
    path = with_file("phone.jpg", content)(tmp_path)
    with Image.open(path) as image:
        assert image.n_frames == 2
    expected = np.asarray(Image.open(io.BytesIO(encoded(first, "JPEG", quality=95))))
    np.testing.assert_array_equal(pixels_of(load_image(path)), expected)


def test_truncated_file_is_not_rescued_by_pil_setting(tmp_path, monkeypatch):
    path = with_file("t.png", half(GOOD_PNG))(tmp_path)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert Image.open(path).convert("RGB").size == (30, 20)

    def refused(_: int) -> bool:
        try:
            load_image(path)
        except ImageError:
            return True
        return False

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(refused, range(200)))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.skipif(
    "MMFUSION_DATA" not in os.environ, reason="MMFUSION_DATA (real X-rays) is not set"
)
def test_real_x_rays_load_as_pil_reads_them():
    paths = sorted(Path(os.environ["MMFUSION_DATA"]).glob("*/images/*"))[::10]
    assert paths
    for path in paths:
        with Image.open(path) as image:
            expected = np.asarray(
                image.convert(image.mode if image.mode in ("L", "RGB") else "RGB")
            )
        np.testing.assert_array_equal(pixels_of(load_image(path)), expected)
