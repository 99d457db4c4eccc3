"""The study's data sets, each as samples under one or two text protocols."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import covid_cxr
import datasets
import openi
import pandas as pd
import phantom
import shenzhen
from manifests import choose, write_manifest
from openi_images import join_images, read_views

from mmfusion import load_manifest

DATASETS = ("phantom", "openi", "shenzhen", "covid")


@dataclass(frozen=True)
class StudyData:
    """The samples of a data set.

    Attributes:
        name: "phantom", "openi", "shenzhen" or "covid".
        protocols: what the text is -> the samples (columns image, text, label, group).
        synthetic_images: whether the pictures are drawn by `phantom.py`.
        texts_identify: whether identical texts must stay in one part; not where the text is only
            sex and age.
        notes: lines that say how the samples were chosen.
    """

    name: str
    protocols: dict[str, datasets.Dataset]
    synthetic_images: bool
    texts_identify: bool
    notes: list[str]


def load(
    name: str, images: Path | None, work: Path, *, seed: int = 0, limit: int | None = None
) -> StudyData:
    """Returns a data set of the study.

    Args:
        name: one of `DATASETS`.
        images: the folder of its X-rays; the phantom draws its own.
        work: where manifests, and the phantom's synthetic pictures, are written.
        seed: chooses the balanced cohort and draws the phantom.
        limit: take this many samples alone, as many of each class, to try things out; None takes
            all.

    Raises:
        ValueError: if the name is unknown, or the folder is not given or not the expected one.
    """
    choose(name, DATASETS, "dataset")
    if name in ("phantom", "openi"):
        return _openi(name, images, work, seed, limit)
    if images is None:
        raise ValueError(
            f"images must be the folder of the {name} X-rays, got None. Pass --images FOLDER."
        )
    if name == "shenzhen":
        table = shenzhen.manifest(shenzhen.read(images).cases)
        rows = _balanced(table, limit)
        protocols = {
            "sex and age": load_manifest(write_manifest(rows, work / "manifest.csv"), root=images)
        }
        return StudyData(
            name,
            protocols,
            False,
            False,
            [f"{len(rows)} X-rays, {rows['text'].notna().sum()} with sex and age"],
        )
    selection = covid_cxr.read(images)
    rows = _balanced(selection.rows, limit)
    notes = [
        f"{len(rows)} frontal X-rays of {rows['group'].nunique()} patients, {rows['text'].notna().sum()} with notes"
    ]
    without = rows[rows["text"].isna()]["label"].value_counts()
    shares = ", ".join(f"{count} of class {label}" for label, count in without.items())
    notes.append(
        f"without notes: {shares or 'none'}; where that is one class alone, a missing note tells the answer"
    )
    notes.append(f"notes that name a diagnosis: {int(rows['names_diagnosis'].sum())}")
    notes += [f"left out: {count} with {why}" for why, count in selection.left_out]
    protocols = {
        "clinical notes": load_manifest(write_manifest(rows, work / "manifest.csv"), root=images)
    }
    return StudyData(name, protocols, False, True, notes)


def _openi(name: str, images: Path | None, work: Path, seed: int, limit: int | None) -> StudyData:
    chosen = openi.cohort(openi.read_reports(), seed=seed)
    reports = chosen.reports
    if limit is not None:
        by_class = {
            label: [r for r in reports if r.label == label][: limit // 2] for label in openi.LABELS
        }
        reports = tuple(r for r in reports if r in by_class[r.label or ""])
    protocols = {}
    for protocol in openi.PROTOCOLS:
        if name == "phantom":
            path = phantom.render(
                reports, work / "synthetic", protocol=protocol, seed=seed, progress=False
            )
            path = path.rename(path.with_name(f"{protocol}.csv"))
            protocols[protocol] = load_manifest(path)
        else:
            if images is None:
                raise ValueError(
                    "images must be the folder of the Open-i X-rays, got None. Pass --images FOLDER."
                )
            table = openi.manifest(reports, join_images(reports, images, read_views()), protocol)
            protocols[protocol] = load_manifest(
                write_manifest(table, work / f"{protocol}.csv"), root=images
            )
    return StudyData(name, protocols, name == "phantom", True, chosen.lines())


def _balanced(table: pd.DataFrame, limit: int | None) -> pd.DataFrame:
    if limit is None:
        return table
    heads = [rows.head(limit // 2) for _, rows in table.groupby("label", sort=True)]
    return pd.concat(heads, ignore_index=True)
