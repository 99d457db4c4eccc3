"""A picture from a path, a PIL image, an array, a tensor or a DICOM object, and every way it can be bad.

Only the standard library, numpy and PIL are imported here, because this file travels with every
model that is pushed to a hub. pydicom is loaded when the first DICOM picture is met.
"""

from __future__ import annotations

import copy
import importlib
import os
import re
import stat
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, SupportsFloat, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

# Any stands for pydicom's Dataset and torch's Tensor: to name them, their libraries would be
# imported.
ImageSource: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[Any] | Any

# A closed list: PIL's other plug-ins start programs (EPS) or take any file for a picture (TGA).
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")
_RENEW = "Fetch or export it again."
_DECODERS = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"


class ImageError(ValueError):
    """A picture that cannot be read; the message names it, says what is wrong and what to do."""


def load_image(source: ImageSource, *, max_pixels: int = 178_956_970) -> Image.Image:
    """Return the picture as a new 8-bit PIL image in mode "L" or "RGB", upright and fully decoded.

    Brightness follows one rule per kind of source, with x the stored value:

    - 8-bit pictures and uint8 arrays keep their values; 1-bit pictures and bool arrays become 0 and
      255.
    - Float arrays and tensors within [0, 1] become round(255 x).
    - 16-bit, 32-bit and float pictures in grey, and all other arrays and tensors, are stretched
      from their own range: round(255 (x - min) / (max - min)). A constant one has no range and
      becomes 0 everywhere.
    - DICOM: modality LUT or rescale, then the VOI LUT or the first window, whose ends become 0 and
      255. Without either, up to 8 stored bits keep their full range, and more are stretched from
      their own range (without the pixel padding). MONOCHROME1 is inverted last.

    Transparency is composited on black. CMYK, YCbCr, HSV and palettes become RGB by PIL's plain
    conversion; of 16-bit colour PIL keeps the upper 8 bits. EXIF and TIFF orientation are applied.
    Of a multi-picture JPEG (MPO, as phones write it) the first picture is read; other files of
    several frames are an error.

    Args:
        source: Path of a PNG, JPEG, TIFF, BMP, WebP, GIF, PPM, JPEG 2000 or DICOM file (known by
            its content or by the suffix .dcm or .dicom); a PIL image; a numpy array HxW, HxWx1,
            HxWx3, HxWx4 (RGBA in uint8, bool or float within [0, 1]) or, where it cannot be
            mistaken, CxHxW; a torch tensor HxW or CxHxW with 1 or 3 channels; a pydicom Dataset.
        max_pixels: Most pixels (width x height) to decode, at least 1. The default is PIL's own
            limit.

    Raises:
        ImageError: If the picture is missing, unreadable, damaged, too large, of no size, of
            several frames, or holds NaN or infinite values.
        TypeError: If the source is of another type, bytes and open files included.
        ValueError: If max_pixels is not a positive int.
        ImportError: If the picture is DICOM and pydicom is not installed.

    Source: DICOM PS3.3, C.7.6.3.1.2 (photometric interpretation), C.11.1 (modality), C.11.2 (VOI).

    Example:
        >>> import numpy as np
        >>> picture = load_image(np.array([[0, 1000], [2000, 4000]], dtype=np.uint16))
        >>> picture.mode, np.asarray(picture).tolist()
        ('L', [[0, 64], [128, 255]])
    """
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        raise ValueError(
            f"max_pixels must be a positive int, got {max_pixels!r}. Omit it for PIL's limit."
        )
    with _STRICT:
        if isinstance(source, Image.Image):
            filename = getattr(source, "filename", "")
            name = repr(str(filename)) if filename else f"<PIL image, {source.mode}, {source.size}>"
            return _from_pil(source, name, max_pixels)
        if isinstance(source, np.ndarray):
            name = f"<array, {source.dtype}, {source.shape}>"
            return _from_pixels(_array_pixels(source, name), name, max_pixels)
        if _is_a(source, "torch", "Tensor"):
            return _from_tensor(source, max_pixels)
        if _is_a(source, "pydicom", "Dataset"):
            return _from_dicom(source, "<pydicom Dataset>", max_pixels)
        if isinstance(source, str | os.PathLike) and isinstance(os.fspath(source), str):
            return _from_path(os.fspath(source), max_pixels)
    raise TypeError(
        "image must be a path, a PIL image, a numpy array, a torch tensor or a pydicom Dataset, got "
        f"{type(source).__name__}. Open bytes with PIL.Image.open(io.BytesIO(...)); make lists uint8 arrays."
    )


class _StrictDecoding:
    """Context in which PIL completes no truncated file, and no warning of PIL or pydicom gets out.

    Both are settings of the whole process. Entries are counted, so that of several threads the last
    one out restores them, and none decodes with the settings of before.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entered = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._entered == 0:
                self._truncated = ImageFile.LOAD_TRUNCATED_IMAGES
                ImageFile.LOAD_TRUNCATED_IMAGES = False
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.filterwarnings("ignore", module=r"(PIL|pydicom)(\.|$)")
            self._entered += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._entered -= 1
            if self._entered == 0:
                self._warnings.__exit__(None, None, None)
                ImageFile.LOAD_TRUNCATED_IMAGES = self._truncated


_STRICT = _StrictDecoding()


def _is_a(source: object, module: str, class_name: str) -> bool:
    # An object of a library exists only where that library is loaded already: no need to import it.
    return isinstance(source, getattr(sys.modules.get(module), class_name, ()))


def _problem(name: str, rule: str, got: str, advice: str) -> ImageError:
    return ImageError(f"image {name} must be {rule}, got {got}. {advice}")


@contextmanager
def _explained(name: str, rule: str, advice: str) -> Iterator[None]:
    """Turn whatever a decoder raises (they raise anything) into an ImageError that names the picture."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")[:300] or "no reason"
        raise _problem(name, rule, f"{type(error).__name__} ({reason})", advice) from error


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise _problem(name, "at least 1x1 pixel", f"{width}x{height}", _RENEW)
    if width * height > max_pixels:
        advice = "Pass a larger max_pixels if it is meant to be so large."
        raise _problem(
            name, f"at most {max_pixels} pixels", f"{width}x{height} = {width * height}", advice
        )


def _scaled(
    values: NDArray[Any], low: SupportsFloat, high: SupportsFloat, name: str
) -> NDArray[np.uint8]:
    nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    if nan or infinite:
        got = f"{nan} NaN and {infinite} infinite of {values.size} values"
        raise _problem(
            name, "finite everywhere", got, "Replace them, for example with numpy.nan_to_num."
        )
    start, end = float(low), float(high)
    if start == end:
        return np.zeros(values.shape, dtype=np.uint8)
    if not np.isfinite(end - start):
        raise _problem(
            name, "of a range that a float can hold", f"{start} to {end}", "Rescale it first."
        )
    share = (values.astype(np.float64) - start) / (end - start)
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


def _from_path(path: str, max_pixels: int) -> Image.Image:
    name = repr(path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://|data:", path):
        raise _problem(
            name[:200], "a local file", "a URL", "Download it first and pass the file's path."
        )
    with _opened(path, name) as file:
        head = file.read(132)
        file.seek(0)
        if not head:
            raise _problem(name, "a picture", "an empty file (0 bytes)", _RENEW)
        if head[128:] == b"DICM" or path.lower().endswith((".dcm", ".dicom")):
            return _from_dicom(_read_dicom(file, name), name, max_pixels)
        return _from_pil(_identified(file, name, head, max_pixels), name, max_pixels)


@contextmanager
def _opened(path: str, name: str) -> Iterator[BinaryIO]:
    try:
        mode = os.stat(path).st_mode
        file = open(path, "rb") if stat.S_ISREG(mode) else None  # noqa: SIM115 - only opening is tried here
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _problem(
            name, "a readable file", reason, "Check the path and its permissions."
        ) from error
    if file is None:
        raise _problem(name, "a file", "a directory or device", "Pass the path of one picture.")
    with file:
        yield file


def _identified(file: BinaryIO, name: str, head: bytes, max_pixels: int) -> Image.Image:
    with _explained(name, "a complete, undamaged picture", _RENEW):
        try:
            return Image.open(file, formats=_FORMATS)
        except UnidentifiedImageError as error:
            got = f"content that is none of these or is damaged (it begins {head[:16]!r})"
            advice = "Convert it, or open it yourself and pass the PIL image."
            raise _problem(name, f"one of {', '.join(_FORMATS)}, DICOM", got, advice) from error
        except Image.DecompressionBombError as error:
            advice = (
                "If it is meant to be so large, raise max_pixels and PIL.Image.MAX_IMAGE_PIXELS."
            )
            got = "more than PIL opens (a decompression bomb?)"
            raise _problem(name, f"at most {max_pixels} pixels", got, advice) from error


def _from_pil(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    with _explained(name, "a complete, undamaged picture", _RENEW):
        _check_size(image.width, image.height, name, max_pixels)
        # Behind the first picture of an MPO stand previews and gain maps of the same scene.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1:
            advice = "Choose one: open it with PIL, call image.seek(index) and pass image.copy()."
            raise _problem(name, "a single picture", f"{frames} frames", advice)
        white_is_zero = (
            getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0
        )
        image.load()
        return _eight_bits(ImageOps.exif_transpose(image), name, white_is_zero)


def _eight_bits(image: Image.Image, name: str, white_is_zero: bool) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        grey = _scaled(values, values.min(), values.max(), name)
        # PIL itself inverts white-is-zero up to 8 bits only.
        return Image.fromarray(255 - grey if white_is_zero else grey)
    if image.mode == "La":
        image = image.convert("LA")
    target = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, "black")
        return Image.alpha_composite(black, image.convert("RGBA")).convert(target)
    return image.convert(target)


def _array_pixels(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.ndim == 2:
        return array
    if array.ndim == 3:
        first, last = array.shape[0] in (1, 3, 4), array.shape[2] in (1, 3, 4)
        if first and last:
            advice = (
                "Pass PIL.Image.fromarray(array) of the array as HxW or HxWx3 to say which it is."
            )
            raise _problem(name, "unambiguous", "a shape that is both HxWxC and CxHxW", advice)
        if first or last:
            return array if last else np.moveaxis(array, 0, -1)
    raise _problem(
        name, "HxW, HxWxC or CxHxW with C 1, 3 or 4", f"{array.shape}", "Pass one picture."
    )


def _from_tensor(tensor: Any, max_pixels: int) -> Image.Image:
    name = f"<tensor, {tensor.dtype}, {tuple(tensor.shape)}>"
    if tensor.ndim != 2 and not (tensor.ndim == 3 and tensor.shape[0] in (1, 3)):
        advice = "Pass one picture, channels first."
        raise _problem(name, "HxW or CxHxW with C 1 or 3", f"{tuple(tensor.shape)}", advice)
    with _explained(name, "convertible to numpy", "Pass a dense tensor with values."):
        dense = tensor.detach().cpu()
        # numpy knows no bfloat16.
        array: NDArray[Any] = (dense.float() if dense.is_floating_point() else dense).numpy()
    return _from_pixels(array if array.ndim == 2 else np.moveaxis(array, 0, -1), name, max_pixels)


def _from_pixels(pixels: NDArray[Any], name: str, max_pixels: int) -> Image.Image:
    """Return the picture of an array HxW or HxWxC."""
    if pixels.dtype.kind not in "buif":
        raise TypeError(
            f"image {name} must hold bools, ints or floats, got {pixels.dtype}. Convert it."
        )
    _check_size(pixels.shape[1], pixels.shape[0], name, max_pixels)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype == np.uint8:
        eight = pixels
    elif pixels.dtype.kind == "b" or (
        pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1
    ):
        eight = _scaled(pixels, 0, 1, name)
    elif pixels.ndim == 3 and pixels.shape[2] == 4:
        raise _problem(
            name, "uint8, bool or float within [0, 1] (RGBA)", f"{pixels.dtype}", "Convert it."
        )
    else:
        eight = _scaled(pixels, pixels.min(), pixels.max(), name)
    return _eight_bits(Image.fromarray(np.ascontiguousarray(eight)), name, white_is_zero=False)


def _pydicom(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        advice = f'{error}. Run: pip install "mmfusion[dicom]"'
        raise ImportError(
            f"image {name} must be read by pydicom 3 or newer, got {advice}"
        ) from error


def _read_dicom(file: BinaryIO, name: str) -> Any:
    pydicom = _pydicom("pydicom", name)
    with _explained(name, "a readable DICOM file", _RENEW):
        # Forced, because old archives hold files without the preamble; what is no DICOM has no
        # pixels either.
        dataset = pydicom.dcmread(file, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            little = dataset.original_encoding[1]
            syntaxes = pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.ExplicitVRBigEndian
            dataset.file_meta.TransferSyntaxUID = syntaxes[0] if little else syntaxes[1]
    return dataset


def _from_dicom(dataset: Any, name: str, max_pixels: int) -> Image.Image:
    processing = _pydicom("pydicom.pixels", name)
    with _explained(name, "a DICOM picture that pydicom can read", _RENEW):
        _check_dicom(dataset, name, max_pixels)
        stored = _stored_pixels(dataset, name, processing)
        header = _pydicom("pydicom", name).Dataset()
        header.file_meta = dataset.file_meta
        for element in dataset.group_dataset(0x0028):
            # pydicom's functions take an empty element for a value.
            if not element.is_empty:
                header.add(copy.deepcopy(element))
        photometric = header.PhotometricInterpretation
        if photometric in ("MONOCHROME1", "MONOCHROME2"):
            grey = _displayed(stored, header, name, processing)
            return Image.fromarray(255 - grey if photometric == "MONOCHROME1" else grey)
        if photometric == "PALETTE COLOR":
            colours = processing.apply_color_lut(stored, header)
            return Image.fromarray(_scaled(colours, 0, np.iinfo(colours.dtype).max, name))
        if photometric == "RGB" or photometric.startswith("YBR_"):
            return Image.fromarray(_scaled(stored, 0, 2**header.BitsStored - 1, name))
        raise _problem(
            name, "MONOCHROME, RGB, YBR or PALETTE COLOR", repr(photometric), "Convert it to RGB."
        )


def _check_dicom(dataset: Any, name: str, max_pixels: int) -> None:
    if not any(key in dataset for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        advice = "It is a report or a plan, has lost its picture, or is no DICOM file at all."
        got = f"no pixel data (modality {dataset.get('Modality') or 'unknown'})"
        raise _problem(name, "a DICOM picture", got, advice)
    _check_size(int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0), name, max_pixels)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        advice = (
            "Choose one and pass the array: pydicom.pixels.pixel_array(path_or_dataset, index=0)."
        )
        raise _problem(name, "a single picture", f"{frames} frames", advice)


def _stored_pixels(dataset: Any, name: str, processing: Any) -> NDArray[Any]:
    uid = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    if uid is None:
        advice = "Set dataset.file_meta.TransferSyntaxUID to the encoding of PixelData."
        raise _problem(name, "a Dataset with a transfer syntax", "none in file_meta", advice)
    syntax = f"transfer syntax {uid.name} ({uid})"
    try:
        available = processing.get_decoder(uid).is_available
    except NotImplementedError:
        available = False
    if not available:
        advice = f"Convert it to an uncompressed one, or run: {_DECODERS}"
        raise _problem(name, "decodable by an installed package", syntax, advice)
    advice = (
        f"{_RENEW} If it is whole, more decoders may help: {_DECODERS}"
        if uid.is_compressed
        else _RENEW
    )
    with _explained(name, f"whole and decodable ({syntax})", advice):
        pixels: NDArray[Any] = processing.pixel_array(dataset)
    if pixels.shape[:2] != (dataset.Rows, dataset.Columns):
        # pydicom returns every frame that the data holds, also where the header counts only one.
        raise _problem(
            name, "a single picture", f"{len(pixels)} frames of pixel data", "Set NumberOfFrames."
        )
    return pixels


def _displayed(stored: NDArray[Any], header: Any, name: str, processing: Any) -> NDArray[np.uint8]:
    # Wide ints, because pydicom computes the index into a table in the type of the pixels.
    wide = stored.astype(np.int64) if stored.dtype.kind in "iu" else stored
    values = processing.apply_modality_lut(wide, header)
    if "VOILUTSequence" in header:
        return _through_voi_table(values, header, name, processing)
    if "WindowCenter" in header and "WindowWidth" in header:
        with np.errstate(over="ignore"):
            # What lies far outside of the window comes out at its two ends.
            low, high = processing.apply_windowing(np.array([-1e300, 1e300]), header)
            return _scaled(processing.apply_windowing(values, header), low, high, name)
    bits = header.get("BitsStored", 16)
    if bits <= 8:
        least = -(2 ** (bits - 1)) if header.PixelRepresentation else 0
        ends = processing.apply_modality_lut(np.array([least, least + 2**bits - 1]), header)
        return _scaled(values, ends.min(), ends.max(), name)
    ends = values
    if "PixelPaddingValue" in header:
        padding = header.PixelPaddingValue
        least, most = sorted((padding, header.get("PixelPaddingRangeLimit", padding)))
        real = values[(stored < least) | (stored > most)]
        ends = real if real.size else values
    return _scaled(values, ends.min(), ends.max(), name)


def _through_voi_table(
    values: NDArray[Any], header: Any, name: str, processing: Any
) -> NDArray[np.uint8]:
    item = header.VOILUTSequence[0]
    size, first = item.LUTDescriptor[0], item.LUTDescriptor[1]
    last = first + (size or 2**16) - 1
    # pydicom's index has the type of the table's values: an 8-bit table of 4096 entries would wrap
    # around.
    item.LUTDescriptor = [size, first, 16]
    table = processing.apply_voi(np.arange(first, last + 1), header)
    index = np.clip(np.rint(values), first, last).astype(np.int64) - first
    # The table's own ends, because its descriptor often claims more bits than it uses.
    return _scaled(table[index], table.min(), table.max(), name)
