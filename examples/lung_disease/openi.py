"""The Indiana University chest X-ray collection (Open-i): its reports and the study's cohort.

The 3,955 real reports and the DICOM metadata come with the installed torchxrayvision package. Their
license is CC BY-NC-ND 4.0, so they are read from that package and never copied into this
repository. The X-rays come from a folder that the user names, or are fetched with `--download`:

    python examples/lung_disease/openi.py
    python examples/lung_disease/openi.py --download data/openi --output data/openi/manifest.csv
    python examples/lung_disease/openi.py --images data/NLMCXR_png --protocol leak-free --output
    manifest.jsonl

Reference: Demner-Fushman et al., "Preparing a collection of radiology examinations for distribution
and retrieval", Journal of the American Medical Informatics Association 23(2), 2016.
"""

from __future__ import annotations

import random
import re
import tarfile
import xml.etree.ElementTree as ElementTree
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

import pandas as pd
import typer
from manifests import choose, some, write_manifest
from openi_download import ARCHIVE_URL, fetch_images
from openi_images import VIEWS, Joined, join_images, package_file, read_views
from rich.console import Console

LABELS = ("normal", "lung")
PROTOCOLS = ("published", "leak-free")


@final
@dataclass(frozen=True, slots=True)
class Report:
    """One radiology report.

    The texts are as published: `XXXX` stands for a word that was removed to protect the patient. An
    empty section is None.

    Attributes:
        uid: the report's name, such as "CXR1000". The collection does not name the patients, so
            the uid is also the group.
        findings: what the radiologist saw.
        impression: the radiologist's conclusion.
        indication: why the X-ray was taken. It is the only section that was written before anyone
            looked at the X-ray.
        comparison: the earlier X-rays that this one was compared with.
        mesh_major: the major MeSH headings, such as "Lung/hypoinflation", in the report's order.
        images: the names of its X-rays, such as "CXR1000_IM-0003-1001", in the report's order.

    Example:
        >>> headings, images = ("Lung/hypoinflation",), ("CXR1_IM-0001-1001",)
        >>> Report("CXR1", None, None, "Cough.", None, headings, images).label
        'lung'
    """

    uid: str
    findings: str | None
    impression: str | None
    indication: str | None
    comparison: str | None
    mesh_major: tuple[str, ...]
    images: tuple[str, ...]

    @property
    def label(self) -> str | None:
        """The study's class, "normal" or "lung", or None.

        It is "normal" if the first major heading is "normal". Otherwise it is "lung" if any major
        heading begins with "Lung". In the published collection the heading "normal" always stands
        alone, so that no report fits both classes.
        """
        if self.mesh_major and self.mesh_major[0].strip().lower() == "normal":
            return "normal"
        if any(heading.startswith("Lung") for heading in self.mesh_major):
            return "lung"
        return None

    def text(self, protocol: str) -> str | None:
        """Returns the text that a model sees under a protocol.

        Args:
            protocol: "published" for the findings, "leak-free" for the indication.

        Raises:
            ValueError: if the protocol is unknown.
        """
        return (
            self.findings
            if choose(protocol, PROTOCOLS, "protocol") == "published"
            else self.indication
        )


@final
@dataclass(frozen=True, slots=True)
class Cohort:
    """The study's reports and how they were chosen.

    Attributes:
        reports: the chosen reports in their original order. Each has a label.
        steps: the steps of the choice, as pairs of a description and a number of reports or images.
    """

    reports: tuple[Report, ...]
    steps: tuple[tuple[str, int], ...]

    def lines(self) -> list[str]:
        """Returns the steps as text, one line each, with the numbers aligned."""
        return [f"{count:>6,}  {what}" for what, count in self.steps]


def read_reports(archive: str | Path | None = None) -> list[Report]:
    """Returns all reports of the collection, ordered by the number in their uid.

    Args:
        archive: the published archive of reports, a .tgz with one XML file per report. None takes
            the copy inside the installed torchxrayvision package.

    Raises:
        ValueError: if the archive is absent, cannot be read or holds no report, or if a report is
            not as published.
    """
    path = package_file("NLMCXR_reports.tgz") if archive is None else Path(archive)
    reports = []
    try:
        with tarfile.open(path, "r:*") as files:
            for member in files:
                # `extractfile` returns None for a folder.
                stream = files.extractfile(member) if member.name.endswith(".xml") else None
                if stream is not None:
                    reports.append(parse_report(stream.read(), member.name))
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ValueError(
            f"archive must be a readable tar file, got {str(path)!r} ({error}). Fetch it again."
        ) from error
    if not reports:
        raise ValueError(
            f"archive must be one with XML reports, got none in {str(path)!r}. Check the file."
        )
    # By number, because by name CXR10 would come before CXR2.
    return sorted(reports, key=lambda report: (int(re.sub(r"\D", "", report.uid) or 0), report.uid))


def parse_report(content: bytes, name: str) -> Report:
    """Returns the report of one XML file.

    Args:
        content: the file's bytes.
        name: the file's name, for the messages.

    Raises:
        ValueError: if the file is not XML, or has no uId.

    Example:
        >>> xml = b'<eCitation><uId id="CXR7"/><MeSH><major>normal</major></MeSH></eCitation>'
        >>> parse_report(xml, "7.xml").label
        'normal'
    """
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ValueError(
            f"report must be well-formed XML, got {name!r} ({error}). Fetch the archive again."
        ) from error
    uid = root.find("uId")
    if uid is None or not uid.get("id"):
        raise ValueError(
            f"report must be one with a uId, got none in {name!r}. Fetch the archive again."
        )
    # An empty section becomes None, so that it counts as a missing text.
    sections = {
        node.get("Label"): (node.text or "").strip() or None for node in root.iter("AbstractText")
    }
    return Report(
        uid=uid.get("id", ""),
        findings=sections.get("FINDINGS"),
        impression=sections.get("IMPRESSION"),
        indication=sections.get("INDICATION"),
        comparison=sections.get("COMPARISON"),
        mesh_major=tuple(node.text or "" for node in root.iterfind(".//MeSH/major")),
        images=tuple(node.get("id", "") for node in root.iter("parentImage")),
    )


def cohort(reports: Iterable[Report], *, seed: int = 0, balanced: bool = True) -> Cohort:
    """Returns the study's cohort: reports with images, the same number of each class.

    Args:
        reports: all reports, as `read_reports` returns them.
        seed: decides which reports of the larger class are chosen.
        balanced: False chooses every report of both classes (1,937 of the published collection).

    Raises:
        ValueError: if a class has no report, or a uid occurs twice.

    Example:
        >>> headings = ("Lung/hypoinflation",)
        >>> sick = Report("CXR2", "Low volumes.", None, None, None, headings, ("CXR2_IM-1-1",))
        >>> well = Report("CXR3", "Clear.", None, None, None, ("normal",), ("CXR3_IM-1-1",))
        >>> [report.uid for report in cohort([sick, well]).reports]
        ['CXR2', 'CXR3']
    """
    everything = list(reports)
    _check_once(everything)
    # A report without an image cannot be a sample of an image model.
    pictured = [report for report in everything if report.images]
    classes = {label: [report for report in pictured if report.label == label] for label in LABELS}
    empty = [label for label in LABELS if not classes[label]]
    if empty:
        raise ValueError(
            f"reports must be of both classes, got no {empty[0]!r} with images. Give all reports."
        )
    size = min(map(len, classes.values())) if balanced else None
    # One generator per class: the size of one class must not change which reports of the other
    # class are drawn.
    drawn = {
        label: random.Random(f"{seed}/{label}").sample(of_class, size or len(of_class))
        for label, of_class in classes.items()
    }
    uids = {report.uid for of_class in drawn.values() for report in of_class}
    # In the order of the collection, not in the order of the draw.
    chosen = tuple(report for report in pictured if report.uid in uids)
    steps = [
        ("reports", len(everything)),
        ("reports with images", len(pictured)),
        ("images of those reports", sum(len(report.images) for report in pictured)),
        ("reports of class normal (first major heading is normal)", len(classes["normal"])),
        ("reports of class lung (a major heading begins with Lung)", len(classes["lung"])),
        ("reports of both classes", sum(map(len, classes.values()))),
    ]
    if balanced:
        steps.append((f"reports after balancing (seed {seed})", len(chosen)))
    steps += [
        (
            "of them without findings: text missing under protocol published",
            _without(chosen, "published"),
        ),
        (
            "of them without indication: text missing under protocol leak-free",
            _without(chosen, "leak-free"),
        ),
    ]
    return Cohort(chosen, tuple(steps))


def _check_once(reports: Sequence[Report]) -> None:
    """Raises a ValueError if a uid occurs more than once."""
    counts = Counter(report.uid for report in reports)
    twice = [uid for uid, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f"reports must be given once each, got {some(twice)} more than once. Drop the copies."
        )


def _without(reports: Sequence[Report], protocol: str) -> int:
    return sum(report.text(protocol) is None for report in reports)


def manifest(
    reports: Sequence[Report], joined: Joined, protocol: str = "published"
) -> pd.DataFrame:
    """Returns the study's table: one row per report that has an X-ray.

    Its columns are image, text (the text of the protocol), label, group (= uid), uid, view, second
    (another X-ray of the same study, the lateral one where it is known, empty if there is none),
    text_published, text_leak_free, impression, comparison and mesh_major (the headings joined by
    "|").

    Args:
        reports: reports with a label.
        joined: the X-rays of the reports.
        protocol: "published" or "leak-free".

    Raises:
        ValueError: if the protocol is unknown.
    """
    # Without this check, a wrong protocol with no reports would pass.
    choose(protocol, PROTOCOLS, "protocol")
    return pd.DataFrame(
        {
            "image": joined.images[report.uid].resolve().as_posix(),
            "text": report.text(protocol),
            "label": report.label,
            "group": report.uid,
            "uid": report.uid,
            "view": joined.views[report.uid],
            "second": (
                joined.seconds[report.uid].resolve().as_posix()
                if report.uid in joined.seconds
                else None
            ),
            "text_published": report.text("published"),
            "text_leak_free": report.text("leak-free"),
            "impression": report.impression,
            "comparison": report.comparison,
            "mesh_major": "|".join(report.mesh_major),
        }
        for report in reports
        # Reports without an X-ray in the folder are left out.
        if report.uid in joined.images
    )


def main(
    images: Annotated[
        Path | None, typer.Option(help="Folder with the X-rays, in any published naming.")
    ] = None,
    download: Annotated[
        Path | None, typer.Option(help="Fetch the X-rays into this folder first.")
    ] = None,
    url: Annotated[str, typer.Option(help="Where --download finds the archive.")] = ARCHIVE_URL,
    known_hash: Annotated[
        str | None, typer.Option(help="SHA-256 the archive must have, if you know it.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The manifest to write, .csv or .jsonl.")] = Path(
        "openi.csv"
    ),
    protocol: Annotated[
        str, typer.Option(help="published (findings) or leak-free (indication).")
    ] = "published",
    seed: Annotated[int, typer.Option(help="Chooses the normals that are kept.")] = 0,
    balanced: Annotated[bool, typer.Option(help="Keep as many normals as lung reports.")] = True,
) -> None:
    """Rebuild the study's cohort step by step; with X-rays, write its manifest."""
    console = Console()
    try:
        # Checked first, because the download that may follow takes long.
        choose(protocol, PROTOCOLS, "protocol")
        chosen = cohort(read_reports(), seed=seed, balanced=balanced)
        for line in chosen.lines():
            console.print(line, highlight=False)
        folder = (
            images if download is None else fetch_images(download, url=url, known_hash=known_hash)
        )
        if folder is None:
            console.print(
                "No X-rays: give --images FOLDER or --download FOLDER to write a manifest."
            )
            return
        joined = join_images(chosen.reports, folder, read_views())
        path = write_manifest(manifest(chosen.reports, joined, protocol), output)
    except ValueError as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    # Missing X-rays are no error up to the tolerance, but the user must know of them.
    if joined.missing:
        console.print(
            f"{len(joined.missing):>6,}  left out, no X-ray in the folder: {some(joined.missing)}"
        )
    for view in VIEWS:
        console.print(
            f"{sum(one == view for one in joined.views.values()):>6,}  X-rays of {view} view"
        )
    console.print(f"{len(joined.images):>6,}  rows written to {path}")


if __name__ == "__main__":
    typer.run(main)
