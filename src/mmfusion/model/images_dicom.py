"""The reading of DICOM pictures, from a file or from a pydicom Dataset.

Only the standard library, numpy and PIL are imported here, because this file travels with every
model that is pushed to a hub. pydicom is loaded with the first DICOM picture.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .images_base import RENEW, check_finite, check_size, explained, image_error, scaled
from .images_dicom_header import PADDING_ENDS, Shape, display_values, number, read_shape
from .images_dicom_limits import Deflated, LimitedFile, check_codestream, inflated
from .images_dicom_tables import Table, read_palette, read_table, rescaled, windowed
from .images_jpeg import whole_jpeg

_DECODERS = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
_PHOTOMETRIC = "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_"
_PIXELS = "PixelData", "FloatPixelData", "DoubleFloatPixelData"


def read_dicom(file: BinaryIO | io.BytesIO, name: str, max_pixels: int) -> Any:
    """Returns the pydicom Dataset of an open file.

    Args:
        file: the file, open for binary reading.
        name: the picture, for the error.
        max_pixels: the largest number of pixels that a deflated file may unpack to.
    """
    pydicom = _pydicom("pydicom", name)
    with explained(name, "a readable DICOM file", RENEW):
        # Force the reading, because old archives hold files without the preamble. A file that is
        # not DICOM has no pixel data and is refused later.
        try:
            dataset = pydicom.dcmread(LimitedFile(file), force=True)
        except Deflated:
            return _read_deflated(file, name, max_pixels)
        if "TransferSyntaxUID" not in dataset.file_meta:
            # Files without a header are uncompressed. pydicom found out their byte order.
            little = dataset.original_encoding[1]
            syntaxes = pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.ExplicitVRBigEndian
            dataset.file_meta.TransferSyntaxUID = syntaxes[0] if little else syntaxes[1]
    return dataset


def _read_deflated(file: BinaryIO | io.BytesIO, name: str, max_pixels: int) -> Any:
    """Returns the Dataset of a file whose deflated part begins here."""
    pydicom = _pydicom("pydicom", name)
    read = _pydicom("pydicom.filereader", name).read_dataset

    def declared_size(beginning: io.BytesIO) -> int:
        header = read(beginning, False, True, stop_when=lambda tag, *_: tag >= 0x7FE00000)
        shape = read_shape(header, name)
        _check_picture(shape, name, max_pixels)
        return shape.size

    dataset = pydicom.Dataset(read(inflated(file, declared_size, name), False, True))
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.set_original_encoding(False, True)
    return dataset


def from_dicom(dataset: Any, name: str, max_pixels: int) -> Image.Image:
    """Returns the picture of a pydicom Dataset in mode "L" or "RGB".

    Args:
        dataset: the Dataset. It is not changed.
        name: the picture, for the error.
        max_pixels: the largest number of pixels to decode.
    """
    processing = _pydicom("pydicom.pixels", name)
    with explained(name, "a DICOM picture that pydicom can read", RENEW):
        if not any(key in dataset for key in _PIXELS):
            advice = "It is a report or a plan, has lost its picture, or is no DICOM file at all."
            got = f"no pixel data (modality {dataset.get('Modality') or 'unknown'})"
            raise image_error(name, "a DICOM picture", got, advice)
        shape = read_shape(dataset, name)
        _check_picture(shape, name, max_pixels)
        uid = _transfer_syntax(dataset, name)
        header = display_values(dataset, name)
        photometric = str(header.get("PhotometricInterpretation")).strip()
        if not photometric.startswith(_PHOTOMETRIC):
            raise image_error(
                name, f"one of {', '.join(_PHOTOMETRIC)}", repr(photometric), "Convert it to RGB."
            )
        stored = _stored_pixels(dataset, uid, shape, name, processing)
        if photometric in ("MONOCHROME1", "MONOCHROME2"):
            if header.get("PixelPresentation") in ("COLOR", "MIXED"):
                advice = "Colour it yourself and pass the array."
                got = "a supplemental palette (PixelPresentation COLOR or MIXED)"
                raise image_error(name, "a DICOM picture in grey or in colour", got, advice)
            grey = _displayed(stored, shape, header, uid.is_little_endian, name)
            return Image.fromarray(255 - grey if photometric == "MONOCHROME1" else grey)
        if shape.is_float or stored.min() < 0:
            got = "negative or float values"
            raise image_error(name, f"unsigned whole numbers ({photometric})", got, RENEW)
        if photometric == "PALETTE COLOR":
            tables, most = read_palette(header, uid.is_little_endian, shape.signed, name)
            colours = np.stack([table.look_up(stored) for table in tables], axis=-1)
            return Image.fromarray(scaled(colours, 0, most, name))
        # pydicom has converted YBR to RGB while decoding.
        return Image.fromarray(scaled(stored, 0, 2**shape.stored - 1, name))


def _pydicom(module: str, name: str) -> Any:
    """Returns a module of pydicom, or raises an ImportError that says how to install it."""
    # The module's name is a variable. transformers does not require a package that is imported like
    # this. It would require one that an import statement at the top of this file names.
    try:
        return importlib.import_module(module)
    except ImportError as error:
        advice = f'{error}. Run: pip install "mmfusion[dicom]"'
        raise ImportError(
            f"image {name} must be read by pydicom 3 or newer, got {advice}"
        ) from error


def _check_picture(shape: Shape, name: str, max_pixels: int) -> None:
    """Raises an ImageError if the header does not declare one picture of an allowed size."""
    check_size(shape.columns, shape.rows, name, max_pixels)
    if shape.frames > 1:
        advice = (
            "Choose one and pass the array: pydicom.pixels.pixel_array(path_or_dataset, index=0)."
        )
        raise image_error(name, "a single picture", f"{shape.frames} frames", advice)


def _transfer_syntax(dataset: Any, name: str) -> Any:
    """Returns the transfer syntax of a Dataset."""
    uid = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    if uid is None:
        advice = "Set dataset.file_meta.TransferSyntaxUID to the encoding of PixelData."
        raise image_error(name, "a Dataset with a transfer syntax", "none in file_meta", advice)
    if uid.is_private or not uid.is_transfer_syntax:
        advice = "Convert it to a standard one."
        raise image_error(name, "of a standard transfer syntax", str(uid)[:70], advice)
    return uid


def _stored_pixels(
    dataset: Any, uid: Any, shape: Shape, name: str, processing: Any
) -> NDArray[Any]:
    """Returns the decoded pixels before any lookup table, HxW or HxWx3."""
    syntax = f"transfer syntax {uid.name} ({uid})"
    # Check for a decoder first, because pydicom's own error does not say what to install.
    try:
        decoder = processing.get_decoder(uid)
        available = decoder.is_available
    except NotImplementedError:
        available = False
    if not available:
        advice = f"Convert it to an uncompressed one, or run: {_DECODERS}"
        raise image_error(name, "decodable by an installed package", syntax, advice)
    keyword = next(key for key in _PIXELS if key in dataset)
    if not dataset.get(keyword):
        raise image_error(name, "a DICOM picture with pixels", f"an empty {keyword}", RENEW)
    advice = (
        f"{RENEW} If it is whole, more decoders may help: {_DECODERS}"
        if uid.is_compressed
        else RENEW
    )
    unused = shape.high + 1 - shape.stored
    with explained(name, f"whole and decodable ({syntax})", advice):
        if uid.is_compressed:
            _check_compressed(dataset, uid, shape, name)
        # The highest bit is the sign. pydicom takes the lowest bits, so give it those below, too.
        options = {"bits_stored": shape.high + 1} if unused else {}
        pixels: NDArray[Any] = decoder.as_array(dataset, **options)[0]
    if pixels.shape[:2] != (shape.rows, shape.columns):
        # pydicom returns every frame in the data, even if the header counts only one.
        raise image_error(
            name, "a single picture", f"{len(pixels)} frames of pixel data", "Set NumberOfFrames."
        )
    return pixels >> unused if unused else pixels


def _check_compressed(dataset: Any, uid: Any, shape: Shape, name: str) -> None:
    """Raises an ImageError if compressed pixels are not what the header declares, or are cut."""
    if shape.high != shape.stored - 1:
        got = f"HighBit {shape.high} with BitsStored {shape.stored}"
        raise image_error(name, "compressed with HighBit = BitsStored - 1", got, RENEW)
    encapsulation = _pydicom("pydicom.encaps", name)
    frame = next(encapsulation.generate_frames(dataset.PixelData, number_of_frames=1))
    check_codestream(frame, uid.name, shape, name)
    if uid.name.startswith("JPEG Baseline"):
        with Image.open(io.BytesIO(whole_jpeg(frame, name)[0]), formats=("JPEG",)) as image:
            image.load()


def _displayed(
    stored: NDArray[Any], shape: Shape, header: Mapping[str, Any], little: bool, name: str
) -> NDArray[np.uint8]:
    """Returns the grey values that a viewer displays, before the inversion of MONOCHROME1.

    Source: DICOM PS3.3, C.11.1 (modality), C.11.2 (VOI).
    """
    padding = _padding(stored, shape, header, name)
    real = stored if padding is None or padding.all() else stored[~padding]
    if padding is not None and shape.is_float:
        # Padding may be NaN or infinite.
        stored = np.where(padding & ~np.isfinite(stored), real.min(), stored)
    check_finite(stored, name)
    values = _modality(stored, shape, header, little, name)
    if "VOILUTSequence" in header:
        signed = bool(values.min() < 0)
        table = read_table(header["VOILUTSequence"][0], little, signed, name)
        # Scale by the table's ends, because its descriptor often declares more bits than it uses.
        low, high = table.values.min(), table.values.max()
        grey = scaled(table.look_up(values), low, high, name)
    elif "WindowCenter" in header or "WindowWidth" in header:
        grey = scaled(windowed(values, header, name), 0, 1, name)
    else:
        ends = real
        if shape.stored <= 8:
            # Up to 8 bits keep their full range, so that 8-bit pictures keep their values.
            least = -(2 ** (shape.stored - 1)) if shape.signed else 0
            ends = np.array([least, least + 2**shape.stored - 1])
        ends = _modality(ends, shape, header, little, name)
        return scaled(values, ends.min(), ends.max(), name)
    if grey.min() == grey.max() and real.min() != real.max():
        got = f"a window or VOI table that makes all pixels {grey.min()}"
        advice = "Correct or delete the window, or pass the array if this is meant."
        raise image_error(name, "a picture that its own window shows", got, advice)
    return grey


def _modality(
    stored: NDArray[Any], shape: Shape, header: Mapping[str, Any], little: bool, name: str
) -> NDArray[np.float64]:
    """Returns stored values after the modality table or the rescale."""
    if "ModalityLUTSequence" not in header:
        return rescaled(stored, header, name)
    table: Table = read_table(header["ModalityLUTSequence"][0], little, shape.signed, name)
    return table.look_up(stored).astype(np.float64)


def _padding(
    stored: NDArray[Any], shape: Shape, header: Mapping[str, Any], name: str
) -> NDArray[np.bool_] | None:
    """Returns which pixels are padding, or None if the header names no value of it.

    Padding is often an extreme value. It would leave little contrast to the real pixels.

    Source: DICOM PS3.3, C.7.5.1.1.2 and C.7.6.24 (float and double float).
    """
    kind = {32: "Float", 64: "DoubleFloat"}[shape.allocated] if shape.is_float else ""
    first, second = (f"{kind}PixelPadding{end}" for end in PADDING_ENDS)
    if first not in header:
        return None
    if shape.is_float and np.isnan(np.float64(header[first])):
        return np.isnan(stored)
    value = number(header, first, name)
    least, most = sorted((value, number(header, second, name, value)))
    if shape.signed and not shape.is_float:
        # Files in implicit encoding may hold a negative value as an unsigned word.
        least, most = (end - 2**16 if end >= 2**15 else end for end in (least, most))
    found: NDArray[np.bool_] = (stored >= least) & (stored <= most)
    return found
