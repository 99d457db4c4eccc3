"""The study's data sets. Each has samples under one or two text protocols."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

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


@final
@dataclass(frozen=True)
class StudyData:
    """The samples of a data set.

    Attributes:
        name: "phantom", "openi", "shenzhen" or "covid".
        protocols: the samples (columns image, text, label, group), by the name of their text
            protocol.
        synthetic_images: whether the pictures are drawn by `phantom.py`.
        texts_identify: whether samples with identical texts must stay in one part. False where the
            text is only sex and age, which many patients share.
        notes: lines that tell how the samples were chosen.
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
        images: the folder of the X-rays. The phantom ignores it and draws its own pictures.
        work: the folder where manifests and the pictures of the phantom are written.
        seed: the seed of the balanced cohort and of the phantom.
        limit: use only this many samples, half of each class, to try things out. None uses all.

    Raises:
        ValueError: if the name is unknown, or if the folder is missing or not the expected one.
    """
    # Checked first, so that a typing error is named before any folder is read.
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
        f"{len(rows)} frontal X-rays of {rows['group'].nunique()} patients, "
        f"{rows['text'].notna().sum()} with notes"
    ]
    # A reader must know this: where only one class lacks notes, a missing note tells the class.
    without = rows[rows["text"].isna()]["label"].value_counts()
    shares = ", ".join(f"{count} of class {label}" for label, count in without.items())
    notes.append(
        f"without notes: {shares or 'none'}; where that is one class alone, "
        "a missing note tells the answer"
    )
    notes.append(f"notes that name a diagnosis: {int(rows['names_diagnosis'].sum())}")
    notes += [f"left out: {count} with {why}" for why, count in selection.left_out]
    protocols = {
        "clinical notes": load_manifest(write_manifest(rows, work / "manifest.csv"), root=images)
    }
    return StudyData(name, protocols, False, True, notes)


def paired(samples: datasets.Dataset) -> datasets.Dataset:
    """Returns samples whose pictures are lists: the X-ray and another one of the same study.

    Args:
        samples: with the column `second`, as the manifest of Open-i has it.

    Raises:
        ValueError: if no sample has a second X-ray.
    """
    seconds = samples["second"] if "second" in samples.column_names else []
    if not any(seconds):
        raise ValueError("--laterals needs two X-rays of a study, got none. Only Open-i has them.")
    both = zip(samples["image"], seconds, strict=True)
    pairs = [[first, second or None] for first, second in both]
    feature = datasets.List(datasets.Value("string"))
    return samples.remove_columns("image").add_column("image", pairs, feature=feature)


def _openi(name: str, images: Path | None, work: Path, seed: int, limit: int | None) -> StudyData:
    """Returns the Open-i reports under both protocols, with real or with synthetic pictures."""
    chosen = openi.cohort(openi.read_reports(), seed=seed)
    reports = chosen.reports
    if limit is not None:
        # The same number of each class, as in the whole cohort.
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
            # `render` always writes manifest.csv, and both protocols share its folder.
            path = path.rename(path.with_name(f"{protocol}.csv"))
            protocols[protocol] = load_manifest(path)
        else:
            if images is None:
                raise ValueError(
                    "images must be the folder of the Open-i X-rays, got None. "
                    "Pass --images FOLDER."
                )
            # Joined for each protocol: the rows are the same, the text differs.
            table = openi.manifest(reports, join_images(reports, images, read_views()), protocol)
            protocols[protocol] = load_manifest(
                write_manifest(table, work / f"{protocol}.csv"), root=images
            )
    return StudyData(name, protocols, name == "phantom", True, chosen.lines())


def _balanced(table: pd.DataFrame, limit: int | None) -> pd.DataFrame:
    """Returns the first rows of each class, `limit` rows together."""
    if limit is None:
        return table
    heads = [rows.head(limit // 2) for _, rows in table.groupby("label", sort=True)]
    return pd.concat(heads, ignore_index=True)
