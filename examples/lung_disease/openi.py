"""The Indiana University chest X-ray collection (Open-i): real reports, the study's cohort, and its X-rays.

The 3,955 reports and the DICOM metadata come with the installed torchxrayvision package (CC
BY-NC-ND 4.0; they are read there and never copied into this repository). The X-rays come from a
folder that the user names, or are fetched with `--download`:

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
from typing import Annotated

import pandas as pd
import typer
from manifests import choose, some, write_manifest
from openi_download import ARCHIVE_URL, fetch_images
from openi_images import VIEWS, Joined, join_images, package_file, read_views
from rich.console import Console

LABELS = ("normal", "lung")
PROTOCOLS = ("published", "leak-free")


@dataclass(frozen=True, slots=True)
class Report:
    """One radiology report.

    A text is kept as published, with the `XXXX` that stand for what was anonymised; an empty
    section is None.

    Attributes:
        uid: the report's name, such as "CXR1000". The collection names no patient besides: it is
            the group, too.
        findings: what the radiologist saw.
        impression: the radiologist's conclusion.
        indication: why the X-ray was taken, the only section written before anyone looked at it.
        comparison: what the X-ray was compared with.
        mesh_major: the major MeSH headings, such as "Lung/hypoinflation", in the report's order.
        images: the names of its X-rays, such as "CXR1000_IM-0003-1001", in the report's order.

    Example:
        >>> Report("CXR1", None, None, "Cough.", None, ("Lung/hypoinflation",), ("CXR1_IM-0001-1001",)).label
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

        It is "normal" if the first major heading is that, and "lung" if any major heading begins
        with "Lung".

        "normal" goes first; in the published collection it always stands alone, so that no report
        fits both.
        """
        if self.mesh_major and self.mesh_major[0].strip().lower() == "normal":
            return "normal"
        if any(heading.startswith("Lung") for heading in self.mesh_major):
            return "lung"
        return None

    def text(self, protocol: str) -> str | None:
        """Returns the text a protocol shows a model: "published" the findings, "leak-free" the indication.

        Args:
            protocol: "published" or "leak-free".

        Raises:
            ValueError: if the protocol is another one.
        """
        return (
            self.findings
            if choose(protocol, PROTOCOLS, "protocol") == "published"
            else self.indication
        )


@dataclass(frozen=True, slots=True)
class Cohort:
    """The study's reports and how they were chosen.

    Attributes:
        reports: the chosen reports, in the order they were given; each has a label.
        steps: what was counted on the way, (what, how many).
    """

    reports: tuple[Report, ...]
    steps: tuple[tuple[str, int], ...]

    def lines(self) -> list[str]:
        """Returns the steps as text, one line each, numbers aligned."""
        return [f"{count:>6,}  {what}" for what, count in self.steps]


def read_reports(archive: str | Path | None = None) -> list[Report]:
    """Returns all reports of the collection, ordered by the number in their uid.

    Args:
        archive: the published archive of reports (a .tgz with one XML file per report); None takes
            the copy inside the installed torchxrayvision package.

    Raises:
        ValueError: if the archive is absent, cannot be read or holds no report; or a report is not
            as published.
    """
    path = package_file("NLMCXR_reports.tgz") if archive is None else Path(archive)
    reports = []
    try:
        with tarfile.open(path, "r:*") as files:
            for member in files:
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
    return sorted(reports, key=lambda report: (int(re.sub(r"\D", "", report.uid) or 0), report.uid))


def parse_report(content: bytes, name: str) -> Report:
    """Returns the report written in one XML file.

    Args:
        content: the file's bytes.
        name: the file's name, for messages.

    Raises:
        ValueError: if it is not XML, or has no uId.

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
    """Returns the study's cohort: the reports of both classes that have images, as many of each class.

    Args:
        reports: all reports, as `read_reports` gives them.
        seed: chooses the reports kept of the larger class; the same seed keeps the same.
        balanced: False keeps every report of both classes (1,937 of the published collection).

    Raises:
        ValueError: if a class has no report, or a uid occurs twice.

    Example:
        >>> sick = Report("CXR2", "Low volumes.", None, None, None, ("Lung/hypoinflation",), ("CXR2_IM-1-1",))
        >>> well = Report("CXR3", "Clear.", None, None, None, ("normal",), ("CXR3_IM-1-1",))
        >>> [report.uid for report in cohort([sick, well]).reports]
        ['CXR2', 'CXR3']
    """
    everything = list(reports)
    twice = [
        uid for uid, count in Counter(report.uid for report in everything).items() if count > 1
    ]
    if twice:
        raise ValueError(
            f"reports must be given once each, got {some(twice)} more than once. Drop the copies."
        )
    pictured = [report for report in everything if report.images]
    classes = {label: [report for report in pictured if report.label == label] for label in LABELS}
    empty = [label for label in LABELS if not classes[label]]
    if empty:
        raise ValueError(
            f"reports must be of both classes, got no {empty[0]!r} with images. Give all reports."
        )
    size = min(map(len, classes.values())) if balanced else None
    # One generator per class: how many reports one class has may not change which are drawn from
    # the other.
    kept = {
        label: random.Random(f"{seed}/{label}").sample(found, size or len(found))
        for label, found in classes.items()
    }
    uids = {report.uid for found in kept.values() for report in found}
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


def _without(reports: Sequence[Report], protocol: str) -> int:
    return sum(report.text(protocol) is None for report in reports)


def manifest(
    reports: Sequence[Report], joined: Joined, protocol: str = "published"
) -> pd.DataFrame:
    """Returns the study's table: one row per report that has an X-ray.

    Columns: image, text (what the protocol allows), label, group (= uid), uid, view,
    text_published, text_leak_free, impression, comparison, mesh_major (headings joined by "|").

    Args:
        reports: reports with a label.
        joined: their X-rays.
        protocol: "published" or "leak-free".

    Raises:
        ValueError: if the protocol is another one.
    """
    choose(protocol, PROTOCOLS, "protocol")
    return pd.DataFrame(
        {
            "image": joined.images[report.uid].resolve().as_posix(),
            "text": report.text(protocol),
            "label": report.label,
            "group": report.uid,
            "uid": report.uid,
            "view": joined.views[report.uid],
            "text_published": report.text("published"),
            "text_leak_free": report.text("leak-free"),
            "impression": report.impression,
            "comparison": report.comparison,
            "mesh_major": "|".join(report.mesh_major),
        }
        for report in reports
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
    if joined.missing:
        console.print(
            f"{len(joined.missing):>6,}  left out, no X-ray in the folder: {some(joined.missing)}"
        )
    for view in VIEWS:
        console.print(
            f"{sum(found == view for found in joined.views.values()):>6,}  X-rays of {view} view"
        )
    console.print(f"{len(joined.images):>6,}  rows written to {path}")


if __name__ == "__main__":
    typer.run(main)
