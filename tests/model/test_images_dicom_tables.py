"""Palettes, lookup tables, windows and bits of DICOM, by the formulas of the standard."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.pixels import apply_color_lut

sys.path.insert(0, str(Path(__file__).parent))

from images_samples import dicom, item, table, written

from mmfusion.model.images import ImageError, load_image

LITTLE, BIG = uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian
SYNTAXES = [LITTLE, uid.ImplicitVRLittleEndian, BIG]
INDICES = np.arange(6, dtype=np.uint8).reshape(2, 3)
COLOURS = {"Red": [0, 9, 255, 3, 7, 5], "Green": [1, 1, 2, 3, 4, 0], "Blue": [0, 0, 0, 200, 6, 6]}


def seen(dataset: Any, folder: Path | None = None) -> list[Any]:
    """Returns the pixels of a Dataset, and of the same written to a file."""
    pixels = np.asarray(load_image(dataset))
    if folder is not None:
        (folder / "picture.dcm").write_bytes(written(dataset))
        np.testing.assert_array_equal(np.asarray(load_image(folder / "picture.dcm")), pixels)
    return pixels.tolist()


def palette(
    syntax: uid.UID = LITTLE,
    bits: int = 16,
    stored: str = "words",
    scale: int = 1,
    first: int = 0,
    pixels: np.ndarray = INDICES,
    **elements: Any,
) -> Any:
    dataset = dicom(pixels, syntax, PhotometricInterpretation="PALETTE COLOR", **elements)
    for name, values in COLOURS.items():
        data = bytes(values)
        if stored == "words":
            order = "<u2" if syntax.is_little_endian else ">u2"
            data = np.array([value * scale for value in values], dtype=order).tobytes()
        elif not syntax.is_little_endian:
            # Words of big-endian order hold the first of two bytes in their lower half.
            data = np.frombuffer(data, "<u2").astype(">u2").tobytes()
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [6, first, bits])
        setattr(dataset, f"{name}PaletteColorLookupTableData", data)
        dataset[f"{name}PaletteColorLookupTableData"].VR = "OW"
    return dataset


def right_colours(pixels: np.ndarray = INDICES, first: int = 0) -> list[Any]:
    """Returns the colours by a loop."""
    return [
        [[COLOURS[c][min(5, max(0, int(v) - first))] for c in COLOURS] for v in row]
        for row in pixels
    ]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    ("bits", "stored", "scale"), [(16, "words", 257), (8, "words", 1), (8, "bytes", 1)]
)
def test_a_palette_is_read_in_each_encoding(
    syntax: uid.UID, bits: int, stored: str, scale: int, tmp_path: Path
) -> None:
    dataset = palette(syntax, bits, stored, scale)
    assert seen(dataset, tmp_path) == right_colours()
    if syntax.is_little_endian and stored == "words":
        # pydicom divides by nothing, so both agree up to the scale.
        other = apply_color_lut(dataset.pixel_array, dataset)
        assert (other // scale).tolist() == right_colours()


@pytest.mark.parametrize("first", [-3, 0, 2, 40000])
def test_the_first_input_of_a_palette_may_be_negative(first: int) -> None:
    pixels = np.array([[-5, -3, 0, 1, 4, 90]], np.int16)
    if first == 40000:
        # A file may hold the negative number as an unsigned word.
        dataset = palette(pixels=pixels, scale=257)
        for name in COLOURS:
            dataset[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
            setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [6, 65533, 16])
        first = -3
    else:
        dataset = palette(pixels=pixels, scale=257, first=first)
    dataset.PixelRepresentation = 1
    with pytest.raises(ImageError, match="unsigned whole numbers"):
        seen(dataset)
    pixels = np.array([[0, 1, 4, 90]], np.int16)
    dataset.Columns, dataset.PixelData = 4, pixels.tobytes()
    assert seen(dataset) == right_colours(pixels, first)


REFUSED_PALETTES: dict[str, tuple[dict[str, Any], str]] = {
    "16 bits that hold 8": ({"scale": 1}, "a palette of 16 bits whose largest entry is 255"),
    "8 bits that hold 16": ({"bits": 8, "scale": 257}, "entries up to 65535 in tables of 8, 8, 8"),
    "12 bits": ({"bits": 12, "scale": 9}, "a DICOM palette of 8 or 16 bits, got 12"),
}


@pytest.mark.parametrize(
    ("options", "message"), REFUSED_PALETTES.values(), ids=REFUSED_PALETTES.keys()
)
def test_a_doubtful_palette_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        seen(palette(**options))


def test_a_short_or_missing_palette_is_refused() -> None:
    short = palette(scale=257)
    short.RedPaletteColorLookupTableData = short.RedPaletteColorLookupTableData[:4]
    with pytest.raises(ImageError, match="whole RedPaletteColorLookupTableData, got 4 of 6"):
        seen(short)
    lacking = palette(scale=257)
    del lacking.BluePaletteColorLookupTableDescriptor
    with pytest.raises(ImageError, match="three numbers as BluePalette.*Descriptor, got None"):
        seen(lacking)
    supplemental = palette(scale=257, PixelPresentation="MIXED")
    supplemental.PhotometricInterpretation = "MONOCHROME2"
    with pytest.raises(ImageError, match="a supplemental palette"):
        seen(supplemental)


@pytest.mark.parametrize("syntax", [LITTLE, BIG])
@pytest.mark.parametrize("bits", [8, 16])
def test_segments_of_a_palette_are_expanded(syntax: uid.UID, bits: int, tmp_path: Path) -> None:
    scale = 1 if bits == 8 else 257
    # Two entries; a line to 80 in four steps; the first two segments again.
    offset = [0] * (4 if bits == 8 else 2)
    parts = [0, 2, 100 * scale, 40 * scale, 1, 4, 80 * scale, 2, 2, *offset]
    right = [100, 40, 50, 60, 70, 80, 100, 40, 50, 60, 70, 80]
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 12)
    dataset = dicom(pixels, syntax, PhotometricInterpretation="PALETTE COLOR")
    order = "<u2" if syntax.is_little_endian else ">u2"
    data = bytes(parts) + b"\0" * (len(parts) % 2) if bits == 8 else b""
    words = np.frombuffer(data, "<u2") if bits == 8 else np.array(parts)
    for name in COLOURS:
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [12, 0, bits])
        keyword = f"Segmented{name}PaletteColorLookupTableData"
        setattr(dataset, keyword, words.astype(order).tobytes())
        dataset[keyword].VR = "OW"
    assert seen(dataset, tmp_path) == [[[value] * 3 for value in right]]
    dataset.RedPaletteColorLookupTableDescriptor = [30, 0, bits]
    with pytest.raises(ImageError, match="12 of 30 entries in segments|unknown kind"):
        seen(dataset)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("stored", "high"), [(8, 15), (10, 11), (12, 15), (12, 11), (16, 15)])
@pytest.mark.parametrize("syntax", [LITTLE, BIG, uid.RLELossless])
def test_the_highest_bit_may_be_anywhere(
    signed: bool, stored: int, high: int, syntax: uid.UID
) -> None:
    generator = np.random.default_rng(0)
    low = -(2 ** (stored - 1)) if signed else 0
    values = generator.integers(low, low + 2**stored, (5, 6))
    shift = high + 1 - stored
    # The bits beside the value hold noise, as overlays do.
    noise = generator.integers(0, 2**16, values.shape)
    mask = (2**stored - 1) << shift
    cells = ((values & (2**stored - 1)) << shift | noise & ~mask & 0xFFFF).astype(np.uint16)
    dataset = dicom(cells, LITTLE if syntax == uid.RLELossless else syntax)
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = stored, high, int(signed)
    if syntax == uid.RLELossless:
        if shift:
            dataset.compress(syntax)
            with pytest.raises(ImageError, match="compressed with HighBit = BitsStored - 1"):
                seen(dataset)
            return
        dataset.compress(syntax)
    ends = (low, low + 2**stored - 1) if stored == 8 else (values.min(), values.max())
    right = [[round(255 * (v - ends[0]) / (ends[1] - ends[0])) for v in row] for row in values]
    np.testing.assert_array_equal(seen(dataset), right)


@pytest.mark.parametrize(("stored", "high"), [(12, 10), (12, 16), (17, 16), (0, 0)])
def test_bits_that_contradict_each_other_are_refused(stored: int, high: int) -> None:
    with pytest.raises(ImageError, match="a DICOM picture with (HighBit|BitsStored) from"):
        seen(dicom(np.zeros((4, 4), np.uint16), BitsStored=stored, HighBit=high))


@pytest.mark.parametrize("syntax", [LITTLE, BIG])
@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_tables_of_words_are_read_in_the_order_of_the_file(
    syntax: uid.UID, sequence: str, photometric: str, tmp_path: Path
) -> None:
    values = [0, 3000, 1000, 2000]
    data = np.array(values, "<u2" if syntax.is_little_endian else ">u2").tobytes()
    pixels = np.array([[9, 10, 11, 12, 13, 14]], np.uint16)
    dataset = dicom(
        pixels,
        syntax,
        PhotometricInterpretation=photometric,
        **{sequence: table([4, 10, 12], data)},
    )
    grey = [round(255 * values[min(3, max(0, v - 10))] / 3000) for v in pixels[0].tolist()]
    right = [255 - v for v in grey] if photometric == "MONOCHROME1" else grey
    assert seen(dataset, tmp_path) == [right]


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("kind", [np.int16, np.float32, np.float64])
def test_each_window_works_on_ints_and_floats(function: str, kind: Any) -> None:
    values = np.linspace(-500, 900, 56).reshape(7, 8).astype(kind)
    dataset = dicom(
        values,
        WindowCenter=100,
        WindowWidth=400,
        VOILUTFunction=function,
        RescaleSlope=2,
        RescaleIntercept=-7,
    )
    x = values.astype(float) * 2 - 7
    if function == "SIGMOID":
        share = 1 / (1 + np.exp(-4 * (x - 100) / 400))
    elif function == "LINEAR":
        share = np.clip((x - 99.5) / 399 + 0.5, 0, 1)
    else:
        share = np.clip((x - 100) / 400 + 0.5, 0, 1)
    np.testing.assert_allclose(seen(dataset), share * 255, atol=0.5 + 1e-6)


def test_the_narrowest_window_is_a_step() -> None:
    values = np.array([[0, 4, 5, 6, 9]], np.uint16)
    dataset = dicom(values, WindowCenter=5.5, WindowWidth=1)
    assert seen(dataset) == [[0, 0, 0, 255, 255]]


@pytest.mark.parametrize("wanted", [{"WindowCenter": 9000, "WindowWidth": 10}])
def test_a_window_that_leaves_nothing_to_see_is_refused(wanted: dict[str, int]) -> None:
    values = np.array([[0, 100], [200, 300]], np.int16)
    with pytest.raises(ImageError, match="a window or VOI table that makes all pixels 0"):
        seen(dicom(values, **wanted))
    with pytest.raises(ImageError, match="makes all pixels 255"):
        seen(dicom(values, WindowCenter=-9000, WindowWidth=10))
    with pytest.raises(ImageError, match="makes all pixels 0"):
        seen(dicom(values, VOILUTSequence=table([2, 5000, 8], [0, 255])))
    # A picture of one value has nothing to lose, and neither has one that is padding otherwise.
    flat = np.full((2, 2), 7, np.int16)
    assert seen(dicom(flat, **wanted)) == [[0, 0], [0, 0]]
    padded = np.array([[-2000, 7], [7, 7]], np.int16)
    assert seen(dicom(padded, PixelPaddingValue=-2000, **wanted)) == [[0, 0], [0, 0]]


@pytest.mark.parametrize(("kind", "name"), [(np.float32, "Float"), (np.float64, "DoubleFloat")])
@pytest.mark.parametrize("padding", [-1e30, float("nan"), 1e30])
def test_padding_of_floats_is_left_out(kind: Any, name: str, padding: float) -> None:
    values = np.array([[0.25, 0.5], [1.25, padding]], kind)
    plain = dicom(values)
    if not np.isnan(padding):
        assert len(set(seen(plain)[0])) == 1
    value = float(kind(padding))
    setattr(plain, f"{name}PixelPaddingValue", value)
    assert seen(plain)[0] == [0, 64] and seen(plain)[1][0] == 255
    if not np.isnan(padding):
        setattr(plain, f"{name}PixelPaddingRangeLimit", 0.3 if padding < 0 else 2.0)
        assert seen(plain)[1][0] == 255
        ranged = dicom(np.array([[0.0, 1.0, 2.0, 5.0, 9.0]], kind))
        setattr(ranged, f"{name}PixelPaddingValue", 5.0)
        setattr(ranged, f"{name}PixelPaddingRangeLimit", 9.0)
        assert seen(ranged) == [[0, 128, 255, 255, 255]]


def test_padding_beside_a_window_may_be_nan() -> None:
    values = np.array([[0.0, 50.0, 100.0, np.nan]], np.float32)
    dataset = dicom(values, WindowCenter=50, WindowWidth=100, VOILUTFunction="LINEAR_EXACT")
    with pytest.raises(ImageError, match="1 NaN"):
        seen(dataset)
    dataset.FloatPixelPaddingValue = float("nan")
    assert seen(dataset) == [[0, 128, 255, 0]]


def test_signed_padding_may_be_stored_as_an_unsigned_word() -> None:
    values = np.array([[-2000, 0, 50, 100]], np.int16)
    dataset = dicom(values)
    dataset.add_new("PixelPaddingValue", "US", 63536)
    assert seen(dataset) == [[0, 0, 128, 255]]


def groups(**macros: Any) -> list[Any]:
    return [item(**{name: [value] for name, value in macros.items()})]


@pytest.mark.parametrize(
    "name", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
)
def test_functional_groups_hold_before_the_object(name: str, tmp_path: Path) -> None:
    values = np.array([[0, 100, 200, 400]], np.uint16)
    rescale = item(RescaleSlope=2, RescaleIntercept=-100, RescaleType="US")
    window = item(WindowCenter=150, WindowWidth=101)
    both = groups(PixelValueTransformationSequence=rescale, FrameVOILUTSequence=window)
    dataset = dicom(values, **{name: both}, NumberOfFrames=1)
    right = [
        round(min(1, max(0, (2 * v - 100 - 149.5) / 100 + 0.5)) * 255) for v in values[0].tolist()
    ]
    assert seen(dataset, tmp_path) == [right]
    dataset.WindowCenter, dataset.WindowWidth = 9999, 1
    dataset.VOILUTSequence = table([2, 0, 8], [0, 255])
    assert seen(dataset, tmp_path) == [right]


def test_the_groups_of_a_frame_hold_before_those_of_all_frames() -> None:
    values = np.array([[0, 50, 100, 200]], np.uint16)
    shared = groups(FrameVOILUTSequence=item(WindowCenter=9999, WindowWidth=1))
    own = groups(
        FrameVOILUTSequence=item(WindowCenter=50, WindowWidth=100, VOILUTFunction="LINEAR_EXACT")
    )
    dataset = dicom(
        values, SharedFunctionalGroupsSequence=shared, PerFrameFunctionalGroupsSequence=own
    )
    assert seen(dataset) == [[0, 128, 255, 255]]
    dataset.SharedFunctionalGroupsSequence = groups(
        PixelValueTransformationSequence=item(RescaleSlope=0.5, RescaleIntercept=0)
    )
    assert seen(dataset) == [[0, 64, 128, 255]]


def test_the_dataset_is_not_changed(tmp_path: Path) -> None:
    dataset = palette(scale=257)
    dataset.VOILUTSequence = table([2, 0, 8], [0, 255])
    before = written(dataset)
    load_image(dataset)
    assert written(dataset) == before
    assert pydicom.dcmread(pydicom.filebase.DicomBytesIO(before)) == dataset


def test_more_palettes_that_cannot_be_read() -> None:
    alpha = palette(scale=257)
    alpha.AlphaPaletteColorLookupTableDescriptor = [6, 0, 16]
    with pytest.raises(ImageError, match="without transparency, got an alpha table"):
        seen(alpha)
    lacking = palette(scale=257)
    del lacking.GreenPaletteColorLookupTableData
    with pytest.raises(ImageError, match="with GreenPaletteColorLookupTableData, got None"):
        seen(lacking)
    for words, told in (
        ([3, 6], "a segment of unknown kind 3"),
        ([0, 9, 1, 2], "a whole palette, got 0 of 6 entries in segments"),
        ([1, 6, 5], "a whole palette, got 0 of 6 entries in segments"),
    ):
        segmented = palette(scale=257)
        for name in COLOURS:
            delattr(segmented, f"{name}PaletteColorLookupTableData")
            keyword = f"Segmented{name}PaletteColorLookupTableData"
            setattr(segmented, keyword, np.array(words, "<u2").tobytes())
            segmented[keyword].VR = "OW"
        with pytest.raises(ImageError, match=told):
            seen(segmented)
