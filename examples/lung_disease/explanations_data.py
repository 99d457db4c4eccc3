"""The samples of `explanations.py`: phantoms with a known mass and a known word, and X-rays."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import final

import datasets
import numpy as np
import shenzhen
from numpy.typing import NDArray
from openi import Report, read_reports
from phantom import draw
from PIL import Image

from mmfusion import load_manifest

WORD = "hemoptysis"
CLASSES = ("neither", WORD, "mass", f"mass and {WORD}")
_HEADINGS = (
    "Mass/lung/left/upper lobe/large",
    "Mass/lung/right/lower lobe/large",
    "Mass/lung/right/upper lobe/large",
)
# Grey values that the drawing of masses changes by at least, and how many pixels they must change.
_CHANGE, _LEAST = 12, 60


@final
@dataclass(frozen=True)
class Known:
    """What decides the class of a phantom.

    Attributes:
        mass: where masses change the picture, bool [H, W]; None without any.
        has_word: whether the text has the word.
    """

    mass: NDArray[np.bool_] | None
    has_word: bool


def phantom_rows(
    folder: Path, samples: int
) -> tuple[dict[str, datasets.Dataset], dict[str, Known]]:
    """Returns the rows of training, validation and test, and what is known of each picture.

    The texts are the indications of real reports, with or without one more word. The four classes
    are equally frequent.

    Args:
        folder: where pictures and manifests are written.
        samples: how many there are together.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    usable = [
        report
        for report in read_reports()
        if report.indication
        and 4 <= len(report.indication.split()) <= 30
        and WORD not in report.indication.lower()
    ]
    known: dict[str, Known] = {}
    lines: list[tuple[str, str, str]] = []
    with ThreadPoolExecutor(2) as pool:
        drawn = pool.map(partial(_drawn, folder=folder), enumerate(usable[: samples * 2]))
        for name, text, label, facts in drawn:
            if facts is not None and len(lines) < samples:
                known[name] = facts
                lines.append((f"images/{name}", text, label))
    parts = {}
    edges = [0, 6 * samples // 10, 8 * samples // 10, samples]
    for part, start, stop in zip(("train", "validation", "test"), edges, edges[1:], strict=False):
        path = folder / f"{part}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "text", "label"), *lines[start:stop]])
        parts[part] = load_manifest(path, label_names=list(CLASSES))
    return parts, known


def _drawn(numbered: tuple[int, Report], folder: Path) -> tuple[str, str, str, Known | None]:
    """Writes one picture; returns its name, text, label, and None where the masses are hidden."""
    number, report = numbered
    has_mass, has_word = number % 4 >= 2, bool(number % 2)
    name, label = f"{report.uid}.png", CLASSES[number % 4]
    words = (report.indication or "").split()
    if has_word:
        words.insert(number // 4 % (len(words) + 1), WORD)
    empty = draw(replace(report, mesh_major=()))
    image, mass = empty.image, None
    if has_mass:
        image = draw(replace(report, mesh_major=_HEADINGS)).image
        mass = np.abs(image.astype(int) - empty.image.astype(int)) >= _CHANGE
    Image.fromarray(image).save(folder / "images" / name)
    is_hidden = mass is not None and int(mass.sum()) < _LEAST
    return name, " ".join(words), label, None if is_hidden else Known(mass, has_word)


def shenzhen_rows(folder: Path, work: Path) -> tuple[dict[str, datasets.Dataset], dict[str, Path]]:
    """Returns X-rays in three parts, and the file of the lung mask of each.

    Args:
        folder: the Shenzhen X-rays.
        work: where the manifests are written.
    """
    cases = [case for case in shenzhen.read(folder).cases if case.mask is not None]
    order = np.random.default_rng(0).permutation(len(cases))
    edges = [0, len(cases) // 2, 6 * len(cases) // 10, len(cases)]
    work.mkdir(parents=True, exist_ok=True)
    parts = {}
    for part, start, stop in zip(("train", "validation", "test"), edges, edges[1:], strict=False):
        path = work / f"{part}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("image", "label"))
            for index in order[start:stop]:
                image = cases[index].image.relative_to(folder)
                writer.writerow((image, cases[index].label))
        parts[part] = load_manifest(path, text=None, label_names=list(shenzhen.LABELS), root=folder)
    masks = {case.image.name: case.mask for case in cases if case.mask is not None}
    return parts, masks
