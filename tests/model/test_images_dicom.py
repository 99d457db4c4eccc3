"""Every DICOM picture that must load, and every fault of one that must be refused."""

import io
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder

from mmfusion.model.images import ImageError, load_image

sys.path.insert(0, str(Path(__file__).parent))

from images_samples import dicom, written

MPEG2 = uid.UID("1.2.840.10008.1.2.4.100")
RAMP = np.arange(30, dtype=np.uint8).reshape(5, 6) * 8
COLOUR = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def lookup(descriptor: list[int], data: list[int]) -> list[Dataset]:
    item = Dataset()
    item.LUTDescriptor = descriptor
    item.add_new("LUTData", "US", data)
    return [item]


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


GOOD_PNG = encoded(Image.fromarray(COLOUR), "PNG")
GOOD_DICOM = written(dicom(RAMP))
NAN = np.array([[0.0, np.nan], [np.inf, 1.0]])

# The fault -> (the function that makes the file in a folder, the message). The message must hold
# the name of the file, too.
BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "0 x 0 in DICOM": (
        with_file("z.dcm", written(dicom(RAMP, Rows=0))),
        "at least 1x1 pixel, got 6x0",
    ),
    "DICOM bomb": (
        with_file("b.dcm", written(dicom(RAMP, Rows=60000, Columns=60000))),
        "got 60000x60000",
    ),
    "no DICOM": (
        with_file("d.dcm", b"patient,label\n1,0\n" * 20),
        "a DICOM picture, got no pixel data",
    ),
    "PNG called dcm": (with_file("p.dcm", GOOD_PNG), "is no DICOM file at all"),
    "truncated DICOM": (
        with_file("t.dcm", GOOD_DICOM[:-4]),
        r"whole and decodable \(transfer syntax Explicit",
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


def without_pixels() -> Dataset:
    dataset = dicom(RAMP, Modality="SR")
    del dataset.PixelData
    return dataset


def without_syntax() -> Dataset:
    dataset = dicom(RAMP)
    del dataset.file_meta
    return dataset


# The fault -> (the object, the error, the message).
BAD_OBJECTS: dict[str, tuple[Any, type[Exception], str]] = {
    "DICOM report": (without_pixels(), ImageError, r"got no pixel data \(modality SR\)"),
    "DICOM without syntax": (
        without_syntax(),
        ImageError,
        "transfer syntax, got none in file_meta. Set",
    ),
    "DICOM frames": (
        dicom(RAMP, NumberOfFrames=2),
        ImageError,
        r"got 2 frames. .*pixel_array\(.*index=0",
    ),
    "DICOM frames not counted": (
        dicom(RAMP, PixelData=RAMP.tobytes() * 3),
        ImageError,
        "got 3 frames",
    ),
    "DICOM MPEG": (
        dicom(RAMP, MPEG2),
        ImageError,
        "decodable by an installed package, got .* MPEG2",
    ),
    "DICOM colours": (
        dicom(RAMP, PhotometricInterpretation="HSV"),
        ImageError,
        "must be one of MONOCHROME1, .* 'HSV'",
    ),
    "DICOM window": (
        dicom(RAMP, WindowCenter=5, WindowWidth=0),
        ImageError,
        "with a WindowWidth at least 1, got 0",
    ),
    "DICOM too short": (dicom(RAMP, Rows=7), ImageError, "must be whole and decodable"),
    "DICOM broken JPEG": (
        dicom(RAMP, uid.JPEGBaseline8Bit, PixelData=encapsulate([b"\xff\xd8\xff\xd9"])),
        ImageError,
        "must be a complete, undamaged picture, got 0 headers of frames and 0 scans",
    ),
    "DICOM NaN": (dicom(NAN.astype(np.float32)), ImageError, "1 NaN and 1 infinite of 4"),
}


@pytest.mark.parametrize(
    ("source", "error", "message"), BAD_OBJECTS.values(), ids=BAD_OBJECTS.keys()
)
def test_bad_object_is_refused(source, error, message):
    with pytest.raises(error, match=message):
        load_image(source)


def test_compressed_dicom_without_decoder_names_syntax_and_packages(monkeypatch):
    monkeypatch.setattr(get_decoder(uid.JPEGLSLossless), "_available", {})
    with pytest.raises(
        ImageError, match=r"JPEG-LS Lossless .*1\.2\.840.* run: pip install pylibjpeg"
    ):
        load_image(dicom(RAMP, uid.JPEGLSLossless))


def test_dicom_without_pydicom_names_the_extra(tmp_path, monkeypatch):
    path = with_file("x.dcm", GOOD_DICOM)(tmp_path)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImportError, match=r"x.dcm' must be read by pydicom.*mmfusion\[dicom\]"):
        load_image(path)


def test_max_pixels_holds():
    source = dicom(RAMP)
    assert load_image(source, max_pixels=30).size == (6, 5)
    with pytest.raises(ImageError, match="must be at most 29 pixels, got 6x5 = 30"):
        load_image(source, max_pixels=29)


DEEP = np.array([[0, 1000], [2000, 4000]])
DEEP_SEEN = eight([[0, 64], [128, 255]])

# The kind of file -> (suffix, content, the expected 8-bit picture).
GOOD_FILES: dict[str, tuple[str, bytes, np.ndarray]] = {
    "DICOM": (".dcm", GOOD_DICOM, RAMP),
    "DICOM under another name": (".png", GOOD_DICOM, RAMP),
    "DICOM without preamble": (".DCM", GOOD_DICOM[132:], RAMP),
    "DICOM, implicit": (
        ".dicom",
        written(dicom(DEEP.astype(np.uint16), uid.ImplicitVRLittleEndian)),
        DEEP_SEEN,
    ),
}


@pytest.mark.parametrize(
    ("suffix", "content", "expected"), GOOD_FILES.values(), ids=GOOD_FILES.keys()
)
def test_good_file_gives_the_documented_picture(suffix, content, expected, tmp_path):
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(content)
    np.testing.assert_array_equal(pixels_of(load_image(path)), expected)
    np.testing.assert_array_equal(pixels_of(load_image(str(path))), expected)


def test_warnings_of_pydicom_stay_inside_and_filters_are_restored(tmp_path):
    path = with_file("long.dcm", written(dicom(RAMP, PixelData=RAMP.tobytes() + bytes(4))))(
        tmp_path
    )
    with pytest.warns(UserWarning, match="excess padding"):
        pydicom.pixels.pixel_array(pydicom.dcmread(path))
    before = list(warnings.filters)
    np.testing.assert_array_equal(pixels_of(load_image(path)), RAMP)
    assert warnings.filters == before


def by_the_standard(value: float, centre: float, width: float) -> float:
    """Returns the grey value by DICOM PS3.3 C.11.2.1.2.1, for y from 0 to 255."""
    if value <= centre - 0.5 - (width - 1) / 2:
        return 0
    if value > centre - 0.5 + (width - 1) / 2:
        return 255
    return ((value - (centre - 0.5)) / (width - 1) + 0.5) * 255


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (0.5, 3), (-1, 500)])
def test_dicom_window_follows_the_standard(photometric, slope, intercept):
    stored = np.random.default_rng(1).integers(-500, 2500, (9, 7), dtype=np.int16)
    dataset = dicom(
        stored,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        WindowCenter=[40, 600],
        WindowWidth=[400, 1500],
        PhotometricInterpretation=photometric,
    )
    expected = np.array(
        [[by_the_standard(v * slope + intercept, 40, 400) for v in row] for row in stored]
    )
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    np.testing.assert_allclose(pixels_of(load_image(dataset)), expected, atol=0.5 + 1e-9)


def test_dicom_sigmoid_window_follows_the_standard():
    stored = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)
    dataset = dicom(
        stored, BitsStored=12, WindowCenter=2000, WindowWidth=900, VOILUTFunction="SIGMOID"
    )
    expected = 255 / (1 + np.exp(-4 * (stored - 2000.0) / 900))
    np.testing.assert_allclose(pixels_of(load_image(dataset)), expected, atol=0.5 + 1e-9)


def test_dicom_voi_table_of_eight_bit_values_does_not_wrap():
    stored = np.arange(0, 4096, 13, dtype=np.uint16)[None, :]
    dataset = dicom(
        stored, BitsStored=12, VOILUTSequence=lookup([4096, 0, 8], [v // 16 for v in range(4096)])
    )
    np.testing.assert_array_equal(pixels_of(load_image(dataset)), (stored // 16).astype(np.uint8))


def test_dicom_voi_table_uses_its_own_range_and_clips_outside():
    dataset = dicom(
        np.array([[0, 9, 10, 11, 12, 500]], np.uint16),
        VOILUTSequence=lookup([3, 10, 12], [0, 2047, 4095]),
        WindowCenter=1,
        WindowWidth=1,
    )
    assert pixels_of(load_image(dataset)).tolist() == [[0, 0, 0, 127, 255, 255]]
    assert dataset.VOILUTSequence[0].LUTDescriptor == [3, 10, 12]


def test_dicom_modality_table_is_applied_first():
    table = lookup([4, 0, 16], [0, 3000, 1000, 2000])
    dataset = dicom(np.array([[0, 1, 2, 3]], np.uint16), ModalityLUTSequence=table)
    assert pixels_of(load_image(dataset)).tolist() == [[0, 255, 85, 170]]


def test_dicom_of_twelve_bits_without_window_is_stretched_and_padding_left_out():
    stored = np.array([[100, 600, 1100, 4095]], np.uint16)
    assert pixels_of(load_image(dicom(stored, BitsStored=12))).tolist() == [[0, 32, 64, 255]]
    padded = dicom(stored, BitsStored=12, PixelPaddingValue=4095)
    assert pixels_of(load_image(padded)).tolist() == [[0, 128, 255, 255]]
    ranged = dicom(stored, BitsStored=12, PixelPaddingValue=4095, PixelPaddingRangeLimit=1000)
    assert pixels_of(load_image(ranged)).tolist() == [[0, 255, 255, 255]]
    only = dicom(np.full((2, 2), 9, np.uint16), PixelPaddingValue=9)
    assert pixels_of(load_image(only)).tolist() == [[0, 0], [0, 0]]


def test_dicom_padding_works_in_implicit_encoding(tmp_path):
    stored = np.array([[100, 600, 1100, 4095]], np.uint16)
    content = written(
        dicom(stored, uid.ImplicitVRLittleEndian, BitsStored=12, PixelPaddingValue=4095)
    )
    assert pixels_of(load_image(with_file("i.dcm", content)(tmp_path))).tolist() == [
        [0, 128, 255, 255]
    ]


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_dicom_without_any_file_header_is_read_in_its_byte_order(implicit, little, tmp_path):
    dataset = dicom(DEEP.astype("<u2" if little else ">u2"))
    del dataset.file_meta
    path = tmp_path / "old.dcm"
    dataset.save_as(path, implicit_vr=implicit, little_endian=little)
    np.testing.assert_array_equal(pixels_of(load_image(path)), DEEP_SEEN)


def test_dicom_of_eight_bits_keeps_its_values():
    assert (
        pixels_of(load_image(dicom(RAMP, RescaleSlope=1, RescaleIntercept=0))).tolist()
        == RAMP.tolist()
    )
    signed = dicom(np.array([[-128, 0, 127]], np.int8))
    assert pixels_of(load_image(signed)).tolist() == [[0, 128, 255]]
    inverted = dicom(RAMP, PhotometricInterpretation="MONOCHROME1")
    assert pixels_of(load_image(inverted)).tolist() == (255 - RAMP).tolist()


def test_dicom_bits_above_bits_stored_are_ignored():
    stored = np.array([[0, 1000, 2000, 4000]], np.uint16)
    overlay = stored | np.uint16(0x8000)
    clean, dirty = dicom(stored, BitsStored=12), dicom(overlay, BitsStored=12)
    np.testing.assert_array_equal(pixels_of(load_image(dirty)), pixels_of(load_image(clean)))


def test_dicom_empty_elements_count_as_absent():
    dataset = dicom(DEEP.astype(np.uint16), WindowCenter=None, WindowWidth=None, RescaleSlope=None)
    dataset.RescaleIntercept = None
    np.testing.assert_array_equal(pixels_of(load_image(dataset)), DEEP_SEEN)


def test_dicom_colours():
    np.testing.assert_array_equal(pixels_of(load_image(dicom(COLOUR))), COLOUR)
    planar = dicom(COLOUR, PlanarConfiguration=1, PixelData=np.moveaxis(COLOUR, -1, 0).tobytes())
    np.testing.assert_array_equal(pixels_of(load_image(planar)), COLOUR)
    deep = dicom(COLOUR.astype(np.uint16) * 257)
    np.testing.assert_array_equal(pixels_of(load_image(deep)), COLOUR)
    ycbcr = dicom(COLOUR, PhotometricInterpretation="YBR_FULL")
    expected = np.asarray(Image.fromarray(COLOUR, "YCbCr").convert("RGB"), dtype=int)
    np.testing.assert_allclose(pixels_of(load_image(ycbcr)).astype(int), expected, atol=1)


def test_dicom_palette():
    dataset = dicom(eight([[0, 1, 2, 3]]), PhotometricInterpretation="PALETTE COLOR")
    palette = {"Red": [0, 65535, 0, 257], "Green": [0, 0, 65535, 514], "Blue": [0, 0, 0, 771]}
    for name, values in palette.items():
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [4, 0, 16])
        setattr(dataset, f"{name}PaletteColorLookupTableData", np.array(values, "<u2").tobytes())
    assert pixels_of(load_image(dataset)).tolist() == [
        [[0, 0, 0], [255, 0, 0], [0, 255, 0], [1, 2, 3]]
    ]


def test_dicom_compressed():
    lossless = dicom(DEEP.astype(np.uint16))
    lossless.compress(uid.RLELossless)
    np.testing.assert_array_equal(pixels_of(load_image(lossless)), DEEP_SEEN)
    stream = encoded(Image.fromarray(RAMP), "JPEG", quality=95)
    lossy = dicom(RAMP, uid.JPEGBaseline8Bit, PixelData=encapsulate([stream]))
    expected = np.asarray(Image.open(io.BytesIO(stream)), dtype=int)
    np.testing.assert_allclose(pixels_of(load_image(lossy)).astype(int), expected, atol=1)


def test_dicom_float_pixels_are_stretched():
    np.testing.assert_array_equal(pixels_of(load_image(dicom(DEEP.astype(np.float32)))), DEEP_SEEN)
