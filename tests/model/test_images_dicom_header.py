"""DICOM headers with wrong, missing or contradicting elements: each is a sentence."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset

sys.path.insert(0, str(Path(__file__).parent))

from images_samples import dicom, item, written

from mmfusion.model.images import ImageError, load_image
from mmfusion.model.images_dicom_header import Shape, display_values, number, read_shape, whole

PIXELS = np.arange(30, dtype=np.uint16).reshape(5, 6)
FLOATS = PIXELS.astype(np.float32)


# The fault -> (the elements, the message).
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "empty PixelData": ({"PixelData": b""}, "a DICOM picture with pixels, got an empty PixelData"),
    "no PixelData": ({"PixelData": None}, "a DICOM picture with pixels, got an empty PixelData"),
    "no BitsAllocated": ({"BitsAllocated": None}, "with a number as BitsAllocated, got none"),
    "odd BitsAllocated": ({"BitsAllocated": 200}, "with BitsAllocated from 1 to 64, got 200"),
    "BitsStored of 0": ({"BitsStored": 0}, "with BitsStored from 1 to 16, got 0"),
    "PixelRepresentation": ({"PixelRepresentation": 7}, "PixelRepresentation from 0 to 1, got 7"),
    "SamplesPerPixel": ({"SamplesPerPixel": 900}, "SamplesPerPixel from 1 to 4, got 900"),
    "several rows": ({"Rows": [5, 6], "Columns": [0, 6]}, "at least 1x1 pixel, got 0x5"),
    "slope of 0": ({"RescaleSlope": 0}, "with a RescaleSlope, got 0"),
    "window of a word": ({"WindowCenter": 5, "WindowWidth": None}, "a number as WindowWidth"),
    "window without a centre": ({"WindowWidth": 5}, "a number as WindowCenter, got none"),
    "window of no width": (
        {"WindowCenter": 5, "WindowWidth": -3},
        "with a WindowWidth at least 1, got -3",
    ),
    "window of another kind": (
        {"WindowCenter": 5, "WindowWidth": 3, "VOILUTFunction": "CUBIC"},
        "a VOILUTFunction of LINEAR, LINEAR_EXACT, SIGMOID, got 'CUBIC'",
    ),
    "no photometric": ({"PhotometricInterpretation": None}, "PALETTE COLOR, RGB, YBR_, got 'None'"),
    "empty table": ({"VOILUTSequence": [item()]}, "three numbers as LUTDescriptor, got None"),
    "table of one number": (
        {"ModalityLUTSequence": [item(LUTDescriptor=[3], LUTData=b"ab")]},
        "three numbers as LUTDescriptor",
    ),
    "short table": (
        {"ModalityLUTSequence": [item(LUTDescriptor=[9, 0, 16], LUTData=b"ab")]},
        "with a whole LUTData, got 2 of 9 entries",
    ),
    "wide table": (
        {"ModalityLUTSequence": [item(LUTDescriptor=[1, 0, 99], LUTData=b"ab")]},
        "tables of 1 to 16 bits, got 99",
    ),
}


@pytest.mark.parametrize(("elements", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_wrong_element_is_named(elements: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError, match=message) as error:
        load_image(dicom(PIXELS, **elements))
    text = str(error.value)
    assert "Error (" not in text and text.count(". ") >= 1


# The keyword, the kind of value that the file gives it, the bytes of the value.
WRONG_TYPES = [
    ("Rows", "LO", b"five"),
    ("Columns", "US", b"\x01"),
    ("BitsAllocated", "DS", b"many  "),
    ("NumberOfFrames", "IS", b"1A"),
    ("WindowCenter", "DS", b"4.x2"),
    ("WindowWidth", "PN", b"a^b "),
    ("RescaleSlope", "DS", b"one "),
    ("RescaleIntercept", "UN", b"\xff\xfe"),
    ("PixelRepresentation", "FD", b"\0\0\0\0\0\0\xf8\x7f"),
    ("PhotometricInterpretation", "US", b"\x01\0"),
    ("VOILUTSequence", "LO", b"text"),
    ("PixelPaddingValue", "LT", b"none"),
    ("VOILUTFunction", "US", b"\x07\0"),
    ("SharedFunctionalGroupsSequence", "LO", b"text"),
]


@pytest.mark.parametrize(("keyword", "kind", "value"), WRONG_TYPES)
@pytest.mark.parametrize("pixels", [PIXELS, FLOATS])
def test_wrong_types_in_a_file_are_an_image_error(
    keyword: str, kind: str, value: bytes, pixels: np.ndarray, tmp_path: Path
) -> None:
    window = {"WindowCenter": 10, "WindowWidth": 20}
    dataset = pydicom.dcmread(io.BytesIO(written(dicom(pixels, **window))))
    tag = pydicom.tag.Tag(keyword)
    dataset._dict.pop(tag, None)
    dataset[tag] = pydicom.dataelem.RawDataElement(tag, kind, len(value), value, 0, False, True)
    path = tmp_path / "wrong.dcm"
    pydicom.dcmwrite(path, dataset)
    for source in (path, dataset):
        try:
            picture = np.asarray(load_image(source))
        except ImageError as error:
            assert " must be " in str(error)
        else:
            # Pictures of floats do not need these.
            unneeded = ("PixelRepresentation", "BitsAllocated", "PixelPaddingValue")
            assert keyword in unneeded and pixels is FLOATS
            assert picture.shape == PIXELS.shape


def test_a_float_picture_has_a_window(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.25, 0.5, 1.0]], np.float32)
    dataset = dicom(values, WindowCenter=0.5, WindowWidth=1, VOILUTFunction="LINEAR_EXACT")
    (tmp_path / "float.dcm").write_bytes(written(dataset))
    for source in (dataset, tmp_path / "float.dcm"):
        assert np.asarray(load_image(source)).tolist() == [[0, 64, 128, 255]]


def test_values_that_are_not_needed_may_be_wrong(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(io.BytesIO(written(dicom(PIXELS))))
    tag = pydicom.tag.Tag("PixelSpacing")
    dataset[tag] = pydicom.dataelem.RawDataElement(tag, "DS", 4, b"none", 0, False, True)
    pydicom.dcmwrite(tmp_path / "a.dcm", dataset)
    assert load_image(tmp_path / "a.dcm").size == (6, 5)


def test_numbers_are_read_from_any_value() -> None:
    header = {"a": "3.5", "b": [7, 8], "c": None, "d": "", "e": [], "f": float("nan"), "g": "x"}
    assert number(header, "a", "p") == 3.5 and number(header, "b", "p") == 7
    assert [number(header, key, "p", 2) for key in "cdez"] == [2, 2, 2, 2]
    for key in "cdefgz":
        with pytest.raises(ImageError, match=f"image p must be .* a number as {key}, got"):
            number(header, key, "p")
    assert whole({"a": "3"}, "a", "p", range(4)) == 3
    for value in (3.5, 4, -1):
        with pytest.raises(ImageError, match="with a from 0 to 3, got"):
            whole({"a": value}, "a", "p", range(4))


def test_the_shape_counts_all_that_is_declared() -> None:
    shape = read_shape(dicom(PIXELS, NumberOfFrames=3), "p")
    assert shape == Shape(5, 6, 3, 1, 16, 16, 15, False, False) and shape.size == 5 * 6 * 3 * 2
    assert read_shape(dicom(FLOATS), "p")[4:] == (32, 32, 31, True, True)
    one = read_shape(dicom(PIXELS, BitsAllocated=1, BitsStored=1, HighBit=0), "p")
    assert one.size == 4


def test_an_empty_element_counts_as_absent() -> None:
    dataset = Dataset()
    dataset.RescaleSlope, dataset.WindowCenter = None, [3, 4]
    dataset.VOILUTFunction = ""
    assert display_values(dataset, "p") == {"WindowCenter": [3.0, 4.0]}


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "PALETTE COLOR"])
def test_colours_are_unsigned(photometric: str) -> None:
    pixels = np.full((4, 4, 3), -5, np.int16)
    dataset = dicom(pixels if photometric != "PALETTE COLOR" else pixels[..., 0])
    dataset.PhotometricInterpretation = photometric
    with pytest.raises(ImageError):
        load_image(dataset)


def test_a_private_transfer_syntax_is_refused() -> None:
    for syntax in ("1.2.3.4", uid.SecondaryCaptureImageStorage):
        dataset = dicom(PIXELS)
        dataset.file_meta.TransferSyntaxUID = syntax
        with pytest.raises(ImageError, match="of a standard transfer syntax"):
            load_image(dataset)
