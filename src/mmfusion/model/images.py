"""The loading of a picture from a path, a PIL image, an array, a tensor or a DICOM object.

Only the standard library, numpy and PIL are imported here, because this file travels with every
model that is pushed to a hub.
"""

from __future__ import annotations

import io
import os
import re
import stat
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from .images_base import RENEW, ImageError, check_size, explained, image_error, scaled
from .images_dicom import from_dicom, read_dicom
from .images_files import checked_image
from .images_jpeg import whole_jpeg
from .images_tiff import check_tiff, has_unsigned_32_bits

__all__ = ["ImageError", "ImageSource", "load_image"]

# Any stands for pydicom's Dataset and torch's Tensor. Their libraries would have to be imported to
# name them.
ImageSource: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[Any] | Any

# A closed list, because PIL's other plug-ins start programs (EPS) or accept any file as a picture
# (TGA).
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")


def load_image(source: ImageSource, *, max_pixels: int = 178_956_970) -> Image.Image:
    """Returns the picture as a new 8-bit PIL image in mode "L" or "RGB", upright and fully decoded.

    Each kind of source has one rule for its brightness. x is the stored value:

    - 8-bit pictures, and uint8 arrays and tensors, keep their values. 1-bit pictures, and bool
      arrays and tensors, become 0 and 255.
    - Float arrays and tensors within [0, 1] become round(255 x).
    - 16-bit, 32-bit and float pictures in grey, and all other arrays and tensors, are stretched by
      their own range: round(255 (x - min) / (max - min)). If all values are equal, they become 0.
    - DICOM: the modality LUT or rescale is applied first. Then the VOI LUT or the first window is
      applied, and its ends become 0 and 255. Without either, pictures of up to 8 stored bits keep
      their full range, and pictures of more bits are stretched by their own range (without the
      pixel padding). MONOCHROME1 is inverted last. The functional groups of enhanced objects hold
      before the object's own elements. A window or VOI LUT that makes different pixels all alike
      is an error, because nothing is left to classify.

    Transparency is composited on white, as viewers of documents show it: black ink on a transparent
    ground stays visible. If everything is white then, the picture is refused. CMYK, YCbCr, HSV and
    palettes become RGB by PIL's plain conversion. PIL keeps the upper 8 bits of 16-bit colour. EXIF
    and TIFF orientation are applied. A multi-picture JPEG (MPO, the format of many phones) gives
    its first picture. Other files of several frames are an error.

    Damage that PIL passes over is an error: a PNG whose chunks differ from their checksums, a JPEG
    whose data end too early, strips that a TIFF lacks. The same is true of layouts of TIFF that PIL
    misreads. Uncompressed pixels have no checksum, so a change of them stays unseen.

    Args:
        source: the path of a PNG, JPEG, TIFF, BMP, WebP, GIF, PPM, JPEG 2000 or DICOM file (DICOM
            is recognised by its content or by the suffix .dcm or .dicom); a PIL image; a numpy
            array HxW, HxWx1, HxWx3, HxWx4 (RGBA in uint8, bool or float within [0, 1]) or, if the
            shape is unambiguous, CxHxW; a torch tensor HxW or CxHxW with 1 or 3 channels; a pydicom
            Dataset.
        max_pixels: the largest number of pixels (width x height) to decode, at least 1. The default
            is PIL's own limit.

    Raises:
        ImageError: if the picture is missing, unreadable, damaged, too large, has no pixels or
            several frames, or holds NaN or infinite values.
        TypeError: if the source is of another type. This includes bytes and open files.
        ValueError: if max_pixels is not a positive int.
        ImportError: if the picture is DICOM and pydicom is not installed.

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
            return from_dicom(source, "<pydicom Dataset>", max_pixels)
        # os.PathLike may also stand for bytes.
        if isinstance(source, str | os.PathLike) and isinstance(os.fspath(source), str):
            return _from_path(os.fspath(source), max_pixels)
    raise TypeError(
        "image must be a path, a PIL image, a numpy array, a torch tensor or a pydicom Dataset, "
        f"got {type(source).__name__}. "
        "Open bytes with PIL.Image.open(io.BytesIO(...)); make lists uint8 arrays."
    )


def decode_image(
    content: bytes, name: str = "<bytes>", *, max_pixels: int = 178_956_970
) -> Image.Image:
    r"""Returns the picture in the content of a file, as `load_image` returns that of a path.

    No path is opened, so it can be given what a stranger sent. DICOM is recognised by its content.

    Args:
        content: what the file holds.
        name: of the picture, for the errors.
        max_pixels: as for `load_image`.

    Raises:
        ImageError: as `load_image` raises it.

    Example:
        >>> decode_image(b"P5 2 1 255 \x00\x09").getpixel((1, 0))
        9
    """
    with _STRICT:
        return _from_file(io.BytesIO(content), name, max_pixels)


@final
class _StrictDecoding:
    """The context in which PIL completes no truncated file, and PIL and pydicom do not warn.

    Both are settings of the whole process. The earlier settings come back only when the last of
    several threads has left, so no thread decodes with them.
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
    """Returns whether an object is of a class of a library that may not be installed."""
    # An object can only be of this class if its library is loaded already, so do not import it.
    return isinstance(source, getattr(sys.modules.get(module), class_name, ()))


def _from_path(path: str, max_pixels: int) -> Image.Image:
    """Returns the picture of a file."""
    name = repr(path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://|data:", path):
        # A data URL may be very long, so the message holds only its beginning.
        raise image_error(
            name[:200], "a local file", "a URL", "Download it first and pass the file's path."
        )
    with _opened(path, name) as file:
        is_named_dicom = path.lower().endswith((".dcm", ".dicom"))
        return _from_file(file, name, max_pixels, is_named_dicom)


def _from_file(
    file: BinaryIO | io.BytesIO, name: str, max_pixels: int, is_named_dicom: bool = False
) -> Image.Image:
    """Returns the picture in an open file."""
    # The mark of a DICOM file stands behind a preamble of 128 bytes.
    head = file.read(132)
    file.seek(0)
    if not head:
        raise image_error(name, "a picture", "an empty file (0 bytes)", RENEW)
    if head[128:] == b"DICM" or is_named_dicom:
        return from_dicom(read_dicom(file, name, max_pixels), name, max_pixels)
    if head.startswith(b"\xff\xd8\xff"):
        # Check a JPEG before PIL opens it: to open it twice would take a third of the time.
        with explained(name, "a complete, undamaged picture", RENEW):
            whole, noisy = whole_jpeg(file.read(), name)
        image = _identified(io.BytesIO(whole), name, head, max_pixels)
        return _from_pil(image, name, max_pixels, is_checked=noisy is None)
    return _from_pil(_identified(file, name, head, max_pixels), name, max_pixels)


@contextmanager
def _opened(path: str, name: str) -> Iterator[BinaryIO]:
    """Yields a regular file, open for binary reading."""
    # Look before opening, because to open a pipe would wait for its writer. The file is opened
    # outside of a `with`: only errors of opening are explained here.
    try:
        mode = os.stat(path).st_mode
        file = open(path, "rb") if stat.S_ISREG(mode) else None  # noqa: SIM115
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise image_error(
            name, "a readable file", reason, "Check the path and its permissions."
        ) from error
    if file is None:
        raise image_error(name, "a file", "a directory or device", "Pass the path of one picture.")
    with file:
        yield file


def _identified(
    file: BinaryIO | io.BytesIO, name: str, head: bytes, max_pixels: int
) -> Image.Image:
    """Returns the PIL image of an open file, not decoded yet."""
    with explained(name, "a complete, undamaged picture", RENEW):
        if head[4:8] == b"jP  ":
            # PIL reads as many bytes as a box of JPEG 2000 declares. For a file, Python would take
            # that much memory first.
            file = io.BytesIO(file.read())
        try:
            return Image.open(file, formats=_FORMATS)
        except UnidentifiedImageError as error:
            state = "content that is none of these or is damaged"
            if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                state = "a TIFF that is damaged or of a layout that PIL does not read"
            got = f"{state} (it begins {head[:16]!r})"
            advice = "Convert it, or open it yourself and pass the PIL image."
            raise image_error(name, f"one of {', '.join(_FORMATS)}, DICOM", got, advice) from error
        except Image.DecompressionBombError as error:
            advice = (
                "If it is meant to be so large, raise max_pixels and PIL.Image.MAX_IMAGE_PIXELS."
            )
            got = "more than PIL opens (a decompression bomb?)"
            raise image_error(name, f"at most {max_pixels} pixels", got, advice) from error


def _from_pil(
    image: Image.Image, name: str, max_pixels: int, is_checked: bool = False
) -> Image.Image:
    """Returns the decoded, upright 8-bit picture of a PIL image."""
    with explained(name, "a complete, undamaged picture", RENEW):
        check_size(image.width, image.height, name, max_pixels)
        # The other pictures of an MPO are previews and gain maps of the same scene.
        # Do not count them: to do so, PIL walks through the whole file.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            advice = "Choose one: open it with PIL, call image.seek(index) and pass image.copy()."
            raise image_error(name, "a single picture", "several frames", advice)
        check_tiff(image, name)
        # Read the tags before the orientation is applied, because that returns an image without.
        white_is_zero = (
            getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0
        )
        unsigned = has_unsigned_32_bits(image)
        checked = image if is_checked else checked_image(image, name)
        checked.load()
        upright = ImageOps.exif_transpose(checked)
        if unsigned:
            # The array stands for the image: modes of PIL hold no unsigned values of 32 bits.
            values = np.asarray(upright).view(np.uint32)
            return Image.fromarray(_stretched(values, name, white_is_zero))
        return _eight_bits(upright, name, white_is_zero)


def _eight_bits(image: Image.Image, name: str, white_is_zero: bool) -> Image.Image:
    """Returns a PIL image in mode "L" or "RGB", from one of any mode."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_stretched(np.asarray(image), name, white_is_zero))
    # PIL converts "La" (premultiplied alpha) to "LA" only.
    if image.mode == "La":
        image = image.convert("LA")
    target = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"), name).convert(target)
    return image.convert(target)


def _stretched(values: NDArray[Any], name: str, white_is_zero: bool) -> NDArray[np.uint8]:
    """Returns grey values as bytes, stretched by their own range."""
    grey = scaled(values, values.min(), values.max(), name)
    # PIL inverts white-is-zero pictures of up to 8 bits only.
    return 255 - grey if white_is_zero else grey


def _on_white(image: Image.Image, name: str) -> Image.Image:
    """Returns an RGBA picture on white, or raises if nothing of it can be seen there."""
    shown = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    is_opaque = image.getchannel("A").getextrema() == (255, 255)
    if not is_opaque and np.asarray(shown).min() == 255:
        advice = "Composite it on another colour yourself and pass the result."
        got = "only white or transparent pixels"
        raise image_error(name, "visible on a white background", got, advice)
    return shown


def _array_pixels(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Returns an array with its channels last, or raises if their axis is not clear."""
    if array.ndim == 2:
        return array
    if array.ndim == 3:
        first, last = array.shape[0] in (1, 3, 4), array.shape[2] in (1, 3, 4)
        if first and last:
            advice = (
                "Pass PIL.Image.fromarray(array) of the array as HxW or HxWx3 to say which it is."
            )
            raise image_error(name, "unambiguous", "a shape that is both HxWxC and CxHxW", advice)
        if first or last:
            return array if last else np.moveaxis(array, 0, -1)
    raise image_error(
        name, "HxW, HxWxC or CxHxW with C 1, 3 or 4", f"{array.shape}", "Pass one picture."
    )


def _from_tensor(tensor: Any, max_pixels: int) -> Image.Image:
    """Returns the picture of a torch tensor HxW or CxHxW."""
    name = f"<tensor, {tensor.dtype}, {tuple(tensor.shape)}>"
    if tensor.ndim != 2 and not (tensor.ndim == 3 and tensor.shape[0] in (1, 3)):
        advice = "Pass one picture, channels first."
        raise image_error(name, "HxW or CxHxW with C 1 or 3", f"{tuple(tensor.shape)}", advice)
    with explained(name, "convertible to numpy", "Pass a dense tensor with values."):
        dense = tensor.detach().cpu()
        # numpy has no bfloat16.
        array: NDArray[Any] = (dense.float() if dense.is_floating_point() else dense).numpy()
    return _from_pixels(array if array.ndim == 2 else np.moveaxis(array, 0, -1), name, max_pixels)


def _from_pixels(pixels: NDArray[Any], name: str, max_pixels: int) -> Image.Image:
    """Returns the picture of an array HxW or HxWxC."""
    if pixels.dtype.kind not in "buif":
        raise TypeError(
            f"image {name} must hold bools, ints or floats, got {pixels.dtype}. Convert it."
        )
    check_size(pixels.shape[1], pixels.shape[0], name, max_pixels)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype == np.uint8:
        eight = pixels
    elif pixels.dtype.kind == "b" or (
        pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1
    ):
        eight = scaled(pixels, 0, 1, name)
    elif pixels.ndim == 3 and pixels.shape[2] == 4:
        # To stretch colours and alpha together would change the alpha.
        raise image_error(
            name, "uint8, bool or float within [0, 1] (RGBA)", f"{pixels.dtype}", "Convert it."
        )
    else:
        eight = scaled(pixels, pixels.min(), pixels.max(), name)
    return _eight_bits(Image.fromarray(np.ascontiguousarray(eight)), name, white_is_zero=False)
