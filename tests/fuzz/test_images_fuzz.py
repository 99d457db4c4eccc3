"""Damaged pictures: each is read or refused by an ImageError, in little time and memory."""

import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "model"))

import runner
from images_samples import dicom, encoded, written

SMOOTH = np.add.outer(np.arange(60) * 2, np.arange(80)).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 60, (60, 80, 3), dtype=np.uint8)
COLOUR = (SMOOTH[..., None] + NOISE).astype(np.uint8)
DEEP = COLOUR[..., 0].astype(np.uint16) * 200

SAVED: dict[str, tuple[np.ndarray, str, dict[str, Any]]] = {
    "grey.png": (SMOOTH, "PNG", {}),
    "colour.png": (COLOUR, "PNG", {}),
    "deep.png": (DEEP, "PNG", {}),
    "baseline.jpg": (COLOUR, "JPEG", {}),
    "optimised.jpg": (SMOOTH, "JPEG", {"optimize": True}),
    "progressive.jpg": (COLOUR, "JPEG", {"progressive": True}),
    "raw.tif": (COLOUR, "TIFF", {}),
    "deep.tif": (DEEP, "TIFF", {}),
    "lzw.tif": (COLOUR, "TIFF", {"compression": "tiff_lzw"}),
    "deflate.tif": (COLOUR, "TIFF", {"compression": "tiff_adobe_deflate"}),
    "jpeg.tif": (COLOUR, "TIFF", {"compression": "jpeg"}),
    "big.tif": (COLOUR, "TIFF", {"big_tiff": True}),
    "raw.bmp": (COLOUR, "BMP", {}),
    "lossy.webp": (COLOUR, "WEBP", {}),
    "lossless.webp": (COLOUR, "WEBP", {"lossless": True}),
    "grey.gif": (SMOOTH, "GIF", {}),
    "raw.ppm": (COLOUR, "PPM", {}),
    "raw.jp2": (COLOUR, "JPEG2000", {}),
}


def dicoms() -> Iterator[tuple[str, Dataset]]:
    window = {"WindowCenter": 20000, "WindowWidth": 30000, "RescaleSlope": 1}
    yield "explicit.dcm", dicom(DEEP, **window, RescaleIntercept=0)
    yield "implicit.dcm", dicom(SMOOTH, uid.ImplicitVRLittleEndian)
    yield "big.dcm", dicom(DEEP, uid.ExplicitVRBigEndian)
    yield "deflated.dcm", dicom(DEEP, uid.DeflatedExplicitVRLittleEndian)
    jpeg = encapsulate([encoded(SMOOTH, "JPEG")])
    yield "jpeg.dcm", dicom(SMOOTH, uid.JPEGBaseline8Bit, PixelData=jpeg)
    stream = encapsulate([encoded(COLOUR, "JPEG2000", no_jp2=True)])
    yield "j2k.dcm", dicom(COLOUR, uid.JPEG2000Lossless, PixelData=stream)
    palette: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name in ("Red", "Green", "Blue"):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        palette[f"{name}PaletteColorLookupTableData"] = bytes(range(256))
    yield "palette.dcm", dicom(SMOOTH, **palette)
    rle = dicom(DEEP)
    rle.compress(uid.RLELossless)
    yield "rle.dcm", rle


WHOLES = {name: encoded(*args[:2], **args[2]) for name, args in SAVED.items()} | {
    name: written(dataset) for name, dataset in dicoms()
}
READ = "mmfusion.model.images:load_image"


def test_damaged_pictures_are_read_or_refused(tmp_path: Path) -> None:
    whole = [tmp_path / name for name in WHOLES]
    for path in whole:
        path.write_bytes(WHOLES[path.name])
    outcomes = runner.run_all(READ, whole, errors=("ImageError",))
    assert runner.assert_only(outcomes, {"read"}) == {"read": len(WHOLES)}
    damaged = runner.write_damaged(tmp_path, WHOLES, runner.how_many())
    outcomes = runner.run_all(READ, damaged, errors=("ImageError",))
    counts = runner.assert_only(outcomes, {"read", "refused"})
    print(dict(counts))
    # Uncompressed pixels can be changed unseen. Most other damage must be found.
    assert counts["refused"] > counts["read"] > 0


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    contents: list[list[bytes]] = []
    for folder, seed in ((first, 3), (second, 3)):
        folder.mkdir()
        paths = runner.write_damaged(folder, {"a.png": WHOLES["grey.png"]}, 20, seed)
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1] and len(set(contents[0])) > 15
    assert all(content != WHOLES["grey.png"] for content in contents[0])


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ("return 1", "read", ""),
        ("raise ValueError('wrong')", "refused", "wrong"),
        ("raise KeyError('wrong')", "crashed", "KeyError"),
        ("raise SystemExit(3)", "crashed", "SystemExit"),
        ("import time; time.sleep(60)", "hung", "more than 1 seconds"),
        ("import os; os.abort()", "died", "exit status -6"),
        ("bytearray(2**31)", "memory", "MemoryError"),
        ("try:\n  bytearray(2**31)\n except Exception as e: raise ValueError from e", "memory", ""),
    ],
)
def test_the_runner_tells_the_outcomes_apart(
    body: str, kind: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / f"reader_{zlib.crc32(body.encode())}.py"
    module.write_text(f"def read(path):\n {body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    paths = [tmp_path / "a", tmp_path / "b"]
    outcomes = runner.run_all(
        f"{module.stem}:read", paths, errors=("ValueError",), seconds=1, memory=2**30
    )
    assert [(o.path, o.kind) for o in outcomes] == [(path, kind) for path in paths]
    assert all(reason in outcome.reason for outcome in outcomes)
    with pytest.raises(AssertionError, match=f"a: {kind}"):
        runner.assert_only(outcomes, set())


@pytest.mark.parametrize("mutation", runner.MUTATIONS)
def test_mutations_take_the_smallest_files(mutation: Callable[..., None]) -> None:
    for seed in range(200):
        content = bytearray(b"ab")
        mutation(content, runner.random.Random(seed))
        assert len(content) < 1000
