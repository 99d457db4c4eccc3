"""Which X-ray belongs to which Open-i report: names, views, and files under any published naming."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import pandas as pd
from manifests import existing_folder, some

View = Literal["frontal", "lateral", "unknown"]

_IMAGE_NAME = re.compile(
    r"^(?:CXR)?(?P<report>\d+)_(?:\d+_)?(?P<image>IM-\d+(?:-\d+)+)$", re.IGNORECASE
)
# The order is the preference where a folder holds one X-ray in several formats.
_ENDINGS = (".png", ".jpg", ".jpeg", ".dcm")
# In order of preference.
VIEWS: tuple[View, ...] = ("frontal", "unknown", "lateral")


class Pictured(Protocol):
    """Anything with a uid and the names of its X-rays."""

    @property
    def uid(self) -> str:
        """The report's name."""
        ...

    @property
    def images(self) -> tuple[str, ...]:
        """The names of its X-rays, in the report's order."""
        ...


@dataclass(frozen=True, slots=True)
class Joined:
    """X-rays found for reports.

    Attributes:
        images: the file chosen for each uid.
        views: its view, by the same uid.
        missing: uids of which no X-ray was found; they are left out of a manifest.
    """

    images: dict[str, Path]
    views: dict[str, View]
    missing: tuple[str, ...]


def package_file(name: str) -> Path:
    """Returns the path of a data file inside the installed torchxrayvision package, which is not imported.

    Args:
        name: the file's name in the package's `data` folder.

    Raises:
        ValueError: if the package or the file is absent.
    """
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "torchxrayvision must be installed, got no such package: the Open-i reports are read from it. "
            'Run: pip install "mmfusion[study]"'
        )
    path = Path(next(iter(spec.submodule_search_locations))) / "data" / name
    if not path.is_file():
        raise ValueError(
            f"torchxrayvision must be a version with data/{name}, got none at {str(path)!r}. Update it."
        )
    return path


def read_views(metadata: str | Path | None = None) -> dict[str, View]:
    """Returns the view of each image name that the DICOM metadata knows.

    The field `View Position` decides. Where it is empty, a picture whose rows run forwards or
    backwards through the patient (`Patient Orientation` beginning with A or P) is lateral, and any
    other one unknown.

    Args:
        metadata: the table of DICOM metadata; None takes the copy inside the installed
            torchxrayvision package.

    Raises:
        ValueError: if the table is absent or lacks a column.
    """
    path = package_file("nlmcxr_dicom_metadata.csv.gz") if metadata is None else Path(metadata)
    columns = ["imageid", "View Position", "Patient Orientation"]
    try:
        table = pd.read_csv(path, usecols=columns, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"metadata must be a table with the columns {columns}, got {str(path)!r}: {error}"
        ) from error
    return {
        name: _view(position, orientation)
        for name, position, orientation in table[columns].itertuples(index=False, name=None)
    }


def _view(position: str, orientation: str) -> View:
    if position in ("PA", "AP"):
        return "frontal"
    return "lateral" if position or orientation.startswith(("['A'", "['P'")) else "unknown"


def image_key(name: str) -> tuple[int, str] | None:
    """Returns what identifies an X-ray in any published naming, (report's number, image's name), or None.

    Args:
        name: a file's name or an image's name, with or without the prefix CXR and the endings .dcm,
            .png, .jpg.

    Example:
        >>> image_key("CXR1000_IM-0003-1001.png")
        (1000, 'IM-0003-1001')
        >>> image_key("1000_IM-0003-1001.dcm.png")
        (1000, 'IM-0003-1001')
        >>> image_key("holiday.png") is None
        True
    """
    stem = Path(name).name
    while Path(stem).suffix.lower() in _ENDINGS:
        stem = Path(stem).stem
    match = _IMAGE_NAME.match(stem)
    return (int(match["report"]), match["image"].upper()) if match else None


def find_images(folder: str | Path) -> dict[tuple[int, str], Path]:
    """Returns the files below a folder by the key of their name; of several formats, PNG goes first.

    Args:
        folder: any of the published archives, unpacked; subfolders are searched.

    Raises:
        ValueError: if there is no such folder.
    """
    found: dict[tuple[int, str], Path] = {}
    for path in sorted(existing_folder(folder, "images").rglob("*")):
        key = image_key(path.name) if path.suffix.lower() in _ENDINGS else None
        if key is None or not path.is_file():
            continue
        if key not in found or _preference(path) < _preference(found[key]):
            found[key] = path
    return found


def _preference(path: Path) -> int:
    return _ENDINGS.index(path.suffix.lower())


def join_images(
    reports: Sequence[Pictured],
    folder: str | Path,
    views: Mapping[str, View],
    *,
    tolerance: float = 0.05,
) -> Joined:
    """Returns the X-ray chosen for each report: the first frontal one, else of unknown view, else any.

    Args:
        reports: the reports to join.
        folder: where the X-rays are, under any published naming.
        views: view by image name, as `read_views` gives it.
        tolerance: the share of reports, 0 to 1, that may lack every X-ray; those are named in
            `missing`.

    Raises:
        ValueError: if more reports than tolerated have none of their X-rays in the folder; the
            message names some.
    """
    files = find_images(folder)
    images: dict[str, Path] = {}
    chosen: dict[str, View] = {}
    for report in reports:
        present = [name for name in report.images if image_key(name) in files]
        if present:
            # min keeps the first of equals, and so the report's own order.
            best = min(present, key=lambda name: VIEWS.index(views.get(name, "unknown")))
            images[report.uid] = files[image_key(best) or (0, "")]
            chosen[report.uid] = views.get(best, "unknown")
    missing = tuple(report.uid for report in reports if report.uid not in images)
    if len(missing) > tolerance * len(reports):
        wanted = [report.images[0] for report in reports if report.uid in set(missing)]
        raise ValueError(
            f"images must be a folder with the X-rays of at least {1 - tolerance:.0%} of the {len(reports)} "
            f"reports, got {str(folder)!r} with {len(files)} X-rays that fit {len(images)} of them. "
            f"Missing: {some(wanted)}. Unpack the whole archive there, or fetch it with --download."
        )
    return Joined(images, chosen, missing)
