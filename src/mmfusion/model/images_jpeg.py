"""What JPEG and JPEG 2000 files declare, and whether all of their pixels are there.

libjpeg fills what is missing with grey and only warns, and PIL does not pass the warning on.
Only the standard library is imported here, because this file travels with every model that is
pushed to a hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, final

from .images_base import RENEW, image_error

# It begins with one plain byte, so that the search is fast.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_SOI, _EOI, _SOS, _DHT, _JPEG_LS = 0xD8, 0xD9, 0xDA, 0xC4, 0xF7
# All start-of-frame markers, without DHT (C4), JPG (C8) and DAC (CC).
_FRAMES = {*range(0xC0, 0xD0), _JPEG_LS} - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL_HUFFMAN, _PROGRESSIVE = (0xC0, 0xC1), (0xC2, 0xCA)
# No encoder writes more. A file with many thousands would keep the decoder busy for hours.
_MOST_SCANS = 200
_LONG_RUN = bytes(64)
# The start of a JPEG 2000 codestream with its first segment, and the start of a tile-part.
_CODESTREAM, _TILE_PART = b"\xff\x4f\xff\x51", b"\xff\x90\x00\x0a"
# No Huffman code consists of ones only, so these bytes hold not even one block.
_NO_CODES = b"\xff\x00" * 12
_NOISE = bytes(number * 97 % 251 for number in range(1, 128))


@final
class Frame(NamedTuple):
    """What the header of a compressed picture declares."""

    kind: int
    width: int
    height: int
    components: tuple[int, ...]
    bits: int


@final
class _Scan(NamedTuple):
    """One scan of a JPEG: where its data lie, and which coefficients it holds."""

    start: int
    end: int
    components: tuple[int, ...]
    coefficients: range
    low_bit: int
    tables: tuple[int, ...]
    codes: bytes

    def has_zeroed_part(self, content: bytes) -> bool:
        """Returns whether the data hold a run of zeros that is no area of one colour."""
        # `find` copies nothing.
        if content.find(_LONG_RUN, self.start, self.end) < 0 or not self.coefficients[-1]:
            return False
        # Symbols whose lower half is zero end a block. Where their code is all zeros in the tables
        # of all components, an area of one colour is a run of zeros. The same is true of scans of
        # the blocks' means only, which hold no other coefficient.
        symbols = dict(_first_symbols(self.codes))
        return any(symbols.get(0x10 | number & 0x0F, 0) & 0x0F for number in self.tables)


@final
class Jpeg(NamedTuple):
    """The frames and scans of a JPEG, and where its end marker lies (None if it has none)."""

    frames: list[Frame]
    scans: list[_Scan]
    end: int | None


def parse_jpeg(content: bytes) -> Jpeg:
    """Returns the structure of the first picture of a JPEG file, whatever is damaged in it."""
    jpeg, at, scan_start = Jpeg([], [], None), 2, -1
    parameters = codes = b""
    while match := _MARKER.search(content, at):
        marker, at = match.group(1)[0], match.end()
        if scan_start >= 0:
            jpeg.scans.append(_scan(parameters, scan_start, match.start(), codes))
            scan_start = -1
        if marker == _EOI:
            return jpeg._replace(end=match.start())
        if marker in (_SOI, 0x01):
            continue
        length = int.from_bytes(content[at : at + 2], "big")
        body = content[at + 2 : at + length]
        at += max(length, 2)
        if marker in _FRAMES and len(body) >= 6:
            bits, height, width = body[0], body[1:3], body[3:5]
            sizes = int.from_bytes(width, "big"), int.from_bytes(height, "big")
            jpeg.frames.append(Frame(marker, *sizes, tuple(body[6::3][: body[5]]), bits))
        elif marker == _DHT:
            codes += body
        elif marker == _SOS:
            parameters, scan_start = body, at
        if len(jpeg.scans) > _MOST_SCANS:
            break
    return jpeg


def _first_symbols(body: bytes) -> Iterator[tuple[int, int]]:
    """Yields the number of each Huffman table, and the symbol whose code is all zeros."""
    at = 0
    while at + 17 < len(body):
        yield body[at], body[at + 17]
        at += 17 + sum(body[at + 1 : at + 17])


def _scan(parameters: bytes, start: int, end: int, codes: bytes) -> _Scan:
    """Returns a scan by the parameters of its marker and the code tables before it."""
    count = parameters[0] if parameters else 0
    pairs, last = parameters[1 : 1 + 2 * count], parameters[1 + 2 * count : 4 + 2 * count]
    first, final, bits = last if len(last) == 3 else (0, 63, 0)
    places = range(first, max(first, final) + 1)
    return _Scan(start, end, tuple(pairs[::2]), places, bits & 0x0F, tuple(pairs[1::2]), codes)


def whole_jpeg(content: bytes, name: str) -> tuple[bytes, bytes | None]:
    """Returns a JPEG in a form that PIL refuses if pixels are missing.

    A sequential JPEG has one scan. Its end marker is replaced by bytes that are no code: a decoder
    that still needs data then says that the file is truncated, instead of filling the rest with
    grey. Pixels of a whole file do not change. With several scans this is not possible. The second
    result is then the same file with noise before its end marker. It decodes to the same pixels
    only if no data are missing.

    Args:
        content: the file.
        name: the picture, for the error.

    Raises:
        ImageError: if the end marker, scans or components are missing, or if part of the data is
            zeroed.

    Source: ITU-T T.81, B.1.1 (markers), F.2.2.3 (codes), G.1.1.1 (the scans of progressive JPEG).
    """
    jpeg = parse_jpeg(content)
    fault = _fault(content, jpeg)
    if fault:
        raise image_error(name, "a complete, undamaged picture", fault, RENEW)
    end = jpeg.scans[-1].end
    if len(jpeg.scans) == 1 and jpeg.frames[0].kind in _SEQUENTIAL_HUFFMAN:
        # Joined from a view, so that the file is copied once.
        return b"".join((memoryview(content)[:end], _NO_CODES)), None
    return content, content[:end] + _NOISE + content[end:]


def _fault(content: bytes, jpeg: Jpeg) -> str | None:
    """Returns what is missing in a JPEG, or None."""
    if len(jpeg.scans) > _MOST_SCANS:
        return f"more than {_MOST_SCANS} scans"
    if len(jpeg.frames) != 1 or not jpeg.scans:
        return f"{len(jpeg.frames)} headers of frames and {len(jpeg.scans)} scans"
    if jpeg.end is None:
        return "a JPEG without its end (it is cut short?)"
    for scan in jpeg.scans:
        if scan.has_zeroed_part(content):
            return f"{len(_LONG_RUN)} or more zeros in a row in its compressed data"
    frame = jpeg.frames[0]
    if frame.kind in _PROGRESSIVE:
        missing = _incomplete_components(frame, jpeg.scans)
    else:
        missing = set(frame.components).difference(*(scan.components for scan in jpeg.scans))
    if missing:
        return f"scans that do not complete {len(missing)} of {len(frame.components)} components"
    return None


def _incomplete_components(frame: Frame, scans: list[_Scan]) -> set[int]:
    """Returns the components of which no scan holds the lowest bit of some coefficient."""
    lowest: dict[tuple[int, int], int] = {}
    for scan in scans:
        for component in scan.components:
            lowest.update({(component, place): scan.low_bit for place in scan.coefficients})
    return {c for c in frame.components for place in range(64) if lowest.get((c, place), 1)}


def parse_jpeg2000(content: bytes) -> Frame | None:
    """Returns what a JPEG 2000 codestream declares, or None if there is none.

    Source: ITU-T T.800, A.5.1 (image and tile size).
    """
    at = content.find(_CODESTREAM)
    header = content[at + 8 : at + 43]
    if at < 0 or len(header) < 35:
        return None
    x1, y1, x0, y0 = (int.from_bytes(header[i : i + 4], "big") for i in range(0, 16, 4))
    # No picture has so many components that the list of their numbers would be long.
    count = min(int.from_bytes(header[32:34], "big"), 100)
    return Frame(0, x1 - x0, y1 - y0, tuple(range(count)), (header[34] & 0x7F) + 1)


def missing_tiles(content: bytes) -> str | None:
    """Returns what says that a JPEG 2000 codestream lacks tiles, or has far too many, or None.

    Decoders leave missing tiles black.

    Source: ITU-T T.800, A.4.2 (tile-part), A.5.1 (image and tile size).
    """
    at = content.find(_CODESTREAM)
    header = content[at + 8 : at + 40]
    numbers = [int.from_bytes(header[i : i + 4], "big") for i in range(0, 32, 4)]
    x1, y1, _, _, wide, high, x0, y0 = numbers
    if not wide or not high:
        return "tiles of no size"
    count = -(-(x1 - x0) // wide) * -(-(y1 - y0) // high)
    # The number of a tile is a word, and the largest word stands for none.
    if count > 65535:
        return f"{count} tiles"
    found, at = set[int](), content.find(_TILE_PART, at)
    while content[at : at + 4] == _TILE_PART and at >= 0:
        found.add(int.from_bytes(content[at + 4 : at + 6], "big"))
        length = int.from_bytes(content[at + 6 : at + 10], "big")
        # The last tile-part may leave its length open.
        at = at + length if length else len(content)
        if at > len(content):
            return "a tile that is cut short"
    lacking = count - len(found & set(range(count)))
    return f"{count - lacking} of {count} tiles" if lacking else None
