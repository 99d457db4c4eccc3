"""The X-rays of the Open-i reports: their names, views and files, in any published naming."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, final

import pandas as pd
from manifests import existing_folder, some

View = Literal["frontal", "lateral", "unknown"]

# The published archives name the same X-ray differently. The pattern matches all forms.
_IMAGE_NAME = re.compile(
    r"^(?:CXR)?(?P<report>\d+)_(?:\d+_)?(?P<image>IM-\d+(?:-\d+)+)$", re.IGNORECASE
)
# In order of preference, where a folder holds one X-ray in several formats.
_ENDINGS = (".png", ".jpg", ".jpeg", ".dcm")
# In order of preference, where a report has several X-rays.
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


@final
@dataclass(frozen=True, slots=True)
class Joined:
    """The X-rays that were found for reports.

    Attributes:
        images: the chosen file of each uid.
        views: the view of that file, by the same uid.
        seconds: another X-ray of the same study, by the same uid, where there is one.
        missing: the uids without an X-ray. They are left out of a manifest.
    """

    images: dict[str, Path]
    views: dict[str, View]
    seconds: dict[str, Path]
    missing: tuple[str, ...]


def package_file(name: str) -> Path:
    """Returns the path of a data file of the installed torchxrayvision package.

    The package is not imported, because that takes seconds.

    Args:
        name: the file's name in the package's `data` folder.

    Raises:
        ValueError: if the package or the file is absent.
    """
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "torchxrayvision must be installed, got no such package: "
            "the Open-i reports are read from it. "
            'Run: pip install "mmfusion[study]"'
        )
    path = Path(next(iter(spec.submodule_search_locations))) / "data" / name
    if not path.is_file():
        raise ValueError(
            f"torchxrayvision must be a version with data/{name}, got none at {str(path)!r}. "
            "Update it."
        )
    return path


def read_views(metadata: str | Path | None = None) -> dict[str, View]:
    """Returns the view of each image in the DICOM metadata, by the image's name.

    The field `View Position` decides. Where it is empty, `Patient Orientation` decides. If that
    begins with A (anterior) or P (posterior), a row of the picture runs from front to back or from
    back to front, so that the view is lateral. Otherwise the view is unknown.

    Args:
        metadata: the table of DICOM metadata. None takes the copy inside the installed
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
    # Positions other than PA and AP, such as LL, are all lateral.
    return "lateral" if position or orientation.startswith(("['A'", "['P'")) else "unknown"


def image_key(name: str) -> tuple[int, str] | None:
    """Returns the key of an X-ray, which is the same in every published naming.

    The key is the report's number and the image's name. It is None where the name is that of no
    X-ray of the collection.

    Args:
        name: the name of a file or of an image, with or without the prefix CXR and the endings
            .dcm, .png and .jpg.

    Example:
        >>> image_key("CXR1000_IM-0003-1001.png")
        (1000, 'IM-0003-1001')
        >>> image_key("1000_IM-0003-1001.dcm.png")
        (1000, 'IM-0003-1001')
        >>> image_key("holiday.png") is None
        True
    """
    stem = Path(name).name
    # A loop, because some archives use two endings: ".dcm.png".
    while Path(stem).suffix.lower() in _ENDINGS:
        stem = Path(stem).stem
    match = _IMAGE_NAME.match(stem)
    return (int(match["report"]), match["image"].upper()) if match else None


def find_images(folder: str | Path) -> dict[tuple[int, str], Path]:
    """Returns the X-ray files below a folder, by the key of their name.

    Where an X-ray is there in several formats, PNG is preferred.

    Args:
        folder: any of the published archives, unpacked. Subfolders are searched, too.

    Raises:
        ValueError: if there is no such folder.
    """
    files: dict[tuple[int, str], Path] = {}
    for path in sorted(existing_folder(folder, "images").rglob("*")):
        key = image_key(path.name) if path.suffix.lower() in _ENDINGS else None
        if key is None or not path.is_file():
            continue
        if key not in files or _preference(path) < _preference(files[key]):
            files[key] = path
    return files


def _preference(path: Path) -> int:
    return _ENDINGS.index(path.suffix.lower())


def join_images(
    reports: Sequence[Pictured],
    folder: str | Path,
    views: Mapping[str, View],
    *,
    tolerance: float = 0.05,
) -> Joined:
    """Returns the X-ray chosen for each report.

    It is the report's first frontal X-ray. Without one it is the first of unknown view, and without
    that one the first lateral X-ray. A second X-ray of the study stands beside it: the first
    lateral one, or without one the first of unknown view, or any other. The metadata do not know
    the view of a third of the files, and call both files of 1,219 studies frontal.

    Args:
        reports: the reports that need an X-ray.
        folder: the folder of the X-rays, under any published naming.
        views: the view of each image name, as `read_views` returns it.
        tolerance: the share of reports, 0 to 1, that may have no X-ray in the folder. Those are
            named in `missing`.

    Raises:
        ValueError: if more reports have no X-ray in the folder. The message names some of them.
    """
    files = find_images(folder)
    images: dict[str, Path] = {}
    chosen: dict[str, View] = {}
    seconds: dict[str, Path] = {}
    for report in reports:
        present = [name for name in report.images if image_key(name) in files]
        if present:
            # `min` returns the first of several equals: the report's own order decides.
            best = min(present, key=lambda name: VIEWS.index(views.get(name, "unknown")))
            images[report.uid] = files[image_key(best) or (0, "")]
            chosen[report.uid] = views.get(best, "unknown")
            second = _second(best, present, views)
            if second is not None:
                seconds[report.uid] = files[image_key(second) or (0, "")]
    missing = tuple(report.uid for report in reports if report.uid not in images)
    # A few missing X-rays are tolerated. Many mean a wrong or an incomplete folder.
    if len(missing) > tolerance * len(reports):
        wanted = [report.images[0] for report in reports if report.uid in set(missing)]
        raise ValueError(
            f"images must be a folder with the X-rays of at least {1 - tolerance:.0%} of the "
            f"{len(reports)} reports, got {str(folder)!r} with {len(files)} X-rays that fit "
            f"{len(images)} of them. Missing: {some(wanted)}. "
            "Unpack the whole archive there, or fetch it with --download."
        )
    return Joined(images, chosen, seconds, missing)


def _second(best: str, present: Sequence[str], views: Mapping[str, View]) -> str | None:
    """Returns the name of the X-ray that stands beside the chosen one, or None."""
    others = [name for name in present if name != best]
    # The other way round: what is least like a frontal view comes first.
    return max(others, key=lambda name: VIEWS.index(views.get(name, "unknown")), default=None)
