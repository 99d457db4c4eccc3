"""The checks of whole picture files for damage that PIL passes over.

Only the standard library and PIL are imported here, because this file travels with every model
that is pushed to a hub.
"""

from __future__ import annotations

import io
import zlib
from typing import Any

from PIL import Image, ImageChops

from .images_base import RENEW, image_error
from .images_jpeg import missing_tiles, parse_jpeg2000, whole_jpeg
from .images_tiff import check_deflated

# Large areas of one colour give shorter runs of zeros.
_ZEROED = 512


def checked_image(image: Image.Image, name: str) -> Image.Image:
    """Returns an image of the same file whose pixels are all there, decoded or not.

    PIL images that are decoded already, and those without a file, come back as they are.

    Args:
        image: the image as PIL opened it, at its first frame.
        name: the picture, for the error.

    Raises:
        ImageError: if the file is damaged.
    """
    file: Any = getattr(image, "fp", None)
    # PIL decodes WebP from a copy, so its list of tiles is empty before decoding, too.
    if file is None or not (getattr(image, "tile", None) or image.format == "WEBP"):
        return image
    if image.format not in ("PNG", "JPEG", "MPO", "JPEG2000", "WEBP", "TIFF"):
        return image
    position = file.tell()
    if image.format == "TIFF":
        check_deflated(image, file, name)
        file.seek(position)
        return image
    file.seek(0)
    content: bytes = file.read()
    file.seek(position)
    if image.format == "PNG":
        _check_chunks(content, name)
    elif image.format == "JPEG2000":
        _check_jpeg2000(content, image, name)
    elif image.format == "WEBP":
        _check_zeros(content, image, name)
    else:
        return _checked_jpeg(content, image, name)
    return image


def _check_chunks(content: bytes, name: str) -> None:
    """Raises an ImageError if a chunk of a PNG is missing or differs from its checksum.

    Source: PNG specification (W3C), 5.3 (chunk layout).
    """
    view, at = memoryview(content), 8
    while at + 12 <= len(view):
        length = int.from_bytes(view[at : at + 4], "big")
        end = at + 8 + length
        kind = bytes(view[at + 4 : at + 8])
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            got = f"a chunk {kind!r} at byte {at} that is cut or differs from its checksum"
            raise image_error(name, "a complete, undamaged picture", got, RENEW)
        if kind == b"IEND":
            return
        at = end + 4
    got = "a PNG without its last chunk (IEND)"
    raise image_error(name, "a complete, undamaged picture", got, RENEW)


def _checked_jpeg(content: bytes, image: Image.Image, name: str) -> Image.Image:
    """Returns a decoded JPEG, or raises an ImageError if data are missing."""
    whole, noisy = whole_jpeg(content, name)
    opened = Image.open(io.BytesIO(whole), formats=("JPEG",))
    opened.load()
    if noisy is not None:
        other = Image.open(io.BytesIO(noisy), formats=("JPEG",))
        other.load()
        if ImageChops.difference(_plain(opened), _plain(other)).getbbox(alpha_only=False):
            got = "a last scan that ends too early"
            raise image_error(name, "a complete, undamaged picture", got, RENEW)
    # The user of a PIL image may have chosen another size or mode with `draft`.
    same = (opened.size, opened.mode) == (image.size, image.mode)
    return opened if same else image


def _plain(image: Image.Image) -> Image.Image:
    """Returns an image of a mode that ImageChops takes."""
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _check_jpeg2000(content: bytes, image: Image.Image, name: str) -> None:
    """Raises an ImageError if the compressed data are of another size, or lack tiles."""
    frame = parse_jpeg2000(content)
    if frame is None:
        raise image_error(name, "a JPEG 2000 file", "no codestream in it", RENEW)
    if (frame.width, frame.height) != image.size:
        got = f"{frame.width}x{frame.height}"
        size = f"{image.width}x{image.height} inside as its header says"
        raise image_error(name, size, got, RENEW)
    missing = missing_tiles(content)
    if missing:
        raise image_error(name, "a complete, undamaged picture", missing, RENEW)


def _check_zeros(content: bytes, image: Image.Image, name: str) -> None:
    """Raises an ImageError if the end of a WebP file is zeroed.

    WebP has no checksum. A picture of one colour may end in zeros, so it passes.
    """
    zeros = len(content) - len(content.rstrip(b"\0"))
    if zeros < max(_ZEROED, len(content) // 4):
        return
    image.load()
    extrema = image.convert("RGB").getextrema()
    if any(low != high for low, high in extrema):  # type: ignore[misc]
        got = f"a file whose last {zeros} of {len(content)} bytes are zeros"
        raise image_error(name, "a complete, undamaged picture", got, RENEW)
