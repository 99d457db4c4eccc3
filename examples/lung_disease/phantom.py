"""The phantom: synthetic radiographs for real reports, for use where no real X-rays are available.

For each Open-i report the script draws a frontal chest radiograph and the mask of its lungs. The
drawing follows from a seed, the report's uid and its MeSH headings (what, which side, which zone).
The pictures are synthetic. A number measured on them shows that the study's code works, and says
nothing about medicine.

The task must be neither trivial nor impossible. Therefore people differ (build, breath, heart,
bones) and exposures differ (contrast, noise, blur, position, borders, letters). A finding may be
faint or hidden, and any picture may show a faint finding that the report does not mention.

    python examples/lung_disease/phantom.py --output data/phantom
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, final

import numpy as np
import pandas as pd
import typer
from manifests import choose, write_manifest
from numpy.typing import NDArray
from openi import PROTOCOLS, Report, cohort, read_reports
from phantom_anatomy import Canvas, sample_anatomy
from phantom_curves import Array
from phantom_findings import Finding, adjust, paint, read_heading
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from rich.console import Console
from rich.progress import track
from scipy import ndimage

# Stored in every picture. Raise it when the drawing changes, so that older pictures are redrawn.
VERSION = 1
NOTICE = "synthetic: drawn from a report's MeSH headings, not an X-ray of a person"

# The share of findings that leave no trace, and of pictures with a finding that is not reported.
_HIDDEN = 0.12
_MIMICRY = 0.20
_MIMICS = (
    "hypoinflation", "hypoinflation", "hyperdistention", "hyperdistention", "patch", "streak",
    "granuloma", "nodule", "congestion", "heart", "catheter", "blunting",
)  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Phantom:
    """A synthetic radiograph.

    Attributes:
        image: the synthetic picture, uint8 [H, W]. Air is black and bone is white, as on a
            radiograph.
        mask: bool [H, W], True in the part of the lungs that heart and mediastinum do not hide.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def draw(report: Report, *, size: int = 224, seed: int = 0) -> Phantom:
    """Returns the synthetic radiograph of a report.

    The same uid, headings, size and seed give the same picture. The person, the exposure and the
    findings that are not reported follow from the seed and the uid alone. The headings do not
    change them.

    Args:
        report: the report. Its uid and major headings are used, but not its texts or its label.
        size: the width and height in pixels, at least 64.
        seed: any integer.

    Raises:
        ValueError: if the size is below 64.

    Example:
        >>> report = Report("CXR1", None, None, None, None, ("Lung/hypoinflation",), ())
        >>> phantom = draw(report, size=64)
        >>> phantom.image.shape, phantom.image.dtype.name, phantom.mask.any().item()
        ((64, 64), 'uint8', True)
    """
    if size < 64:
        raise ValueError(
            f"size must be at least 64, got {size!r}. Below it, ribs and vessels are not drawn."
        )
    # The findings come first, because some of them, such as a large heart, change the anatomy.
    findings = _visible(report, seed) + _mimicked(report.uid, seed)
    anatomy = adjust(sample_anatomy(_generator(report.uid, seed, "anatomy")), findings)
    canvas = Canvas(anatomy, size, _generator(report.uid, seed, "texture"))
    for finding in findings:
        paint(canvas, finding)
    image = _expose(canvas.attenuation, _generator(report.uid, seed, "exposure"))
    return Phantom(image, canvas.mask)


def _generator(uid: str, seed: int, purpose: str) -> np.random.Generator:
    """Returns a generator for one purpose.

    Each purpose has a generator of its own, so that a further heading changes nothing else.
    """
    # Not `hash`, whose value for a string differs from one process to the next.
    digest = hashlib.sha256(f"{seed}/{uid}/{purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _visible(report: Report, seed: int) -> list[Finding]:
    """Returns the findings of the report's headings, each with the strength it is drawn with."""
    findings = []
    for heading in dict.fromkeys(report.mesh_major):
        finding = read_heading(heading)
        if finding is not None:
            rng = _generator(report.uid, seed, heading)
            # Some findings stay invisible, so that the task is not too easy.
            shown = 0.0 if rng.random() < _HIDDEN else rng.uniform(0.6, 1.3)
            findings.append(replace(finding, strength=finding.strength * shown))
    return findings


def _mimicked(uid: str, seed: int) -> list[Finding]:
    """Returns at most one faint finding that the report does not mention."""
    rng = _generator(uid, seed, "mimic")
    if rng.random() >= _MIMICRY:
        return []
    return [Finding(str(rng.choice(_MIMICS)), strength=float(rng.uniform(0.3, 0.9)))]


def _expose(attenuation: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Returns the picture of the attenuation, with blur, noise, a window, borders and a letter."""
    size = attenuation.shape[0]
    pixel = size / 224
    # The blur scales with the picture, so that all sizes look alike.
    shadow = ndimage.gaussian_filter(attenuation, rng.uniform(0.3, 1.0) * pixel)
    grain = rng.standard_normal(shadow.shape).astype(np.float32)
    shadow += rng.uniform(0.006, 0.020) * (
        grain + 1.5 * ndimage.gaussian_filter(grain, 0.8 * pixel)
    )
    # The window follows from the middle of the picture, without the dark surroundings.
    inner = shadow[size // 4 : -size // 8, size // 6 : -size // 6]
    low, high = np.percentile(inner, [1, 99])
    # A window wider or narrower than the range of values, as exposures differ.
    low -= rng.uniform(0.02, 0.22) * (high - low)
    high += rng.uniform(-0.03, 0.15) * (high - low)
    level = np.clip((shadow - low) / (high - low), 0, 1)
    # A saturating curve, like that of film and of a detector's software.
    bend = rng.uniform(0.3, 2.2)
    picture = Image.fromarray(
        (255 * (1 - np.exp(-bend * level)) / (1 - np.exp(-bend))).astype(np.uint8)
    )
    _mark(picture, rng)
    return np.asarray(picture, dtype=np.uint8)


def _mark(picture: Image.Image, rng: np.random.Generator) -> None:
    """Draws the black borders of the collimator, and the letter that names a side."""
    size = picture.width
    pen = ImageDraw.Draw(picture)
    if rng.random() < 0.4:
        # The borders are left, right, top and bottom, in this order.
        for index, edge in enumerate(rng.uniform(0, 0.035, 4) * size):
            near, far = (0, edge) if index % 2 == 0 else (size - edge, size)
            pen.rectangle((near, 0, far, size) if index < 2 else (0, near, size, far), fill=0)
    if rng.random() < 0.85:
        left = rng.random() < 0.7
        corner = (
            size * (rng.uniform(0.86, 0.93) if left else rng.uniform(0.05, 0.10)),
            size * rng.uniform(0.02, 0.12),
        )
        pen.text(
            corner,
            "L" if left else "R",
            fill=int(rng.integers(200, 256)),
            font_size=max(8, size // 18),
        )


def render(
    reports: Sequence[Report],
    folder: str | Path,
    *,
    protocol: str = "published",
    size: int = 224,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes the synthetic radiographs as PNG, with their lung masks, and returns their manifest.

    `images/` holds the pictures, `masks/` the masks (0 and 255), and `manifest.csv` one row per
    report. Its columns are image, mask, text, label, group, uid, synthetic (always True),
    text_published, text_leak_free and mesh_major. Every picture carries the text chunk "synthetic".
    A picture that was already drawn with the same settings is not drawn again, so that an
    interrupted run can continue.

    Args:
        reports: reports with a label.
        folder: where to write. It is made if it is missing.
        protocol: the text in the column text, "published" or "leak-free".
        size: the width and height in pixels.
        seed: any integer.
        workers: the number of threads. None takes one per core.
        progress: whether a progress bar is shown.

    Raises:
        ValueError: if a report has no label, or if the protocol or the size is not allowed.
    """
    choose(protocol, PROTOCOLS, "protocol")
    unlabelled = [report.uid for report in reports if report.label is None]
    if unlabelled:
        raise ValueError(
            f"reports must be of class normal or lung, got {unlabelled[0]!r}. "
            "Choose them with cohort()."
        )
    folder = Path(folder)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    task = partial(_render_one, folder=folder, size=size, seed=seed)
    # Threads are enough: numpy and Pillow release the interpreter lock for most of the work.
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        done = pool.map(task, reports)
        rows = list(
            track(done, "Drawing synthetic X-rays", total=len(reports), disable=not progress)
        )
    # The text is set here, because the pictures are the same under every protocol.
    table = pd.DataFrame(rows)
    table["text"] = [report.text(protocol) for report in reports]
    return write_manifest(table, folder / "manifest.csv")


def _render_one(report: Report, folder: Path, size: int, seed: int) -> dict[str, object]:
    image, mask = folder / "images" / f"{report.uid}.png", folder / "masks" / f"{report.uid}.png"
    settings = (
        f"version {VERSION}, size {size}, seed {seed}, headings {'|'.join(report.mesh_major)}"
    )
    # The mask is written before the image, so that an image with these settings has its mask.
    if not (mask.exists() and _settings(image) == settings):
        phantom = draw(report, size=size, seed=seed)
        _save(Image.fromarray(phantom.mask.astype(np.uint8) * 255), mask, settings)
        _save(Image.fromarray(phantom.image), image, settings)
    return {
        "image": f"images/{image.name}",
        "mask": f"masks/{mask.name}",
        "text": None,
        "label": report.label,
        "group": report.uid,
        "uid": report.uid,
        "synthetic": True,
        "text_published": report.text("published"),
        "text_leak_free": report.text("leak-free"),
        "mesh_major": "|".join(report.mesh_major),
    }


def _settings(path: Path) -> str | None:
    """Returns the settings stored in a picture, or None where there is no picture."""
    if not path.exists():
        return None
    with Image.open(path) as picture:
        return str(picture.info.get("settings"))


def _save(picture: Image.Image, path: Path, settings: str) -> None:
    notes = PngInfo()
    notes.add_text("synthetic", NOTICE)
    notes.add_text("settings", settings)
    partial_path = path.with_suffix(".part")
    picture.save(partial_path, format="PNG", pnginfo=notes)
    # Renamed only when complete, so that a stopped run leaves no broken picture.
    os.replace(partial_path, path)


def main(
    output: Annotated[
        Path, typer.Option(help="Folder for synthetic pictures, masks and manifest.csv.")
    ],
    protocol: Annotated[
        str, typer.Option(help="published (findings) or leak-free (indication).")
    ] = "published",
    size: Annotated[int, typer.Option(help="Width and height in pixels.")] = 224,
    seed: Annotated[
        int, typer.Option(help="Chooses the normals that are kept, and draws the pictures.")
    ] = 0,
) -> None:
    """Draw a synthetic radiograph with its lung mask for each report of the study's cohort."""
    console = Console()
    try:
        chosen = cohort(read_reports(), seed=seed)
        path = render(chosen.reports, output, protocol=protocol, size=size, seed=seed)
    except ValueError as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    for line in chosen.lines():
        console.print(line, highlight=False)
    console.print(f"{len(chosen.reports):>6,}  synthetic X-rays, rows written to {path}")


if __name__ == "__main__":
    typer.run(main)
