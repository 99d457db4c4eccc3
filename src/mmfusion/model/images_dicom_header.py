"""The elements of a DICOM header, read as what they must be.

Only the standard library is imported here, because this file travels with every model that is
pushed to a hub.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, final

from .images_base import image_error

_ADVICE = "Correct the header, or read the pixels yourself and pass the array."
_FLOATS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}
PADDING_ENDS = "Value", "RangeLimit"
"""How the keywords of the two ends of the range of padding end."""

_GROUPS = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_MACROS = "PixelValueTransformationSequence", "FrameVOILUTSequence"
_RESCALE = "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"
_VOI = "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"
_COLOURS = [f"{c}PaletteColorLookupTable" for c in ("Red", "Green", "Blue", "Alpha")]
_DISPLAY = (
    *_RESCALE,
    *_VOI,
    *(f"{kind}PixelPadding{end}" for kind in ("", "Float", "DoubleFloat") for end in PADDING_ENDS),
    *(f"{colour}Descriptor" for colour in _COLOURS),
    *(f"{kind}{colour}Data" for kind in ("", "Segmented") for colour in _COLOURS),
    "PixelPresentation",
    "PhotometricInterpretation",
)


@final
class Shape(NamedTuple):
    """What the header says of the stored pixels. `high` is the number of the highest bit."""

    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    stored: int
    high: int
    signed: bool
    is_float: bool

    @property
    def size(self) -> int:
        """The number of bytes of the uncompressed pixels."""
        return -(-self.rows * self.columns * self.frames * self.samples * self.allocated // 8)


def number(header: Any, keyword: str, name: str, default: float | int | None = None) -> float:
    """Returns the (first) number of an element.

    Args:
        header: the pydicom Dataset.
        keyword: the element.
        name: the picture, for the error.
        default: the value of an element that is absent or empty, or None if it is needed.

    Raises:
        ImageError: if the element holds anything else, or is absent and has no default.
    """
    got = "none"
    try:
        value = header.get(keyword)
        if value is not None and not isinstance(value, str | bytes) and hasattr(value, "__len__"):
            value = value[0] if len(value) else None
        if value is None or value == "":
            if default is not None:
                return float(default)
        else:
            got = repr(value)[:60]
            found = float(value)
            if math.isfinite(found):
                return found
    # pydicom converts an element when it is read, and raises errors of any class.
    except Exception as error:
        got = " ".join(str(error).split())[:100] if got == "none" else got
    raise image_error(name, f"a DICOM picture with a number as {keyword}", got, _ADVICE)


def whole(header: Any, keyword: str, name: str, allowed: range, default: int | None = None) -> int:
    """Returns the whole number of an element.

    Args:
        header: the pydicom Dataset.
        keyword: the element.
        name: the picture, for the error.
        allowed: the values that the element may have.
        default: the value of an element that is absent or empty, or None if it is needed.

    Raises:
        ImageError: if the element holds anything else, or is absent and has no default.
    """
    found = number(header, keyword, name, default)
    if found != int(found) or int(found) not in allowed:
        rule = f"a DICOM picture with {keyword} from {allowed[0]} to {allowed[-1]}"
        raise image_error(name, rule, f"{found:g}", _ADVICE)
    return int(found)


def read_shape(dataset: Any, name: str) -> Shape:
    """Returns what the header of a Dataset says of its stored pixels.

    Raises:
        ImageError: if an element is wrong, or contradicts another.
    """
    any_size = range(2**32)
    rows, columns = (whole(dataset, key, name, any_size, 0) for key in ("Rows", "Columns"))
    frames = max(1, whole(dataset, "NumberOfFrames", name, any_size, 1))
    samples = whole(dataset, "SamplesPerPixel", name, range(1, 5), 1)
    is_float = "PixelData" not in dataset and any(key in dataset for key in _FLOATS)
    if is_float:
        allocated = next(bits for key, bits in _FLOATS.items() if key in dataset)
        stored, high, signed = allocated, allocated - 1, 1
    else:
        allocated = whole(dataset, "BitsAllocated", name, range(1, 65))
        stored = whole(dataset, "BitsStored", name, range(1, allocated + 1), allocated)
        high = whole(dataset, "HighBit", name, range(stored - 1, allocated), stored - 1)
        signed = whole(dataset, "PixelRepresentation", name, range(2), 0)
    return Shape(rows, columns, frames, samples, allocated, stored, high, bool(signed), is_float)


def display_values(dataset: Any, name: str) -> dict[str, Any]:
    """Returns the elements that say how the pixels of a picture of one frame are displayed.

    In the enhanced objects, functional groups hold them, for all frames or for one. They hold for
    the picture before those of the object itself. An empty element counts as absent.

    Args:
        dataset: the pydicom Dataset. It is not changed.
        name: the picture, for the error.

    Source: DICOM PS3.3, C.7.6.16.2.9 (pixel value transformation), C.7.6.16.2.10 (frame VOI LUT).
    """
    sources = [dataset]
    for group in _GROUPS:
        for item in _items(dataset, group, name)[:1]:
            for macro in _MACROS:
                sources += _items(item, macro, name)[:1]
    values: dict[str, Any] = {}
    for source in sources:
        own = {keyword: _value(source, keyword, name) for keyword in _DISPLAY}
        own = {keyword: value for keyword, value in own.items() if value not in (None, "")}
        # Values of one kind replace each other as a whole.
        for kind in (_RESCALE, _VOI):
            if any(keyword in own for keyword in kind):
                values = {
                    keyword: value for keyword, value in values.items() if keyword not in kind
                }
        values |= own
    return values


def _value(source: Any, keyword: str, name: str) -> Any:
    """Returns the value of an element, None if it is absent, a list if it has several."""
    try:
        value = source.get(keyword)
    # pydicom converts an element when it is read, and raises errors of any class.
    except Exception as error:
        got = " ".join(str(error).split())[:100]
        raise image_error(name, f"a DICOM picture with a valid {keyword}", got, _ADVICE) from error
    if value is None or isinstance(value, str | bytes) or not hasattr(value, "__len__"):
        return value
    return list(value) or None


def _items(dataset: Any, keyword: str, name: str) -> list[Any]:
    """Returns the items of a sequence, none if it is absent."""
    value = _value(dataset, keyword, name)
    if value is None:
        return []
    if not isinstance(value, list):
        rule = f"a DICOM picture with a sequence as {keyword}"
        raise image_error(name, rule, repr(value)[:60], _ADVICE)
    return value
