"""The reading of DICOM pictures, from a file or from a pydicom Dataset.

Only the standard library, numpy and PIL are imported here, because this file travels with every
model that is pushed to a hub. pydicom is loaded with the first DICOM picture.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .images_base import RENEW, check_size, explained, image_error, scaled

_DECODERS = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"


def read_dicom(file: BinaryIO, name: str) -> Any:
    """Returns the pydicom Dataset of an open file.

    Args:
        file: the file, open for binary reading.
        name: the picture, for the error.
    """
    pydicom = _pydicom("pydicom", name)
    with explained(name, "a readable DICOM file", RENEW):
        # Force the reading, because old archives hold files without the preamble. A file that is
        # not DICOM has no pixel data and is refused later.
        dataset = pydicom.dcmread(file, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            # Files without a header are uncompressed. pydicom found out their byte order.
            little = dataset.original_encoding[1]
            syntaxes = pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.ExplicitVRBigEndian
            dataset.file_meta.TransferSyntaxUID = syntaxes[0] if little else syntaxes[1]
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
        _check_dicom(dataset, name, max_pixels)
        stored = _stored_pixels(dataset, name, processing)
        header = _pydicom("pydicom", name).Dataset()
        header.file_meta = dataset.file_meta
        # Group 0028 holds all elements that say how pixels are displayed.
        for element in dataset.group_dataset(0x0028):
            # pydicom's functions use an empty element as if it held a value.
            if not element.is_empty:
                # Copy: a VOI table in the header is changed later.
                header.add(copy.deepcopy(element))
        photometric = header.PhotometricInterpretation
        if photometric in ("MONOCHROME1", "MONOCHROME2"):
            grey = _displayed(stored, header, name, processing)
            return Image.fromarray(255 - grey if photometric == "MONOCHROME1" else grey)
        if photometric == "PALETTE COLOR":
            colours = processing.apply_color_lut(stored, header)
            return Image.fromarray(scaled(colours, 0, np.iinfo(colours.dtype).max, name))
        # pydicom has converted YBR to RGB while decoding.
        if photometric == "RGB" or photometric.startswith("YBR_"):
            return Image.fromarray(scaled(stored, 0, 2**header.BitsStored - 1, name))
        raise image_error(
            name, "MONOCHROME, RGB, YBR or PALETTE COLOR", repr(photometric), "Convert it to RGB."
        )


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


def _check_dicom(dataset: Any, name: str, max_pixels: int) -> None:
    """Raises an ImageError if the Dataset does not hold one picture of an allowed size."""
    if not any(key in dataset for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        advice = "It is a report or a plan, has lost its picture, or is no DICOM file at all."
        got = f"no pixel data (modality {dataset.get('Modality') or 'unknown'})"
        raise image_error(name, "a DICOM picture", got, advice)
    check_size(int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0), name, max_pixels)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        advice = (
            "Choose one and pass the array: pydicom.pixels.pixel_array(path_or_dataset, index=0)."
        )
        raise image_error(name, "a single picture", f"{frames} frames", advice)


def _stored_pixels(dataset: Any, name: str, processing: Any) -> NDArray[Any]:
    """Returns the decoded pixels before any lookup table, HxW or HxWx3."""
    uid = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    if uid is None:
        advice = "Set dataset.file_meta.TransferSyntaxUID to the encoding of PixelData."
        raise image_error(name, "a Dataset with a transfer syntax", "none in file_meta", advice)
    syntax = f"transfer syntax {uid.name} ({uid})"
    # Check for a decoder first, because pydicom's own error does not say what to install.
    try:
        available = processing.get_decoder(uid).is_available
    except NotImplementedError:
        available = False
    if not available:
        advice = f"Convert it to an uncompressed one, or run: {_DECODERS}"
        raise image_error(name, "decodable by an installed package", syntax, advice)
    advice = (
        f"{RENEW} If it is whole, more decoders may help: {_DECODERS}"
        if uid.is_compressed
        else RENEW
    )
    with explained(name, f"whole and decodable ({syntax})", advice):
        pixels: NDArray[Any] = processing.pixel_array(dataset)
    if pixels.shape[:2] != (dataset.Rows, dataset.Columns):
        # pydicom returns every frame in the data, even if the header counts only one.
        raise image_error(
            name, "a single picture", f"{len(pixels)} frames of pixel data", "Set NumberOfFrames."
        )
    return pixels


def _displayed(stored: NDArray[Any], header: Any, name: str, processing: Any) -> NDArray[np.uint8]:
    """Returns the grey values that a viewer displays, before the inversion of MONOCHROME1.

    Source: DICOM PS3.3, C.11.1 (modality), C.11.2 (VOI).
    """
    # Wide ints, because pydicom computes the index into a table in the type of the pixels.
    wide = stored.astype(np.int64) if stored.dtype.kind in "iu" else stored
    values = processing.apply_modality_lut(wide, header)
    if "VOILUTSequence" in header:
        return _through_voi_table(values, header, name, processing)
    if "WindowCenter" in header and "WindowWidth" in header:
        with np.errstate(over="ignore"):
            # Values far outside the window give the two ends of its output.
            low, high = processing.apply_windowing(np.array([-1e300, 1e300]), header)
            return scaled(processing.apply_windowing(values, header), low, high, name)
    bits = header.get("BitsStored", 16)
    if bits <= 8:
        # Up to 8 bits keep their full range, so that 8-bit pictures keep their values.
        least = -(2 ** (bits - 1)) if header.PixelRepresentation else 0
        ends = processing.apply_modality_lut(np.array([least, least + 2**bits - 1]), header)
        return scaled(values, ends.min(), ends.max(), name)
    ends = values
    if "PixelPaddingValue" in header:
        # Padding is often an extreme value. It would leave little contrast to the real pixels.
        padding = header.PixelPaddingValue
        least, most = sorted((padding, header.get("PixelPaddingRangeLimit", padding)))
        real = values[(stored < least) | (stored > most)]
        ends = real if real.size else values
    return scaled(values, ends.min(), ends.max(), name)


def _through_voi_table(
    values: NDArray[Any], header: Any, name: str, processing: Any
) -> NDArray[np.uint8]:
    """Returns the values after the first VOI table, scaled to the range of that table."""
    item = header.VOILUTSequence[0]
    size, first = item.LUTDescriptor[0], item.LUTDescriptor[1]
    # By the standard, 0 stands for 2**16 entries.
    last = first + (size or 2**16) - 1
    # Declare 16 bits, because pydicom's index has the type of the table's values. With 8 bits, the
    # index into a table of 4096 entries would wrap around.
    item.LUTDescriptor = [size, first, 16]
    table = processing.apply_voi(np.arange(first, last + 1), header)
    index = np.clip(np.rint(values), first, last).astype(np.int64) - first
    # Scale by the table's own ends, because its descriptor often declares more bits than it uses.
    return scaled(table[index], table.min(), table.max(), name)
