"""JPEG and JPEG 2000 files that are cut short or contradict themselves, and whole ones."""

import io
import os
import re
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from images_samples import encoded, smooth

from mmfusion.model.images import ImageError, load_image
from mmfusion.model.images_jpeg import missing_tiles, parse_jpeg, parse_jpeg2000

PIXELS = smooth()
# Kinds of JPEG: the options of PIL. Blocks of 16 x 16 pixels do not divide the size.
KINDS: dict[str, dict[str, object]] = {
    "baseline": {"quality": 90},
    "coarse": {"quality": 10},
    "optimised": {"optimize": True},
    "full colour": {"subsampling": 0},
    "restarts": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
    "fine progressive": {"progressive": True, "quality": 100, "subsampling": 0},
}
CONTENTS = {name: encoded(PIXELS, "JPEG", **options) for name, options in KINDS.items()}
CONTENTS["grey"] = encoded(PIXELS[..., 0], "JPEG")
CONTENTS["grey progressive"] = encoded(PIXELS[..., 0], "JPEG", progressive=True)
CONTENTS["flat"] = encoded(np.zeros_like(PIXELS), "JPEG", optimize=True)
CONTENTS["half flat"] = encoded(PIXELS * (np.arange(80) < 40)[:, None], "JPEG", optimize=True)


def seen(content: bytes, folder: Path) -> np.ndarray:
    path = folder / "picture.jpg"
    path.write_bytes(content)
    return np.asarray(load_image(path))


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("tail", [b"", b"\0" * 100, b"camera notes \xff\xd8\xff"])
def test_whole_files_are_read_as_another_library_reads_them(
    kind: str, tail: bytes, tmp_path: Path
) -> None:
    content = CONTENTS[kind] + tail
    found = seen(content, tmp_path).astype(int)
    flag = cv2.IMREAD_GRAYSCALE if found.ndim == 2 else cv2.IMREAD_COLOR_RGB
    right = cv2.imdecode(np.frombuffer(content, np.uint8), flag).astype(int)
    # Both may use different builds of libjpeg.
    assert np.abs(found - right).max() <= 2
    np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize("kind", [kind for kind in CONTENTS if kind != "flat"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.8, 0.95])
def test_a_file_that_is_cut_and_closed_is_refused(kind: str, share: float, tmp_path: Path) -> None:
    whole = CONTENTS[kind]
    start = whole.index(b"\xff\xda") + 2
    kept = whole[: start + 12 + int((len(whole) - start - 14) * share)]
    closed = kept.removesuffix(b"\xff") + b"\xff\xd9"
    if "progressive" not in kind:
        # libjpeg fills the rest, so PIL alone reads it.
        assert Image.open(io.BytesIO(closed)).convert("L").size == (80, 60)
    with pytest.raises(ImageError, match="picture.jpg' must be a complete, undamaged picture"):
        seen(closed, tmp_path)
    with pytest.raises(ImageError, match="must be a complete, undamaged picture"):
        load_image(Image.open(io.BytesIO(closed)))


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_file_whose_end_is_missing_or_zeroed_is_refused(kind: str, tmp_path: Path) -> None:
    whole = CONTENTS[kind]
    half = len(whole) - (len(whole) - whole.index(b"\xff\xda")) // 2
    for content in (whole[:-1], whole[:-2], whole[:half] + bytes(len(whole) - half)):
        with pytest.raises(ImageError, match="must be a complete, undamaged picture"):
            seen(content, tmp_path)


@pytest.mark.parametrize("kind", ["baseline", "grey", "full colour"])
def test_zeros_in_the_middle_are_refused(kind: str, tmp_path: Path) -> None:
    whole = bytearray(CONTENTS[kind])
    middle = (whole.index(b"\xff\xda") + len(whole)) // 2
    whole[middle : middle + 80] = bytes(80)
    assert Image.open(io.BytesIO(whole)).convert("L").size == (80, 60)
    with pytest.raises(ImageError, match="64 or more zeros in a row in its compressed data"):
        seen(bytes(whole), tmp_path)


def test_areas_of_one_colour_are_no_damage(tmp_path: Path) -> None:
    """With optimised codes, large areas of one colour are long runs of zeros."""
    pixels = np.zeros((800, 800), np.uint8)
    pixels[:8, :8] = 200
    content = encoded(pixels, "JPEG", optimize=True)
    assert bytes(64) in content[content.index(b"\xff\xda") :]
    assert seen(content, tmp_path).shape == (800, 800)


def test_a_progressive_file_without_its_last_scans_is_refused(tmp_path: Path) -> None:
    whole = CONTENTS["progressive"]
    scans = [match.start() for match in re.finditer(b"\xff\xda", whole)]
    assert len(scans) == 10
    for start in scans[1:]:
        with pytest.raises(ImageError, match=r"scans that do not complete \d of 3 components"):
            seen(whole[:start] + b"\xff\xd9", tmp_path)
    with pytest.raises(ImageError, match="more than 200 scans"):
        seen(whole[:-2] + whole[scans[-1] : -2] * 300 + b"\xff\xd9", tmp_path)


def test_headers_are_parsed() -> None:
    jpeg = parse_jpeg(CONTENTS["progressive"])
    (frame,) = jpeg.frames
    assert frame[:3] == (0xC2, 80, 60) and frame.components == (1, 2, 3) and frame.bits == 8
    assert jpeg.end == len(CONTENTS["progressive"]) - 2
    assert parse_jpeg(b"\xff\xd8\xff\xd9") == ([], [], 2)
    assert parse_jpeg(b"\xff\xd8\xff") == ([], [], None)
    stream = encoded(PIXELS, "JPEG2000", tile_size=(32, 32), no_jp2=True)
    assert parse_jpeg2000(stream) == (0, 80, 60, (0, 1, 2), 8)
    assert missing_tiles(stream) is None
    assert parse_jpeg2000(stream[:20]) is None and parse_jpeg2000(b"") is None


def jpeg2000_faults() -> dict[str, tuple[bytes, str]]:
    stream = encoded(PIXELS, "JPEG2000", tile_size=(32, 32), no_jp2=True)
    boxed = encoded(PIXELS, "JPEG2000")
    first = stream.index(b"\xff\x90\x00\x0a")
    (length,) = struct.unpack(">I", stream[first + 6 : first + 10])
    size = boxed.index(b"\xff\x4f\xff\x51") + 8
    tiny = stream[:24] + struct.pack(">II", 1, 1) + stream[32:]
    large = boxed[:size] + struct.pack(">II", 60000, 60000) + boxed[size + 8 :]
    return {
        "a tile left out": (stream[:first] + stream[first + length :], "got 5 of 6 tiles"),
        "tiles of one pixel": (tiny, "got 6 of 4800 tiles"),
        "cut and closed": (stream[:-500] + b"\xff\xd9", "a tile that is cut short"),
        "another size inside": (large, "80x60 inside as its header says, got 60000x60000"),
    }


@pytest.mark.parametrize(
    ("content", "message"), jpeg2000_faults().values(), ids=jpeg2000_faults().keys()
)
def test_faulty_jpeg_2000_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=message):
        seen(content, tmp_path)


def test_whole_jpeg_2000_is_read(tmp_path: Path) -> None:
    for options in ({}, {"tile_size": (32, 32)}, {"no_jp2": True}):
        np.testing.assert_array_equal(
            seen(encoded(PIXELS, "JPEG2000", **options), tmp_path), PIXELS
        )


@pytest.mark.skipif("MMFUSION_DATA" not in os.environ, reason="MMFUSION_DATA is not set")
def test_real_jpegs_raise_no_false_alarm() -> None:
    paths = sorted(Path(os.environ["MMFUSION_DATA"]).rglob("*.jp*g"))[::5]
    assert paths
    for path in paths:
        with Image.open(path) as image:
            right = np.asarray(image)
        np.testing.assert_array_equal(np.asarray(load_image(path)), right)
