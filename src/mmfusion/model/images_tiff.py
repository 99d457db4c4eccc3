"""The layouts of TIFF that PIL reads wrongly without a word, and the check that refuses them.

Only the standard library and PIL are imported here, because this file travels with every model
that is pushed to a hub.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image

from .images_base import RENEW, image_error

_TAG = ExifTags.Base
# These two have no name in PIL.
_SAMPLE_FORMAT, _FILL_ORDER, _COLOR_MAP, _INK_SET = 339, 266, 320, 332

_UNCOMPRESSED = 1
# The compressions with which libtiff undoes a predictor. It ignores one with any other.
_WITH_PREDICTOR = (5, 8, 32946, 34925, 50000)
_DEFLATED = (8, 32946)
_BLOCK = 2**20
_SEPARATE = 2
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_PALETTE, _CMYK, _YCBCR = 3, 5, 6
# A tile of this many pixels is common for pictures that are smaller than it.
_USUAL_TILE = 4096 * 4096


def check_tiff(image: Image.Image, name: str) -> None:
    """Raises an ImageError if a TIFF has a layout that PIL misreads, or lacks some of its pixels.

    Args:
        image: the opened TIFF. It need not be decoded yet.
        name: the picture, for the error.
    """
    if image.format != "TIFF":
        return
    tags: Mapping[int, Any] = image.tag_v2  # type: ignore[attr-defined]
    layout = _misread_layout(tags, getattr(tags, "prefix", b"II"))
    if layout:
        advice = "Convert it with another program, for example tifffile, and pass the array."
        raise image_error(name, "a TIFF of a layout that PIL reads", layout, advice)
    lack = _missing_pixels(tags)
    if lack:
        raise image_error(name, "a complete, undamaged picture", lack, RENEW)


def check_deflated(image: Image.Image, file: Any, name: str) -> None:
    """Raises an ImageError if a deflated strip or tile of a TIFF differs from its checksum.

    libtiff stops at the last pixel, before the checksum.

    Args:
        image: the opened TIFF, which passed `check_tiff`.
        file: its file, open for binary reading. Its position is not kept.
        name: the picture, for the error.

    Source: RFC 1950, 2.2 (Adler-32 checksum).
    """
    tags: Mapping[int, Any] = image.tag_v2  # type: ignore[attr-defined]
    if _numbers(tags, _TAG.Compression, _UNCOMPRESSED)[0] not in _DEFLATED:
        return
    tiled = _TAG.StripOffsets not in tags
    offsets = _numbers(tags, _TAG.TileOffsets if tiled else _TAG.StripOffsets, 0)
    counts = _numbers(tags, _TAG.TileByteCounts if tiled else _TAG.StripByteCounts, 0)
    width, height = (_numbers(tags, tag, 0)[0] for tag in (_TAG.ImageWidth, _TAG.ImageLength))
    # 64 bits are more than any layout needs. Strips and tiles are a little larger than the picture.
    budget = 8 * width * height * _numbers(tags, _TAG.SamplesPerPixel, 1)[0] + 4 * _USUAL_TILE
    end = file.seek(0, os.SEEK_END)
    # A file may point to the same strip again and again.
    for offset, count in sorted(set(zip(offsets, counts, strict=False))):
        file.seek(offset)
        budget -= _unpacked_size(file.read(min(count, end)), budget, name)


def _unpacked_size(packed: bytes, budget: int, name: str) -> int:
    """Returns the size of deflated data, or raises an ImageError if they are damaged."""
    unpacker, size = zlib.decompressobj(), 0
    got = "deflated pixels that are cut short"
    try:
        while not unpacker.eof:
            part = unpacker.decompress(packed, _BLOCK)
            packed, size = unpacker.unconsumed_tail, size + len(part)
            if size > budget:
                got = "deflated pixels of many times the declared size"
                break
            if not part and not packed:
                break
    except zlib.error as error:
        got = f"deflated pixels that are damaged ({error})"
    if unpacker.eof:
        return size
    raise image_error(name, "a complete, undamaged picture", got, RENEW)


def has_unsigned_32_bits(image: Image.Image) -> bool:
    """Returns whether PIL holds unsigned values of 32 bits of a TIFF as signed ones."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {}) if image.mode == "I" else {}
    return (
        bool(tags)
        and _numbers(tags, _TAG.BitsPerSample, 1)[0] == 32
        and _numbers(tags, _SAMPLE_FORMAT, 1)[0] == _UNSIGNED
    )


def _numbers(tags: Mapping[int, Any], tag: int, default: int) -> tuple[int, ...]:
    """Returns the values of a tag, of which PIL unpacks a single one."""
    value = tags.get(tag, default)
    values = value if isinstance(value, tuple) else (value,)
    if not values or not all(isinstance(number, int) for number in values):
        raise ValueError(f"the TIFF tag {tag} holds {value!r:.50}, no whole numbers")
    return values


def _misread_layout(tags: Mapping[int, Any], prefix: bytes) -> str | None:
    """Returns the name of a layout that PIL misreads, or None."""
    bits = max(_numbers(tags, _TAG.BitsPerSample, 1))
    kinds = set(_numbers(tags, _SAMPLE_FORMAT, _UNSIGNED))
    (samples,) = _numbers(tags, _TAG.SamplesPerPixel, 1)[:1]
    (compression,) = _numbers(tags, _TAG.Compression, _UNCOMPRESSED)[:1]
    photometric = _numbers(tags, _TAG.PhotometricInterpretation, 0)[0]
    separate = _numbers(tags, _TAG.PlanarConfiguration, 1)[0] == _SEPARATE and samples > 1
    raw = compression == _UNCOMPRESSED
    extra = tags.get(_TAG.ExtraSamples, ())
    predictor = _numbers(tags, _TAG.Predictor, 1)[0]
    fill_order = _numbers(tags, _FILL_ORDER, 1)[0]
    subsampling = tags.get(_TAG.YCbCrSubSampling, (2, 2))
    colours = tags.get(_COLOR_MAP, (65535,))
    found = {
        # Readers guess, and not alike: 0 is white for some of them.
        "grey values without PhotometricInterpretation": (
            samples == 1 and _TAG.PhotometricInterpretation not in tags
        ),
        "samples of several formats": len(kinds) > 1,
        f"signed values of {bits} bits": _SIGNED in kinds and bits < 16,
        "compressed signed or float values in big-endian order": (
            not raw and prefix[:2] == b"MM" and bool(kinds & {_SIGNED, _FLOAT}) and bits > 8
        ),
        f"uncompressed separate planes of {bits} bits": separate and raw and bits != 8,
        "separate planes of grey and alpha": separate and samples == 2 and tuple(extra) != (0,),
        "separate planes of YCbCr": separate and photometric == _YCBCR,
        f"predictor {predictor} with compression {compression}": (
            predictor != 1 and compression not in _WITH_PREDICTOR
        ),
        f"reversed bits in values of {bits} bits": fill_order == 2 and bits > 8,
        "uncompressed YCbCr with fewer values of colour": (
            raw and photometric == _YCBCR and samples > 1 and tuple(subsampling) != (1, 1)
        ),
        "a palette of 16 bits that holds values of 8 bits": (
            photometric == _PALETTE and 0 < max(colours) < 256
        ),
        "inks other than CMYK": (photometric == _CMYK and _numbers(tags, _INK_SET, 1)[0] != 1),
    }
    return next((layout for layout, is_found in found.items() if is_found), None)


def _missing_pixels(tags: Mapping[int, Any]) -> str | None:
    """Returns what says that strips or tiles are missing or far too large, or None."""
    width = _numbers(tags, _TAG.ImageWidth, 0)[0]
    height = _numbers(tags, _TAG.ImageLength, 0)[0]
    (samples,) = _numbers(tags, _TAG.SamplesPerPixel, 1)[:1]
    planes = samples if _numbers(tags, _TAG.PlanarConfiguration, 1)[0] == _SEPARATE else 1
    tiled = _TAG.StripOffsets not in tags
    if tiled and _TAG.TileOffsets not in tags:
        return "neither strips nor tiles"
    kind, offset_tag = ("tile", _TAG.TileOffsets) if tiled else ("strip", _TAG.StripOffsets)
    count_tag = _TAG.TileByteCounts if tiled else _TAG.StripByteCounts
    wide = _numbers(tags, _TAG.TileWidth, 0)[0] if tiled else width
    # A strip may declare more rows than the picture has. PIL's ImageLength is then its height.
    high = (
        _numbers(tags, _TAG.TileLength, 0)[0]
        if tiled
        else min(_numbers(tags, _TAG.RowsPerStrip, height)[0], height)
    )
    if wide < 1 or high < 1:
        return f"{kind}s of {wide}x{high} pixels"
    if wide * high > max(_USUAL_TILE, 4 * width * height):
        return f"{kind}s of {wide}x{high} pixels for {width}x{height} pixels"
    needed = -(-width // wide) * -(-height // high) * planes
    offsets = _numbers(tags, offset_tag, 0)
    if len(offsets) < needed:
        return f"{len(offsets)} of {needed} {kind}s"
    counts = _numbers(tags, count_tag, 1)
    # A program that leaves out empty parts of a picture writes zeros for them.
    absent = sum(value == 0 for value in (*offsets[:needed], *counts[:needed]))
    return f"{absent} {kind}s that are left out" if absent else None
