"""The limits of DICOM files: what they unpack to, before it is unpacked.

Only the standard library is imported here, because this file travels with every model that is
pushed to a hub.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, final

from .images_base import RENEW, image_error
from .images_jpeg import missing_tiles, parse_jpeg, parse_jpeg2000

# Elements beside the pixels, such as icons and private ones, may take so many bytes.
_BESIDE_PIXELS = 16 * 2**20


class Deflated(Exception):
    """The stop of a reader that is about to unpack a whole deflated file at once."""


@final
class LimitedFile:
    """A file that pydicom can read, but neither beyond its end nor whole.

    pydicom reads the rest of a file as a whole only to unpack a deflated one. An element may
    declare a length of gigabytes in a file of a few bytes, for which Python would take the memory.
    """

    def __init__(self, file: BinaryIO | io.BytesIO) -> None:
        self._file = file
        position = file.tell()
        self._end = file.seek(0, os.SEEK_END)
        file.seek(position)
        self.name = getattr(file, "name", None)

    def read(self, size: int = -1) -> bytes:
        """Returns the next bytes, at most up to the end of the file."""
        if size < 0:
            raise Deflated
        return self._file.read(min(size, max(0, self._end - self._file.tell())))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Returns the new position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Returns the position."""
        return self._file.tell()

    def close(self) -> None:
        """Leaves the file open, because who opened it closes it."""


def inflated(
    file: BinaryIO | io.BytesIO, declared_size: Callable[[io.BytesIO], int], name: str
) -> io.BytesIO:
    """Returns the unpacked rest of a deflated file.

    Args:
        file: the file, at the first byte that is deflated.
        declared_size: a function that reads the header in the unpacked beginning of the file and
            returns the number of bytes of the pixels. It raises an ImageError for too many pixels.
        name: the picture, for the error.

    Raises:
        ImageError: if the file unpacks to more than its header and pixels need.
    """
    packed = file.read()
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    first = unpacker.decompress(packed, _BESIDE_PIXELS)
    if unpacker.eof:
        return io.BytesIO(first)
    limit = declared_size(io.BytesIO(first)) + _BESIDE_PIXELS
    # zlib takes a limit of 0 as none.
    rest = unpacker.decompress(unpacker.unconsumed_tail, max(1, limit - len(first)))
    if unpacker.unconsumed_tail and not unpacker.eof:
        rule = f"a deflated DICOM file of at most {limit} bytes, as its header says"
        raise image_error(name, rule, "more (a decompression bomb?)", RENEW)
    if not unpacker.eof:
        raise image_error(name, "a complete, undamaged picture", "a deflated file cut short", RENEW)
    return io.BytesIO(first + rest)


def check_codestream(frame: bytes, kind: str, shape: Any, name: str) -> None:
    """Raises an ImageError if compressed pixels declare another picture than the header.

    A decoder takes the memory that the codestream declares.

    Args:
        frame: the compressed bytes of the one frame.
        kind: the name of its transfer syntax.
        shape: what the header says, as `read_shape` returns it.
        name: the picture, for the error.
    """
    missing = None
    if kind.startswith("JPEG 2000") or "High-Throughput" in kind:
        declared = parse_jpeg2000(frame)
        frames = [declared] if declared else []
        missing = missing_tiles(frame) if declared else None
    elif kind.startswith("JPEG"):
        frames = parse_jpeg(frame).frames
    else:
        return
    said = shape.columns, shape.rows, shape.samples
    for found in frames:
        got = found.width, found.height, len(found.components)
        if got != said or found.bits > shape.allocated:
            words = "{}x{} pixels of {} samples"
            rule = f"compressed as its header says ({words.format(*said)}, {shape.allocated} bits)"
            raise image_error(name, rule, f"{words.format(*got)}, {found.bits} bits", RENEW)
    if missing:
        raise image_error(name, "a complete, undamaged picture", missing, RENEW)
