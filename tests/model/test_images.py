"""Every kind of picture but DICOM that must load, and every fault that must be refused."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmfusion.model.images import ImageError, load_image

RAMP = np.arange(30, dtype=np.uint8).reshape(5, 6) * 8
COLOUR = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """Returns a PNG with a header that PIL does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    body = (
        chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return signature + body


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


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


def flipped(content: bytes, marker: bytes) -> bytes:
    at = content.index(marker) + len(marker) + 3
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def frames(kind: str) -> bytes:
    first, second = Image.fromarray(RAMP), Image.fromarray(255 - RAMP)
    return encoded(first, kind, save_all=True, append_images=[second])


def closed_image(folder: Path) -> Image.Image:
    image = Image.open(with_file("closed.png", encoded(Image.fromarray(RAMP), "PNG"))(folder))
    image.close()
    return image


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png"


PICTURE = Image.fromarray(COLOUR)
GOOD_PNG = encoded(PICTURE, "PNG")
NAN = np.array([[0.0, np.nan], [np.inf, 1.0]])

# The fault -> (the function that makes the file in a folder, the message). The message must hold
# the name of the file, too.
BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (
        lambda f: f / "none.png",
        "none.png' must be a readable file, got No such file or directory",
    ),
    "missing folder": (lambda f: f / "no" / "x.png", "must be a readable file, got No such file"),
    "file as folder": (lambda f: with_file("a.png", b"x")(f) / "b.png", "got Not a directory"),
    "directory": (
        lambda f: f,
        "must be a file, got a directory or device. Pass the path of one picture",
    ),
    "pipe": (pipe, "must be a file, got a directory or device"),
    "null byte": (lambda f: str(f / "x\0.png"), "must be a readable file, got .*null"),
    "name too long": (lambda f: f / ("x" * 300), "must be a readable file, got File name too long"),
    "empty string": (lambda f: "", "must be a readable file, got No such file"),
    "http": (
        lambda f: "https://example.org/x.png",
        "'https://example.org/x.png' must be a local file, got a URL",
    ),
    "s3": (lambda f: "s3://bucket/x.png", "must be a local file, got a URL. Download it first"),
    "data URL": (
        lambda f: "data:image/png;base64," + "A" * 9999,
        "must be a local file, got a URL",
    ),
    "empty file": (with_file("e.png", b""), r"must be a picture, got an empty file \(0 bytes\)"),
    "text": (
        with_file("t.png", b"patient,label\n1,0\n"),
        "must be one of PNG, .* DICOM, got .*patient",
    ),
    "web page": (with_file("h.jpg", b"<!DOCTYPE html><html>"), "it begins b'<!DOCTYPE html><'"),
    "EPS": (
        with_file("x.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "must be one of PNG",
    ),
    "truncated PNG": (with_file("t.png", half(GOOD_PNG)), "must be a complete, undamaged picture"),
    "truncated JPEG": (with_file("t.jpg", half(encoded(PICTURE, "JPEG"))), "must be a complete"),
    "truncated TIFF": (with_file("t.tif", encoded(PICTURE, "TIFF")[:-300]), "must be a complete"),
    "truncated BMP": (with_file("t.bmp", half(encoded(PICTURE, "BMP"))), "must be a complete"),
    "truncated WebP": (with_file("t.webp", half(encoded(PICTURE, "WEBP"))), "must be a complete"),
    "header only": (with_file("t.png", GOOD_PNG[:10]), "is none of these or is damaged"),
    "bad checksum": (
        with_file("c.png", flipped(GOOD_PNG, b"IDAT")),
        "must be a complete, undamaged picture",
    ),
    "0 x 0 PNG": (with_file("z.png", png(0, 0, 8, 0, b"")), "is none of these or is damaged"),
    "animated GIF": (
        with_file("a.gif", frames("GIF")),
        r"got several frames. Choose one: .*seek\(index\)",
    ),
    "animated PNG": (
        with_file("a.png", frames("PNG")),
        "must be a single picture, got several frames",
    ),
    "animated WebP": (
        with_file("a.webp", frames("WEBP")),
        "must be a single picture, got several frames",
    ),
    "pages of a TIFF": (
        with_file("a.tif", frames("TIFF")),
        "must be a single picture, got several frames",
    ),
    "bomb": (
        with_file("b.png", png(60000, 60000, 8, 0, b"")),
        "at most 178956970 pixels, got more than",
    ),
    "bad EXIF": (
        with_file("x.png", encoded(Image.fromarray(RAMP), "PNG", exif=b"Exif\0\0MM\0")),
        r"undamaged picture, got SyntaxError \(not a TIFF",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_file_is_an_image_error_that_names_it(make, message, tmp_path):
    path = make(tmp_path)
    with pytest.raises(ImageError, match=message) as caught:
        load_image(path)
    text = str(caught.value)
    assert repr(os.fspath(path))[:150] in text
    assert "<_io" not in text
    assert len(text) < 900


# The fault -> (the object, the error, the message).
BAD_OBJECTS: dict[str, tuple[Any, type[Exception], str]] = {
    "bytes": (b"\x89PNG", TypeError, r"got bytes. Open bytes with PIL.Image.open\(io"),
    "class": (Path, TypeError, "got type"),
    "None": (None, TypeError, "must be a path, a PIL image, .* got NoneType"),
    "list": ([[0, 1]], TypeError, "got list. .* make lists uint8 arrays"),
    "open file": (io.BytesIO(GOOD_PNG), TypeError, "got BytesIO"),
    "number": (3, TypeError, "got int"),
    "0 x 0 PIL image": (Image.new("L", (0, 0)), ImageError, "must be at least 1x1 pixel, got 0x0"),
    "NaN": (NAN, ImageError, r"float64, \(2, 2\)> must be finite everywhere, got 1 NaN and 1 inf"),
    "NaN in mode F": (
        Image.fromarray(NAN.astype(np.float32)),
        ImageError,
        "1 NaN and 1 infinite of 4",
    ),
    "too wide a range": (
        np.array([[-1e308, 1e308]]),
        ImageError,
        "of a range that a float can hold",
    ),
    "no pixels": (np.zeros((0, 5)), ImageError, "must be at least 1x1 pixel, got 5x0"),
    "no pixels in colour": (np.zeros((5, 0, 3)), ImageError, "must be at least 1x1 pixel, got 0x5"),
    "one axis": (
        np.zeros(5),
        ImageError,
        r"must be HxW, HxWxC or CxHxW with C 1, 3 or 4, got \(5,\)",
    ),
    "batch": (np.zeros((2, 3, 8, 8)), ImageError, "Pass one picture"),
    "two channels": (np.zeros((8, 8, 2)), ImageError, "with C 1, 3 or 4"),
    "either layout": (np.zeros((3, 8, 3)), ImageError, "a shape that is both HxWxC and CxHxW"),
    "RGBA beyond [0, 1]": (
        np.full((8, 8, 4), 2.0),
        ImageError,
        r"float within \[0, 1\] \(RGBA\), got float64",
    ),
    "objects": (np.array([["a", None]]), TypeError, "must hold bools, ints or floats, got object"),
    "complex": (np.zeros((2, 2), complex), TypeError, "got complex128"),
    "tensor batch": (torch.zeros(1, 3, 8, 8), ImageError, r"float32, \(1, 3, 8, 8\)> must be HxW"),
    "tensor, channels last": (torch.zeros(8, 8, 3), ImageError, "channels first"),
    "tensor without values": (
        torch.zeros(8, 8, device="meta"),
        ImageError,
        "must be convertible to numpy",
    ),
}


@pytest.mark.parametrize(
    ("source", "error", "message"), BAD_OBJECTS.values(), ids=BAD_OBJECTS.keys()
)
def test_bad_object_is_refused(source, error, message):
    with pytest.raises(error, match=message):
        load_image(source)


def test_closed_pil_image_is_refused(tmp_path):
    with pytest.raises(ImageError, match=r"closed.png' must be a complete, undamaged picture"):
        load_image(closed_image(tmp_path))


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "many"])
def test_max_pixels_must_be_a_positive_int(limit):
    with pytest.raises(Exception, match="max_pixels") as caught:
        load_image(RAMP, max_pixels=limit)
    assert isinstance(caught.value, ValueError) or "type" in str(caught.value).lower()


def grey16(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint16))


DEEP = np.array([[0, 1000], [2000, 4000]])
DEEP_SEEN = eight([[0, 64], [128, 255]])
GREY_ALPHA = eight([[[200, 255], [200, 0]]])
RGBA = eight([[[250, 100, 50, 255], [250, 100, 50, 0], [200, 100, 50, 128]]])
RGBA_SEEN = eight([[[250, 100, 50], [255, 255, 255], [227, 177, 152]]])
TRANSPARENT_5 = png(2, 1, 8, 0, b"\0\x05\x10", chunk(b"tRNS", b"\0\x05"))
BILEVEL = np.array([[True, False], [False, True]])
RED_CMYK = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
PALETTE = Image.fromarray(COLOUR).quantize(16)
PLAIN_CMYK = Image.fromarray(eight([[[0, 0, 0, 0], [255, 0, 0, 0]]]), "CMYK")

# The kind of file -> (suffix, content, the expected 8-bit picture).
GOOD_FILES: dict[str, tuple[str, bytes, np.ndarray]] = {
    "grey PNG": (".png", encoded(Image.fromarray(RAMP), "PNG"), RAMP),
    "RGB PNG": (".png", GOOD_PNG, COLOUR),
    "RGB TIFF": (".tif", encoded(PICTURE, "TIFF"), COLOUR),
    "LZW TIFF": (".tif", encoded(PICTURE, "TIFF", compression="tiff_lzw"), COLOUR),
    "BMP": (".bmp", encoded(PICTURE, "BMP"), COLOUR),
    "WebP": (".webp", encoded(PICTURE, "WEBP", lossless=True), COLOUR),
    "GIF": (".gif", encoded(Image.fromarray(RAMP), "GIF"), np.stack([RAMP] * 3, -1)),
    "wrong suffix": (".jpg", GOOD_PNG, COLOUR),
    "1 bit": (".png", encoded(Image.fromarray(BILEVEL), "PNG"), np.uint8(255) * BILEVEL),
    "2 bits": (".png", png(4, 1, 2, 0, b"\0\x1b"), eight([[0, 85, 170, 255]])),
    "palette": (".png", encoded(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB"))),
    "16 bits PNG": (".png", encoded(grey16(DEEP), "PNG"), DEEP_SEEN),
    "16 bits TIFF": (".tif", encoded(grey16(DEEP + 60000), "TIFF"), DEEP_SEEN),
    "32 bits TIFF": (
        ".tif",
        encoded(Image.fromarray((DEEP - 90000).astype(np.int32)), "TIFF"),
        DEEP_SEEN,
    ),
    "float TIFF": (
        ".tif",
        encoded(Image.fromarray((DEEP / 9e9).astype(np.float32)), "TIFF"),
        DEEP_SEEN,
    ),
    "constant 16 bits": (
        ".png",
        encoded(grey16(np.full((2, 2), 700)), "PNG"),
        np.zeros((2, 2), np.uint8),
    ),
    "16 bits colour": (
        ".png",
        png(1, 1, 16, 2, b"\0\xff\0\x80\x7f\x10\x00"),
        eight([[[255, 128, 16]]]),
    ),
    "grey and alpha": (
        ".png",
        encoded(Image.fromarray(GREY_ALPHA, "LA"), "PNG"),
        eight([[200, 255]]),
    ),
    "colour and alpha": (".png", encoded(Image.fromarray(RGBA), "PNG"), RGBA_SEEN),
    "transparent colour": (".png", TRANSPARENT_5, eight([[255, 16]])),
    "CMYK": (".tif", encoded(PLAIN_CMYK, "TIFF"), eight([[[255, 255, 255], [0, 255, 255]]])),
}


@pytest.mark.parametrize(
    ("suffix", "content", "expected"), GOOD_FILES.values(), ids=GOOD_FILES.keys()
)
def test_good_file_gives_the_documented_picture(suffix, content, expected, tmp_path):
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(content)
    np.testing.assert_array_equal(pixels_of(load_image(path)), expected)
    np.testing.assert_array_equal(pixels_of(load_image(str(path))), expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (RAMP, RAMP),
        (RAMP[..., None], RAMP),
        (RAMP[None], RAMP),
        (COLOUR, COLOUR),
        (np.asfortranarray(COLOUR), COLOUR),
        (np.moveaxis(COLOUR, -1, 0), COLOUR),
        (np.tile(RGBA, (5, 2, 1)), np.tile(RGBA_SEEN, (5, 2, 1))),
        (np.tile(RGBA, (5, 2, 1)) / 255, np.tile(RGBA_SEEN, (5, 2, 1))),
        (BILEVEL, np.uint8(255) * BILEVEL),
        (np.array([[0.0, 0.5, 1.0]]), eight([[0, 128, 255]])),
        (np.array([[0.25, 0.5]], np.float16), eight([[64, 128]])),
        (np.array([[-1.0, 0.0, 1.0]]), eight([[0, 128, 255]])),
        (DEEP, DEEP_SEEN),
        (DEEP.astype(">u2"), DEEP_SEEN),
        (torch.from_numpy(COLOUR).permute(2, 0, 1), COLOUR),
        (torch.from_numpy(COLOUR).permute(2, 0, 1)[:, :, :3], COLOUR[:, :3]),
        (torch.from_numpy(RAMP)[None] / 255, RAMP),
        (torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16, requires_grad=True), eight([[0, 255]])),
        (torch.from_numpy(BILEVEL), np.uint8(255) * BILEVEL),
        (PICTURE.convert("HSV"), np.asarray(PICTURE.convert("HSV").convert("RGB"))),
        (Image.new("La", (1, 1), (7, 255)), eight([[7]])),
        (Image.new("RGBa", (1, 1), (7, 8, 9, 255)), eight([[[7, 8, 9]]])),
    ],
)
def test_good_object_gives_the_documented_picture(source, expected):
    np.testing.assert_array_equal(pixels_of(load_image(source)), expected)


def test_result_is_independent_of_the_source():
    picture = Image.fromarray(RAMP)
    loaded = load_image(picture)
    loaded.putpixel((0, 0), 99)
    assert picture.getpixel((0, 0)) == 0


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    path = with_file("c.jpg", encoded(RED_CMYK, "JPEG", quality=100))(tmp_path)
    np.testing.assert_allclose(
        pixels_of(load_image(path)), np.broadcast_to([255, 0, 0], (16, 16, 3)), atol=3
    )
