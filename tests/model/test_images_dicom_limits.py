"""DICOM files that unpack to more than they declare, or to another picture."""

import io
import struct
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

sys.path.insert(0, str(Path(__file__).parent))

from images_samples import dicom, encoded, smooth, written

from mmfusion.model.images import ImageError, load_image
from mmfusion.model.images_dicom_limits import Deflated, LimitedFile

PIXELS = smooth()
DEEP = PIXELS[..., 0].astype(np.uint16) * 200
LIMIT = 100_000_000


def deflated(parts: list[bytes], zeros: int) -> bytes:
    """Returns a deflated file: the header, the parts, and then so many zeros."""
    whole = written(dicom(DEEP, uid.DeflatedExplicitVRLittleEndian))
    (length,) = struct.unpack("<I", whole[140:144])
    body = zlib.decompress(whole[144 + length :], -15)
    packer = zlib.compressobj(9, wbits=-15)
    data = b"".join(packer.compress(part.replace(b"BODY", body)) for part in parts)
    block = bytes(10_000_000)
    data += b"".join(packer.compress(block) for _ in range(zeros // len(block)))
    return whole[: 144 + length] + data + packer.flush()


PRIVATE = b"\x09\0\x01\x10OB\0\0" + struct.pack("<I", 4_000_000_000)
BOMBS: dict[str, tuple[bytes, str]] = {
    "behind the pixels": (deflated([b"BODY"], 500_000_000), "a deflated DICOM file of at most"),
    "before the pixels": (deflated([PRIVATE], 500_000_000), "a DICOM picture with a number as"),
    "cut": (deflated([b"BODY"], 40_000_000)[:-2000], "cut short|at most"),
}


@pytest.mark.parametrize(("content", "message"), BOMBS.values(), ids=BOMBS.keys())
def test_a_deflated_bomb_is_refused_in_little_memory(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.dcm"
    path.write_bytes(content)
    load_image(dicom(DEEP))
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=message):
            load_image(path)
        assert tracemalloc.get_traced_memory()[1] < LIMIT
    finally:
        tracemalloc.stop()


def test_a_whole_deflated_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "whole.dcm"
    path.write_bytes(written(dicom(DEEP, uid.DeflatedExplicitVRLittleEndian)))
    right = np.asarray(load_image(dicom(DEEP)))
    np.testing.assert_array_equal(np.asarray(load_image(path)), right)
    large = dicom(np.tile(DEEP, (60, 60)), uid.DeflatedExplicitVRLittleEndian)
    path.write_bytes(written(large))
    found = np.asarray(load_image(path))
    np.testing.assert_array_equal(found[:60, :80], right)
    with pytest.raises(ImageError, match="must be at most 1000 pixels"):
        load_image(path, max_pixels=1000)


def resized(stream: bytes, width: int, height: int) -> bytes:
    """Returns a JPEG whose header declares another size."""
    at = max(stream.find(b"\xff\xc0"), stream.find(b"\xff\xc2"))
    return stream[: at + 5] + struct.pack(">HH", height, width) + stream[at + 9 :]


GREY_JPEG = encoded(PIXELS[..., 0], "JPEG")
STREAM = encoded(PIXELS, "JPEG2000", no_jp2=True)
CODESTREAMS: dict[str, tuple[np.ndarray, uid.UID, bytes, str]] = {
    "larger JPEG": (
        PIXELS[..., 0],
        uid.JPEGBaseline8Bit,
        resized(GREY_JPEG, 65000, 65000),
        r"as its header says \(80x60 pixels of 1 samples, 8 bits\), got 65000x65000",
    ),
    "smaller JPEG": (PIXELS[..., 0], uid.JPEGBaseline8Bit, resized(GREY_JPEG, 8, 8), "got 8x8"),
    "colour JPEG": (
        PIXELS[..., 0],
        uid.JPEGBaseline8Bit,
        encoded(PIXELS, "JPEG"),
        "of 3 samples, 8 bits",
    ),
    "cut JPEG": (
        PIXELS[..., 0],
        uid.JPEGBaseline8Bit,
        GREY_JPEG[:-300] + b"\xff\xd9",
        "image file is truncated",
    ),
    "larger JPEG 2000": (
        PIXELS,
        uid.JPEG2000Lossless,
        STREAM[:8] + struct.pack(">II", 60000, 60000) + STREAM[16:],
        "got 60000x60000 pixels of 3 samples",
    ),
    "tiles of one pixel": (
        PIXELS,
        uid.JPEG2000Lossless,
        STREAM[:24] + struct.pack(">II", 1, 1) + STREAM[32:],
        "got 1 of 4800 tiles",
    ),
}


@pytest.mark.parametrize(
    ("pixels", "syntax", "stream", "message"), CODESTREAMS.values(), ids=CODESTREAMS.keys()
)
def test_compressed_pixels_are_what_the_header_declares(
    pixels: np.ndarray, syntax: uid.UID, stream: bytes, message: str, tmp_path: Path
) -> None:
    dataset = dicom(pixels, syntax, PixelData=encapsulate([stream]))
    (tmp_path / "a.dcm").write_bytes(written(dataset))
    for source in (dataset, tmp_path / "a.dcm"):
        with pytest.raises(ImageError, match=message):
            load_image(source)


def test_whole_compressed_pixels_are_read() -> None:
    lossless = dicom(PIXELS, uid.JPEG2000Lossless, PixelData=encapsulate([STREAM]))
    np.testing.assert_array_equal(np.asarray(load_image(lossless)), PIXELS)
    lossy = dicom(PIXELS[..., 0], uid.JPEGBaseline8Bit, PixelData=encapsulate([GREY_JPEG]))
    assert np.abs(np.asarray(load_image(lossy)).astype(int) - PIXELS[..., 0]).mean() < 10


def test_a_file_is_never_read_beyond_its_end() -> None:
    file = LimitedFile(io.BytesIO(b"abcdef"))
    assert file.read(4) == b"abcd" and file.tell() == 4
    tracemalloc.start()
    assert file.read(4_000_000_000) == b"ef" and file.read(1) == b""
    assert tracemalloc.get_traced_memory()[1] < 10_000
    tracemalloc.stop()
    assert file.seek(1) == 1
    with pytest.raises(Deflated):
        file.read()
