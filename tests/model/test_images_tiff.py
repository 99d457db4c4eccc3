"""The layouts of TIFF: each is read as tifffile wrote it, or refused by its name."""

import io
import itertools
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import tifffile

sys.path.insert(0, str(Path(__file__).parent))

from images_samples import encoded, smooth, tiff

from mmfusion.model.images import ImageError, load_image

GREY = smooth()[..., 0]


def stretched(values: np.ndarray) -> np.ndarray:
    """Returns the documented grey values, in Python's exact whole numbers or in floats."""
    low, high = values.min().item(), values.max().item()
    flat = [round(255 * ((value - low) / (high - low))) for value in values.ravel().tolist()]
    return np.array(flat, dtype=int).reshape(values.shape)


def seen(content: bytes, folder: Path) -> np.ndarray:
    path = folder / "picture.tif"
    path.write_bytes(content)
    return np.asarray(load_image(path)).astype(int)


def on_white(pixels: np.ndarray, premultiplied: bool) -> np.ndarray:
    """Returns float pixels composited on white by the formula."""
    colour, alpha = pixels[..., :-1].astype(float), pixels[..., -1:] / 255.0
    return colour * (1 if premultiplied else alpha) + 255 * (1 - alpha)


CHANNELS = [(1, None), (3, None)]
CHANNELS += [(n, kind) for n in (2, 4) for kind in ("unassalpha", "assocalpha", "unspecified")]
LAYOUTS = list(
    itertools.product(
        ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "f2", "f4", "f8"],
        CHANNELS,
        ["contig", "separate"],
        [(None, False), ("zlib", False), ("zlib", True)],
        [None, (16, 32)],
        "<>",
    )
)


def expected(pixels: np.ndarray, extra: str | None) -> tuple[np.ndarray, float]:
    """Returns what must be seen of an array H x W x C, and the tolerance."""
    if pixels.dtype == np.uint16 and pixels.shape[2] > 2:
        pixels = (pixels >> 8).astype(np.uint8)
    if extra == "unspecified":
        pixels, extra = pixels[..., :-1], None
    if pixels.dtype.itemsize == 1:
        # PIL divides by alpha and multiplies again, in bytes.
        shown = pixels if extra is None else on_white(pixels, extra == "assocalpha")
        tolerance = {None: 0.0, "unassalpha": 1.0, "assocalpha": 2.0}[extra]
    else:
        shown, tolerance = stretched(pixels), 1e-9
    return (shown[..., 0] if shown.shape[2] == 1 else shown).astype(float), tolerance


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "f2", "f4", "f8"])
def test_each_layout_of_tifffile_is_read_right_or_refused(kind: str, tmp_path: Path) -> None:
    outcomes = {"read": 0, "refused": 0}
    for name, (channels, extra), planes, (packed, predicted), tile, order in LAYOUTS:
        dtype = np.dtype(name)
        skipped = (channels == 1 and planes == "separate") or (predicted and dtype.kind == "f")
        if name != kind or skipped or (predicted and dtype.itemsize == 8):
            continue
        generator = np.random.default_rng(1)
        if dtype.kind == "f":
            pixels = generator.normal(size=(37, 50, channels)).astype(dtype)
        else:
            bounds = np.iinfo(dtype)
            pixels = generator.integers(
                bounds.min, bounds.max, (37, 50, channels), dtype, endpoint=True
            )
        if extra == "assocalpha":
            # No colour of such a picture is brighter than its alpha.
            pixels.sort(axis=2)
        stored = pixels if planes == "contig" else np.moveaxis(pixels, -1, 0)
        buffer = io.BytesIO()
        tifffile.imwrite(
            buffer,
            stored[..., 0] if channels == 1 else stored,
            photometric="minisblack" if channels < 3 else "rgb",
            planarconfig=None if channels == 1 else planes,
            compression=packed,
            predictor=predicted,
            tile=tile,
            rowsperstrip=None if tile else 10,
            byteorder=order,
            extrasamples=None if extra is None else [extra],
            metadata=None,
        )
        layout = (name, channels, extra, planes, packed, predicted, tile, order)
        try:
            found = seen(buffer.getvalue(), tmp_path)
        except ImageError as error:
            assert "picture.tif' must be " in str(error), layout
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        right, tolerance = expected(pixels, extra)
        assert found.shape == right.shape, layout
        assert np.abs(found - right).max() <= 0.5 + tolerance, layout
    # Common layouts must not be refused, so these are the numbers of those that PIL reads.
    numbers = {"u1": 120, "u2": 100, "i2": 12, "u4": 10, "i4": 12, "f4": 8}
    # Pillow 13 reads grey with premultiplied or unnamed alpha, too. Gradio asks for an earlier one.
    if int(PIL.__version__.partition(".")[0]) >= 13:
        numbers["u1"] = 144
    assert outcomes["read"] >= numbers.get(kind, 0)
    assert sum(outcomes.values()) > 50


PLANES = np.moveaxis(smooth(), -1, 0)
WORDS = smooth().astype(np.uint16) * 256


def packed_bits(values: np.ndarray, bits: int) -> bytes:
    """Returns rows of values of a few bits, each row filled up to whole bytes."""
    rows = []
    for row in values.tolist():
        text = "".join(format(value, f"0{bits}b") for value in row)
        text += "0" * (-len(text) % 8)
        rows += [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]
    return bytes(rows)


REVERSED = bytes(int(format(byte, "08b")[::-1], 2) for byte in range(256))
COLOURS: dict[str, Any] = {"t258": (8, 8, 8), "t262": 2, "t277": 3}
MAP = [*range(256), *range(255, -1, -1), *([7] * 256)]

# The layout -> (content, what the message says).
REFUSED: dict[str, tuple[bytes, str]] = {
    "signed bytes": (tiff(GREY.shape, GREY.tobytes(), t339=2), "signed values of 8 bits"),
    "separate words": (
        tiff(
            GREY.shape,
            np.moveaxis(WORDS, -1, 0).tobytes(),
            **COLOURS | {"t258": (16, 16, 16)},
            t284=2,
        ),
        "uncompressed separate planes of 16 bits",
    ),
    "separate grey and alpha": (
        tiff(
            GREY.shape,
            zlib.compress(PLANES[:2].tobytes()),
            t258=(8, 8),
            t277=2,
            t284=2,
            t338=2,
            t259=8,
        ),
        "separate planes of grey and alpha",
    ),
    "predictor, uncompressed": (
        tiff(GREY.shape, GREY.tobytes(), t317=2),
        "predictor 2 with compression 1",
    ),
    "big-endian floats, compressed": (
        tiff(
            GREY.shape,
            zlib.compress(GREY.astype(">f4").tobytes()),
            ">",
            t258=32,
            t339=3,
            t259=8,
        ),
        "compressed signed or float values in big-endian order",
    ),
    "YCbCr, half the colours": (
        tiff(GREY.shape, smooth().tobytes(), **COLOURS | {"t262": 6}),
        "uncompressed YCbCr with fewer values of colour",
    ),
    "palette of bytes in words": (
        tiff(GREY.shape, GREY.tobytes(), t262=3, t320=MAP),
        "a palette of 16 bits that holds values of 8 bits",
    ),
    "mixed formats": (
        tiff(GREY.shape, smooth().tobytes(), **COLOURS, t339=(1, 2, 1)),
        "is none of these|a TIFF that is damaged or of a layout that PIL does not read",
    ),
    "words of reversed bits": (
        tiff(GREY.shape, WORDS[..., 0].tobytes(), t258=16, t266=2),
        "reversed bits in values of 16 bits",
    ),
    "half floats": (
        tiff(GREY.shape, GREY.astype(np.float16).tobytes(), t258=16, t339=3),
        "a layout that PIL does not read",
    ),
    "other inks": (
        tiff(
            GREY.shape,
            np.concatenate([smooth(), smooth()[..., :1]], 2).tobytes(),
            t258=(8, 8, 8, 8),
            t262=5,
            t277=4,
            t332=2,
        ),
        "inks other than CMYK",
    ),
    "no photometric interpretation": (
        tiff(GREY.shape, GREY.tobytes()).replace(
            struct.pack("<HHI", 262, 3, 1), struct.pack("<HHI", 262 | 2**15, 3, 1)
        ),
        "grey values without PhotometricInterpretation",
    ),
    "giant tile": (
        # 273 and 279 are the tags of strips, 324 and 325 those of tiles. 60000 has no meaning.
        tiff(
            GREY.shape, zlib.compress(GREY.tobytes()), t259=8, t322=48000, t323=48000, t324=8
        ).replace(struct.pack("<HHI", 273, 4, 1), struct.pack("<HHI", 60000, 4, 1)),
        "tiles of 48000x48000 pixels for 80x60 pixels",
    ),
    "lacking strips": (tiff(GREY.shape, GREY.tobytes(), t278=10), "1 of 6 strips"),
    "left-out strip": (tiff(GREY.shape, GREY.tobytes(), t273=0), "1 strips that are left out"),
    "deflated, flipped": (
        tiff(GREY.shape, zlib.compress(GREY.tobytes(), 0)[:-9] + b"\xaa" * 9, t259=8),
        "deflated pixels that are damaged",
    ),
    "deflated, cut": (
        tiff(GREY.shape, zlib.compress(GREY.tobytes(), 0)[:-3], t259=8),
        "deflated pixels that are cut short",
    ),
    "deflated bomb": (
        tiff(GREY.shape, zlib.compress(bytes(10**8)), t259=8),
        "deflated pixels of many times the declared size",
    ),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_layout_that_pil_misreads_is_refused_by_name(
    content: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=message):
        seen(content, tmp_path)


@pytest.mark.parametrize(("bits", "width"), [*itertools.product([1, 2, 4, 8], [16, 13])])
@pytest.mark.parametrize(("fill", "white"), [*itertools.product([1, 2], [False, True])])
def test_few_bits_are_read_as_they_are_packed(
    bits: int, width: int, fill: int, white: bool, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (5, width))
    data = packed_bits(values, bits)
    content = tiff(
        values.shape,
        data.translate(REVERSED) if fill == 2 else data,
        t258=bits,
        t266=fill,
        t262=0 if white else 1,
    )
    right = values * 255 // (2**bits - 1)
    if (bits, fill, white) == (8, 2, True):
        with pytest.raises(ImageError):
            seen(content, tmp_path)
    else:
        np.testing.assert_array_equal(seen(content, tmp_path), 255 - right if white else right)


def test_twelve_packed_bits_are_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (5, 16))
    content = tiff(values.shape, packed_bits(values, 12), t258=12)
    np.testing.assert_array_equal(seen(content, tmp_path), stretched(values))


def test_unsigned_values_above_half_of_32_bits_keep_their_order(tmp_path: Path) -> None:
    values = np.array([[0, 2**30, 2**31, 2**32 - 1]], np.uint32)
    content = tiff(values.shape, values.tobytes(), t258=32)
    assert seen(content, tmp_path).tolist() == [[0, 64, 128, 255]]
    white = tiff(values.shape, values.tobytes(), t258=32, t262=1)
    assert seen(white, tmp_path).tolist() == [[0, 64, 128, 255]]


def test_common_tiffs_of_pil_are_read(tmp_path: Path) -> None:
    for options in ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}):
        content = encoded(smooth(), "TIFF", **options)
        np.testing.assert_array_equal(seen(content, tmp_path), smooth())
        np.testing.assert_array_equal(
            tifffile.imread(io.BytesIO(content)) if "lzw" not in str(options) else smooth(),
            smooth(),
        )
