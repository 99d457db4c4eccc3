"""Reads every picture of a folder as the library reads it, and prints what becomes of each kind.

Use it before a training, or to try the library on a collection of test pictures. Each file is read
in a subprocess with a limit of time and memory. The exit status is 1 if a file crashes the reader,
keeps it busy too long or needs too much memory:

    python examples/check_pictures.py FOLDER
    python examples/check_pictures.py FOLDER --seconds 30 --memory 4 --reasons

`--compare` also reads each picture with OpenCV or tifffile. It counts those that are equal, and
those that differ. The rules of `mmfusion.load_image` for brightness are written here a second time
and on purpose: a fault of one side shows as a difference. OpenCV itself leaves out the orientation
of PNG and WebP files and the palettes of some BMP files, so look at what differs.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import resource
from collections import Counter, defaultdict
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

KINDS = ("read", "refused", "crashed", "hung", "memory")
COMPARED = ("equal", "differs")
FAULTS = KINDS[2:]
# Decoders of lossy formats may differ by rounding in the colour conversion.
LOSSY = (".jpg", ".jpeg", ".jp2", ".j2k", ".jpx", ".jpf", ".webp", ".avif")
TIFF = (".tif", ".tiff")
_PHOTOMETRIC = {0: "white is zero", 1: "black is zero", 2: "RGB"}
# The reader takes the files in turn. A new one starts after each fault.
CONTEXT = multiprocessing.get_context("spawn")


def read_pictures(connection: Connection, memory: int, compare: bool) -> None:
    """Answers for each path with what becomes of it, why, and the memory so far in bytes."""
    from mmfusion import ImageError, load_image

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    connection.send("ready")
    while True:
        kind, reason, compared = "read", "", ""
        try:
            path = connection.recv()
            own = np.asarray(load_image(path))
            other = independent(Path(path)) if compare else None
            if other is not None:
                compared = COMPARED[not is_equal(Path(path), own, other)]
        except EOFError:
            return
        except BaseException as error:
            kind = "refused" if isinstance(error, ImageError) else "crashed"
            # The library explains the errors of decoders, this one too.
            if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
                kind = "memory"
            reason = f"{type(error).__name__}: {error}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        connection.send((kind, reason, peak, compared))


def outcomes(
    paths: list[Path], seconds: float, memory: int, compare: bool
) -> Iterator[tuple[str, str, int, str]]:
    """Yields (kind, reason, peak of the memory in bytes, equal or differs) for each file."""
    reader, connection = None, None
    for path in paths:
        if reader is None or connection is None:
            connection, other = CONTEXT.Pipe()
            reader = CONTEXT.Process(
                target=read_pictures, args=(other, memory, compare), daemon=True
            )
            reader.start()
            other.close()
            connection.recv()
        connection.send(str(path))
        try:
            answered = connection.poll(seconds)
            found = (
                connection.recv() if answered else ("hung", f"beyond {seconds:g} seconds", 0, "")
            )
        except EOFError:
            reader.join()
            found = ("crashed", f"the process died with status {reader.exitcode}", 0, "")
        yield found
        if found[0] in FAULTS:
            reader.kill()
            reader.join()
            reader = None
    if reader is not None:
        reader.kill()
        reader.join()


def reason_class(reason: str, path: Path) -> str:
    """Returns a reason without what only its file has, so that equal reasons can be counted."""
    plain = reason.replace(repr(str(path)), "FILE").removeprefix("ImageError: ")
    return re.sub(r"\(it begins .*?\)\. ", "", plain)[:160]


def independent(path: Path) -> np.ndarray[Any, Any] | None:
    """Returns the picture [H, W] or [H, W, 3] in 8 bits; None if the decoders cannot say.

    Args:
        path: the file.
    """
    if path.suffix.lower() in TIFF:
        return _by_tifffile(path)
    if path.suffix.lower() in (".dcm", ".dicom"):
        # Some DICOM files are TIFF files too, without the window of the DICOM part.
        return None
    import cv2

    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype not in (np.uint8, np.uint16):
        return None
    if raw.ndim == 3 and raw.shape[2] == 3:
        if raw.dtype == np.uint8:
            # This way applies the orientation of EXIF, which IMREAD_UNCHANGED leaves out.
            raw = cv2.imread(str(path), cv2.IMREAD_COLOR)
            assert raw is not None
        return _to_8_bits(raw[..., ::-1])
    if raw.ndim == 3:
        return _to_8_bits(raw[..., [2, 1, 0, 3]]) if raw.shape[2] == 4 else None
    return _to_8_bits(raw)


def is_equal(path: Path, own: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    """Returns whether two decoders gave one picture: to 1 step, lossy formats to 2 on average.

    Args:
        path: the file, whose suffix tells the format.
        own: uint8 [H, W] or [H, W, 3].
        other: the same.
    """
    pair = [np.atleast_3d(picture).astype(np.int16) for picture in (own, other)]
    if pair[0].shape[:2] != pair[1].shape[:2]:
        return False
    apart = np.abs(pair[0] - pair[1])
    return bool(apart.mean() <= 2 if path.suffix.lower() in LOSSY else apart.max(initial=0) <= 1)


def _by_tifffile(path: Path) -> np.ndarray[Any, Any] | None:
    """Returns the only page of a TIFF file."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            if len(file.pages) != 1:
                return None
            page: Any = file.pages[0]
            raw = page.asarray()
            kind = _PHOTOMETRIC.get(int(page.photometric))
            if int(getattr(page, "planarconfig", 1)) == 2 and raw.ndim == 3:
                raw = np.moveaxis(raw, 0, -1)
            orientation = page.tags.get("Orientation")
            extra = [int(sample) for sample in page.extrasamples]
            bits = page.bitspersample
    # Damaged files raise errors of many kinds.
    except Exception:
        return None
    upright = orientation is None or int(orientation.value) == 1
    # Samples of 2 and 4 bits are scaled by decoders in different ways.
    if kind is None or not upright or bits not in (1, 8, 16, 32, 64) or extra not in ([], [2]):
        return None
    if raw.ndim not in (2, 3) or (raw.ndim == 3 and raw.shape[2] not in (3, 4)):
        return None
    if bits == 1:
        raw = raw.astype(bool).astype(np.uint8) * 255
    if kind == "white is zero":
        raw = raw.max() - raw if raw.dtype != np.uint8 else 255 - raw
    return _to_8_bits(raw)


def _to_8_bits(raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Returns a picture in 8 bits: grey stretched by its range, colour by its upper bits."""
    if raw.ndim == 2 and raw.dtype != np.uint8:
        low, high = float(raw.min()), float(raw.max())
        if not np.isfinite([low, high]).all():
            return None
        span = high - low
        stretched = np.zeros(raw.shape) if span == 0 else 255 * (raw - low) / span
        return np.rint(stretched).astype(np.uint8)
    if raw.dtype == np.uint16:
        raw = (raw >> 8).astype(np.uint8)
    if raw.dtype != np.uint8:
        return None
    if raw.ndim == 3 and raw.shape[2] == 4:
        # Transparency is composited on white.
        share = raw[..., 3:].astype(float) / 255
        raw = np.rint(raw[..., :3] * share + 255 * (1 - share)).astype(np.uint8)
    return raw


def main(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    seconds: Annotated[float, typer.Option(help="The limit of time for a file.", min=0.1)] = 10,
    memory: Annotated[float, typer.Option(help="The limit of memory in GiB.", min=0.5)] = 2,
    reasons: Annotated[bool, typer.Option(help="List each reason with its number.")] = False,
    compare: Annotated[
        bool, typer.Option(help="Read each picture by OpenCV or tifffile too.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="A JSON file for all answers.")] = None,
) -> None:
    """Prints a table of what becomes of the files of FOLDER, by suffix."""
    console = Console()
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        console.print(f"[red]{folder} holds no file. Pass a folder of pictures.[/red]")
        raise typer.Exit(2)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    peaks: Counter[str] = Counter()
    why: Counter[str] = Counter()
    answers = {}
    found = outcomes(paths, seconds, int(memory * 2**30), compare)
    for path, (kind, reason, peak, compared) in zip(paths, found, strict=True):
        suffix = path.suffix.lower() or "(none)"
        counts[suffix].update([kind, compared])
        peaks[suffix] = max(peaks[suffix], peak)
        why[f"{kind}: {reason_class(reason, path)}"] += kind != "read"
        answers[str(path.relative_to(folder))] = {
            "outcome": kind,
            "reason": reason,
            "compared": compared,
        }
        if compared == "differs":
            console.print(f"differs: {path}", markup=False, soft_wrap=True)
        if kind in FAULTS:
            console.print(f"{kind}: {path} ({reason[:200]})", markup=False, soft_wrap=True)
    columns = [*KINDS, *(COMPARED if compare else ())]
    table = Table("suffix", *columns, "peak MiB")
    total = sum(counts.values(), Counter())
    for suffix, row in [*sorted(counts.items()), ("all", total)]:
        peak = peaks[suffix] if suffix in peaks else max(peaks.values())
        table.add_row(suffix, *(str(row[kind]) for kind in columns), str(peak // 2**20))
    console.print(table)
    if reasons:
        for reason, number in why.most_common():
            if number:
                console.print(f"{number:6} {reason}", markup=False, soft_wrap=True)
    if output is not None:
        output.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")
    if any(total[kind] for kind in FAULTS):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
