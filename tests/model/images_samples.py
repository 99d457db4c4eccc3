"""Pictures and DICOM objects that several tests of the reading of pictures make."""

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset


def encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def smooth(height: int = 60, width: int = 80) -> np.ndarray:
    """Returns a picture in colour with gradients and some noise, as photographs have them."""
    grey = np.add.outer(np.arange(height) * 2, np.arange(width)) % 180
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    return (grey[..., None] + noise).astype(np.uint8)


def tiff(
    shape: tuple[int, int], data: bytes, order: str = "<", **tags: int | Sequence[int]
) -> bytes:
    """Returns a TIFF of one strip, of any layout. Tags are named t258 and so on.

    Values of a tag are words. Those of the sizes and of the strip are long words.
    """
    height, width = shape
    usual = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    entries: dict[int, Any] = usual | {279: len(data)} | {int(k[1:]): v for k, v in tags.items()}
    data += b"\0" * (len(data) % 2)
    at = 8 + len(data)
    table, more = struct.pack(f"{order}H", len(entries)), b""
    for tag, value in sorted(entries.items()):
        values = list(value) if isinstance(value, Sequence) else [value]
        letter, kind = ("I", 4) if tag in (256, 257, 273, 278, 279, 322, 323) else ("H", 3)
        packed = struct.pack(f"{order}{len(values)}{letter}", *values)
        table += struct.pack(f"{order}HHI", tag, kind, len(values))
        if len(packed) > 4:
            place = at + 2 + 12 * len(entries) + 4 + len(more)
            table, more = table + struct.pack(f"{order}I", place), more + packed
        else:
            table += packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at)
    return head + data + table + bytes(4) + more


def dicom(
    pixels: np.ndarray, syntax: uid.UID = uid.ExplicitVRLittleEndian, **elements: Any
) -> Dataset:
    """Returns a Dataset of pixels HxW or HxWx3. Elements given replace those of the pixels."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.SecondaryCaptureImageStorage, "1.2.3"
    dataset.Modality = "DX"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    if pixels.dtype.kind == "f":
        for name in ("BitsStored", "PixelRepresentation"):
            delattr(dataset, name)
        name = "FloatPixelData" if pixels.dtype.itemsize == 4 else "DoubleFloatPixelData"
        setattr(dataset, name, pixels.tobytes())
    else:
        if not syntax.is_little_endian:
            pixels = pixels.astype(pixels.dtype.newbyteorder(">"))
        dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
        dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    if pixels.dtype.kind != "f" and "HighBit" not in elements:
        dataset.HighBit = max(dataset.BitsStored, 1) - 1
    return dataset


def written(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def item(**elements: Any) -> Dataset:
    """Returns the item of a sequence."""
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def table(descriptor: list[int], data: list[int] | bytes) -> list[Dataset]:
    """Returns a modality or VOI LUT sequence."""
    made = item(LUTDescriptor=descriptor)
    made.add_new("LUTData", "OW" if isinstance(data, bytes) else "US", data)
    return [made]
