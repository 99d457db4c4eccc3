"""The lookup tables and windows of DICOM, as the standard defines them.

Only the standard library and numpy are imported here, because this file travels with every model
that is pushed to a hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from .images_base import RENEW, image_error
from .images_dicom_header import number

_ADVICE = "Correct the header, or read the pixels yourself and pass the array."


@final
class Table(NamedTuple):
    """A lookup table: its first input, its values, and the bits that its descriptor declares."""

    first: int
    values: NDArray[np.int64]
    bits: int

    def look_up(self, inputs: NDArray[Any]) -> NDArray[np.int64]:
        """Returns the values of inputs. Inputs beyond an end of the table get its last value."""
        last = self.first + len(self.values) - 1
        index = np.clip(np.rint(inputs), self.first, last).astype(np.int64) - self.first
        found: NDArray[np.int64] = self.values[index]
        return found


def read_table(item: Any, little: bool, signed: bool, name: str) -> Table:
    """Returns the table of an item of a modality or VOI LUT sequence.

    Args:
        item: the pydicom Dataset of the item.
        little: whether the bytes of words stand in little-endian order.
        signed: whether the inputs of the table may be negative.
        name: the picture, for the error.

    Source: DICOM PS3.3, C.11.1.1 (modality LUT), C.11.2.1.1 (VOI LUT).
    """
    count, first, bits = _descriptor(item.get("LUTDescriptor"), signed, "LUTDescriptor", name)
    if bits not in range(1, 17):
        raise image_error(name, "a DICOM picture with tables of 1 to 16 bits", f"{bits}", _ADVICE)
    return Table(first, _entries(item.get("LUTData"), count, little, "LUTData", name), bits)


def read_palette(
    header: Mapping[str, Any], little: bool, signed: bool, name: str
) -> tuple[list[Table], int]:
    """Returns the tables of red, green and blue, and the value of full brightness.

    Entries of 8 bits may be stored in words of 16 bits. The standard says that the length of the
    data shows this. Entries that are declared as 16 bits and never exceed 255 are refused. By the
    standard they are black, but most programs that write them mean 8 bits.

    Source: DICOM PS3.3, C.7.6.3.1.5 (descriptor), C.7.6.3.1.6 (data), C.7.9.2 (segmented data).
    """
    if "AlphaPaletteColorLookupTableDescriptor" in header:
        raise image_error(name, "a DICOM picture without transparency", "an alpha table", _ADVICE)
    tables = []
    for colour in ("Red", "Green", "Blue"):
        keyword = f"{colour}PaletteColorLookupTable"
        count, first, bits = _descriptor(
            header.get(f"{keyword}Descriptor"), signed, f"{keyword}Descriptor", name
        )
        if bits not in (8, 16):
            raise image_error(name, "a DICOM palette of 8 or 16 bits", f"{bits}", _ADVICE)
        data, segments = header.get(f"{keyword}Data"), header.get(f"Segmented{keyword}Data")
        if data is None and segments is not None:
            values = _expanded(_words(segments, little, bits), count, bits, name)
        else:
            values = _entries(data, count, little, f"{keyword}Data", name)
        tables.append(Table(first, values, bits))
    bits, most = tables[0].bits, max(int(table.values.max()) for table in tables)
    if {table.bits for table in tables} != {bits} or most >= 2**bits:
        got = f"entries up to {most} in tables of {', '.join(str(t.bits) for t in tables)} bits"
        raise image_error(name, "a DICOM palette whose entries fit its bits", got, _ADVICE)
    if bits == 16 and 0 < most < 256:
        got = f"a palette of 16 bits whose largest entry is {most}"
        advice = "If 8 bits are meant, set the third value of the three descriptors to 8."
        raise image_error(name, "a DICOM palette that uses its bits", got, advice)
    return tables, 2**bits - 1


def _descriptor(value: Any, signed: bool, keyword: str, name: str) -> tuple[int, int, int]:
    """Returns the number of entries, the first input and the bits per entry of a table."""
    try:
        count, first, bits = (int(part) for part in value)
    except (TypeError, ValueError) as error:
        rule = f"a DICOM picture with three numbers as {keyword}"
        raise image_error(name, rule, repr(value)[:60], _ADVICE) from error
    # All three are words. Their sign depends on an element that a file may contradict.
    first %= 2**16
    # By the standard, 0 stands for 2**16 entries.
    return count % 2**16 or 2**16, first - 2**16 if signed and first >= 2**15 else first, bits


def _words(data: Any, little: bool, bits: int) -> NDArray[np.int64]:
    """Returns the values of table data, in words or, with 8 bits, in bytes."""
    if not isinstance(data, bytes):
        numbers: Sequence[int] = data if isinstance(data, Sequence) else [data]
        return np.asarray([int(value) % 2**16 for value in numbers], dtype=np.int64)
    words = np.frombuffer(data + b"\0" * (len(data) % 2), dtype="<u2" if little else ">u2")
    if bits > 8:
        return words.astype(np.int64)
    # In a word, the first of two bytes is the lower one, whatever the order of the file is.
    return np.frombuffer(words.astype("<u2").tobytes(), dtype=np.uint8).astype(np.int64)


def _entries(data: Any, count: int, little: bool, keyword: str, name: str) -> NDArray[np.int64]:
    """Returns the entries of a table, whose length says whether they are bytes or words."""
    if hasattr(data, "__len__") and not isinstance(data, str | bytes):
        data = list(data)
    if data is None or isinstance(data, str):
        raise image_error(name, f"a DICOM picture with {keyword}", repr(data)[:60], _ADVICE)
    in_bytes = isinstance(data, bytes) and len(data) < 2 * count
    values = _words(data, little, 8 if in_bytes else 16)
    if len(values) < count:
        got = f"{len(values)} of {count} entries"
        raise image_error(name, f"a DICOM picture with a whole {keyword}", got, RENEW)
    return values[:count]


def _expanded(data: NDArray[np.int64], count: int, bits: int, name: str) -> NDArray[np.int64]:
    """Returns the entries of segmented data: copied, interpolated, or repeated segments.

    Source: DICOM PS3.3, C.7.9.2.
    """
    parts, values, at = data.tolist(), list[int](), 0
    try:
        while len(values) < count:
            kind, length = parts[at], parts[at + 1]
            if kind == 2:
                words = parts[at + 2 : at + (4 if bits == 16 else 6)]
                offset = sum(part << (bits * place) for place, part in enumerate(words))
                # The offset counts bytes from the first segment.
                start = offset * 8 // bits
                for _ in range(length):
                    start = _append_segment(parts, start, values)
                at += 2 + len(words)
            else:
                at = _append_segment(parts, at, values)
    except IndexError as error:
        got = f"{len(values)} of {count} entries in segments"
        raise image_error(name, "a DICOM picture with a whole palette", got, RENEW) from error
    return np.asarray(values[:count], dtype=np.int64)


def _append_segment(parts: list[int], at: int, values: list[int]) -> int:
    """Appends the entries of a discrete or linear segment, and returns where the next begins."""
    kind, length = parts[at], parts[at + 1]
    if kind == 0:
        if len(parts) < at + 2 + length:
            raise IndexError(length)
        values.extend(parts[at + 2 : at + 2 + length])
        return at + 2 + length
    if kind != 1:
        raise ValueError(f"a palette has a segment of unknown kind {kind}")
    start, end = values[-1], parts[at + 2]
    steps = np.arange(1, length + 1) / max(length, 1)
    values.extend(np.rint(start + (end - start) * steps).astype(int).tolist())
    return at + 3


def rescaled(values: NDArray[Any], header: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    """Returns slope x + intercept, where a header that lacks one means 1 or 0.

    Source: DICOM PS3.3, C.11.1.1.2.
    """
    slope = number(header, "RescaleSlope", name, 1)
    intercept = number(header, "RescaleIntercept", name, 0)
    if slope == 0:
        raise image_error(name, "a DICOM picture with a RescaleSlope", "0", _ADVICE)
    return values.astype(np.float64) * slope + intercept


def windowed(
    values: NDArray[np.float64], header: Mapping[str, Any], name: str
) -> NDArray[np.float64]:
    """Returns values after the first window, from 0 to 1.

    Source: DICOM PS3.3, C.11.2.1.2.1 (linear), C.11.2.1.3.1 (sigmoid), C.11.2.1.3.2 (exact).
    """
    centre = number(header, "WindowCenter", name)
    width = number(header, "WindowWidth", name)
    function = str(header.get("VOILUTFunction", "LINEAR")).strip().upper()
    least = {"LINEAR": 1.0, "LINEAR_EXACT": 0.0, "SIGMOID": 0.0}
    if function not in least:
        rule = f"a DICOM picture with a VOILUTFunction of {', '.join(least)}"
        raise image_error(name, rule, repr(function)[:60], _ADVICE)
    if width < least[function] or width <= 0:
        rule = "at least 1" if function == "LINEAR" else "above 0"
        got = f"{width:g}"
        raise image_error(name, f"a DICOM picture with a WindowWidth {rule}", got, _ADVICE)
    if function == "SIGMOID":
        # Far outside of the window, the power overflows to infinity, which gives the right end.
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return (values > centre).astype(np.float64)
    return np.clip((values - centre) / width + 0.5, 0, 1)
