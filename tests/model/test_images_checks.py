"""Damage that PIL passes over in PNG and WebP, transparency, and bombs in files."""

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import png
import pytest
from PIL import Image, PngImagePlugin

sys.path.insert(0, str(Path(__file__).parent))

from images_samples import encoded, smooth

from mmfusion.model.images import ImageError, load_image

PIXELS = smooth()


def seen(content: bytes, folder: Path) -> np.ndarray:
    path = folder / "picture"
    path.write_bytes(content)
    return np.asarray(load_image(path))


def chunks(content: bytes) -> list[tuple[int, int]]:
    """Returns where each chunk of a PNG begins and ends."""
    found, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        found.append((at, at + length + 12))
        at += length + 12
    return found


def large_png() -> bytes:
    """Returns a PNG of several chunks of pixels, as encoders write large pictures."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)
    png.Writer(300, 300, greyscale=True, chunk_limit=8192).write(buffer, noise.tolist())
    return buffer.getvalue()


def test_each_byte_of_a_png_is_guarded(tmp_path: Path) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("patient", "none")
    content = encoded(PIXELS[:6, :7], "PNG", pnginfo=notes)
    right = seen(content, tmp_path)
    for at in range(len(content)):
        for change in (0x01, 0xFF):
            damaged = bytearray(content)
            damaged[at] ^= change
            with pytest.raises(ImageError):
                seen(bytes(damaged), tmp_path)
    np.testing.assert_array_equal(seen(content + b"behind the end", tmp_path), right)


def test_a_png_whose_second_half_is_zeroed_or_missing_is_refused(tmp_path: Path) -> None:
    content = large_png()
    assert len(chunks(content)) > 8
    for start, end in chunks(content)[1:]:
        for damaged in (
            content[:start] + bytes(len(content) - start),
            content[:start] + content[end:],
            content[:start] + bytes(end - start) + content[end:],
            content[: end - 1],
        ):
            with pytest.raises(ImageError, match="undamaged|none of these or is damaged"):
                seen(damaged, tmp_path)
    with pytest.raises(ImageError, match=r"a PNG without its last chunk \(IEND\)"):
        seen(content[:-12], tmp_path)


def test_pngs_of_another_library_are_read(tmp_path: Path) -> None:
    right = np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)
    np.testing.assert_array_equal(seen(large_png(), tmp_path), right)
    for options in ({"bitdepth": 4}, {"interlace": True}, {"compression": 0}):
        buffer = io.BytesIO()
        values = right[:20, :30] // (16 if "bitdepth" in options else 1)
        png.Writer(30, 20, greyscale=True, **options).write(buffer, values.tolist())
        scale = 17 if "bitdepth" in options else 1
        np.testing.assert_array_equal(seen(buffer.getvalue(), tmp_path), values * scale)


def test_a_lazy_image_of_a_damaged_png_is_refused() -> None:
    content = bytearray(encoded(PIXELS, "PNG"))
    content[-14] ^= 1
    image = Image.open(io.BytesIO(bytes(content)))
    with pytest.raises(ImageError, match="differs from its checksum"):
        load_image(image)
    whole = Image.open(io.BytesIO(encoded(PIXELS, "PNG")))
    np.testing.assert_array_equal(np.asarray(load_image(whole)), PIXELS)


@pytest.mark.parametrize("options", [{}, {"lossless": True}])
def test_a_webp_whose_second_half_is_zeroed_is_refused(
    options: dict[str, bool], tmp_path: Path
) -> None:
    content = encoded(PIXELS, "WEBP", **options)
    damaged = content[: len(content) // 2] + bytes(len(content) - len(content) // 2)
    assert Image.open(io.BytesIO(damaged)).convert("RGB").size == (80, 60)
    with pytest.raises(ImageError, match="a file whose last .* bytes are zeros"):
        seen(damaged, tmp_path)
    # A large black picture ends in zeros itself.
    black = np.zeros((2500, 2500, 3), np.uint8)
    assert not seen(encoded(black, "WEBP", **options), tmp_path).any()


BLACK_INK = np.zeros((9, 9, 4), np.uint8)
BLACK_INK[2:5, 3:6, 3] = 255


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF"])
def test_black_ink_on_nothing_stays_visible(kind: str, tmp_path: Path) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    found = seen(encoded(BLACK_INK, kind, **options), tmp_path)
    right = np.where(BLACK_INK[..., 3:] == 255, 0, 255).repeat(3, 2)
    np.testing.assert_array_equal(found, right)


def test_transparency_is_composited_on_white_by_the_formula(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    colour, alpha = pixels[..., :3].astype(float), pixels[..., 3:] / 255
    right = colour * alpha + 255 * (1 - alpha)
    for found in (seen(encoded(pixels, "PNG"), tmp_path), np.asarray(load_image(pixels))):
        assert np.abs(found - right).max() <= 1


@pytest.mark.parametrize("ink", [0, 255])
def test_a_picture_that_is_white_on_white_is_refused(ink: int, tmp_path: Path) -> None:
    white = np.full((9, 9, 4), 255, np.uint8)
    white[..., 3] = 0
    white[2:5, 3:6, 3] = ink
    with pytest.raises(ImageError, match="visible on a white background, got only white or tran"):
        seen(encoded(white, "PNG"), tmp_path)
    # A blank page without transparency is what it is.
    assert (seen(encoded(np.full((9, 9), 255, np.uint8), "PNG"), tmp_path) == 255).all()


@pytest.mark.parametrize("name", [b"iCCP", b"zTXt"])
def test_bombs_beside_the_pixels_of_a_png_are_refused(name: bytes, tmp_path: Path) -> None:
    content = encoded(PIXELS, "PNG")
    data = b"x\0\0" + zlib.compress(bytes(200_000_000), 9)
    extra = struct.pack(">I", len(data)) + name + data
    extra += struct.pack(">I", zlib.crc32(name + data))
    with pytest.raises(ImageError, match="too large"):
        seen(content[:33] + extra + content[33:], tmp_path)


def test_the_canvas_of_a_gif_counts(tmp_path: Path) -> None:
    content = bytearray(encoded(PIXELS[..., 0], "GIF"))
    content[6:10] = struct.pack("<HH", 60000, 60000)
    with pytest.raises(ImageError, match="at most 178956970 pixels"):
        seen(bytes(content), tmp_path)


def test_a_box_of_a_false_length_takes_no_memory(tmp_path: Path) -> None:
    content = bytearray(encoded(PIXELS, "JPEG2000"))
    content[32:36] = b"\xff\xff\xff\xff"
    with pytest.raises(ImageError) as error:
        seen(bytes(content), tmp_path)
    assert "MemoryError" not in str(error.value)
