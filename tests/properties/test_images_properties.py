"""The guarantees of `load_image` for pictures drawn at random: values, order, damage."""

import io
import warnings

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset

from mmfusion.model.images import ImageError, load_image

SIDES = st.integers(5, 12)
GREY_SHAPES = st.tuples(SIDES, SIDES)
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)


def dicom(pixels: np.ndarray, photometric: str = "MONOCHROME2") -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OW"
    return dataset


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "DICOM":
        pydicom.dcmwrite(buffer, dicom(PIXELS[..., 0].astype(np.uint16)), enforce_file_format=True)
    elif kind == "LZW":
        Image.fromarray(PIXELS).save(buffer, "TIFF", compression="tiff_lzw")
    elif kind == "PNG16":
        Image.fromarray(PIXELS[..., 0].astype(np.uint16)).save(buffer, "PNG")
    else:
        Image.fromarray(PIXELS).save(buffer, kind)
    return buffer.getvalue()


FILES = {
    kind: encoded(kind)
    for kind in ("PNG", "PNG16", "JPEG", "TIFF", "LZW", "BMP", "WEBP", "GIF", "DICOM")
}


def seen(source: object) -> np.ndarray:
    return np.asarray(load_image(source))


@given(arrays.arrays(np.uint8, st.one_of(GREY_SHAPES, st.tuples(SIDES, SIDES, st.just(3)))))
def test_eight_bit_arrays_keep_every_value_by_every_road(pixels):
    image = Image.fromarray(pixels)
    for source in (pixels, image):
        np.testing.assert_array_equal(seen(source), pixels)


@given(
    arrays.arrays(
        st.sampled_from([np.int16, np.uint16, np.int32, np.float32]),
        GREY_SHAPES,
        elements={"max_value": 30_000, "min_value": 0},
    )
)
def test_stretching_keeps_the_order_and_reaches_both_ends(pixels):
    # In float32, numbers below about 1e-7 vanish beside 2, so the order is that of the sums.
    pixels = pixels.astype(pixels.dtype) + pixels.dtype.type(2)
    picture = seen(pixels)
    if pixels.min() == pixels.max():
        assert not picture.any()
        return
    assert picture[pixels == pixels.min()].max() == 0
    assert picture[pixels == pixels.max()].min() == 255
    order = np.argsort(pixels, axis=None)
    assert (np.diff(picture.ravel()[order].astype(int)) >= 0).all()


@given(arrays.arrays(np.uint16, GREY_SHAPES))
def test_sixteen_bits_look_the_same_by_every_road(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    expected = seen(pixels)
    for source in (
        Image.fromarray(pixels),
        Image.open(buffer),
        dicom(pixels),
        pixels.astype(np.int64),
    ):
        np.testing.assert_array_equal(seen(source), expected)


@given(arrays.arrays(st.sampled_from([np.uint8, np.int16, np.uint16]), GREY_SHAPES))
def test_monochrome1_is_the_negative_of_monochrome2(pixels):
    np.testing.assert_array_equal(seen(dicom(pixels, "MONOCHROME1")), 255 - seen(dicom(pixels)))


@given(arrays.arrays(np.float64, GREY_SHAPES, elements=st.floats(width=64)))
def test_any_float_array_is_a_picture_or_an_image_error(pixels):
    bad = int((~np.isfinite(pixels)).sum())
    try:
        picture = seen(pixels)
    except ImageError as error:
        assert bad or "range that a float can hold" in str(error)
    else:
        assert not bad
        assert picture.shape == pixels.shape


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=60)
@given(data=st.data())
def test_a_cut_file_is_refused_or_gives_the_whole_picture(kind, folder, data):
    whole, path = folder / f"whole-{kind}", folder / f"cut-{kind}"
    whole.write_bytes(FILES[kind])
    path.write_bytes(FILES[kind][: data.draw(st.integers(0, len(FILES[kind]) - 1))])
    try:
        picture = seen(path)
    except ImageError as error:
        assert str(path) in str(error)
    else:
        np.testing.assert_array_equal(picture, seen(whole))


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=60)
@given(data=st.data())
def test_a_flipped_byte_never_escapes_as_another_error_or_a_warning(kind, folder, data):
    content = bytearray(FILES[kind])
    # Half of the draws change the header, because most of the body is pixels.
    at = data.draw(st.integers(0, len(content) - 1) | st.integers(0, min(400, len(content) - 1)))
    content[at] = data.draw(st.integers(0, 255))
    path = folder / f"flipped-{kind}"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            picture = load_image(path, max_pixels=100_000)
        except ImageError as error:
            assert str(path) in str(error)
        else:
            assert picture.mode in ("L", "RGB")


@given(content=st.binary(max_size=300), suffix=st.sampled_from([".png", ".dcm"]))
def test_arbitrary_bytes_are_an_image_error(content, suffix, folder):
    path = folder / f"noise{suffix}"
    path.write_bytes(content)
    with pytest.raises(ImageError):
        load_image(path)
