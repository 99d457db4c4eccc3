"""COVID-19 against other pneumonia, frontal X-rays with clinical notes, as a manifest.

Two layouts are read: the published one (covid-chestxray-dataset: `metadata.csv`, `images/`), and a
small copy with `labels.csv` (image, mask, patient, sex, age, view, finding, label, notes, license,
url).

    python examples/lung_disease/covid_cxr.py data/covid-chestxray-dataset --output data/covid.csv

Kept are frontal X-rays of COVID-19 ("covid") and of other pneumonias and ARDS ("other"). Left out,
with a count, are CT slices, lateral views, "No Finding", "todo", "Unknown", tuberculosis and
whatever is no pneumonia.

Two warnings about the text. Many notes name the diagnosis; the column names_diagnosis marks them.
And whether a note is there is itself a hint: in the small copy every X-ray without a note shows
COVID-19.

Reference: Cohen, Morrison, Dao et al., "COVID-19 image data collection", arXiv 2003.11597 and
2006.11988, 2020.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from manifests import existing_folder, some, write_manifest
from rich.console import Console

LABELS = ("other", "covid")
FRONTAL = ("PA", "AP", "AP Supine", "AP semi erect", "AP erect")

_OTHER = frozenset(
    (
        "ards",
        "aspergillosis",
        "aspiration",
        "bacterial",
        "chlamydophila",
        "e.coli",
        "fungal",
        "h1n1",
        "herpes",
        "influenza",
        "klebsiella",
        "legionella",
        "lipoid",
        "mers-cov",
        "mrsa",
        "mycoplasma",
        "mycoplasma bacterial pneumonia",
        "nocardia",
        "pneumocystis",
        "pneumonia",
        "sars",
        "staphylococcus",
        "streptococcus",
        "varicella",
        "viral",
    )
)
_DIAGNOSIS = re.compile(
    r"covid|corona|sars|mers|pneumon|ards|acute respiratory distress|pneumocystis|pcp|legionell|varicell"
    r"|klebsiell|streptoc|staphyloc|mycoplasm|influenza|h1n1|lipoid|e\. ?coli",
    re.IGNORECASE,
)
_SHARED = ["sex", "age", "view", "finding", "license", "url"]


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows kept (a table as `manifest` describes it) and what was left out, (why, how many)."""

    rows: pd.DataFrame
    left_out: tuple[tuple[str, int], ...]


def label_of(finding: str) -> str | None:
    """Returns "covid", "other" or None for a finding as either generation of the metadata writes it.

    Args:
        finding: such as "COVID-19, ARDS", "Pneumonia/Viral/COVID-19",
            "Pneumonia/Bacterial/Klebsiella", "todo".

    Example:
        >>> [label_of(name) for name in ("COVID-19, ARDS", "Pneumonia/Fungal/Pneumocystis", "No Finding")]
        ['covid', 'other', None]
    """
    parts = [part.strip().lower() for part in re.split(r"[/,]", finding)]
    if "covid-19" in parts:
        return "covid"
    return "other" if any(part in _OTHER for part in parts) else None


def read(folder: str | Path) -> Selection:
    """Returns the selected X-rays of a folder, whichever of the two layouts it has.

    The table has the columns image, mask, text (the note, None where there is none), label, group
    (the patient), names_diagnosis, sex, age, view, finding, license, url.

    Args:
        folder: the small copy, or a clone of the published repository.

    Raises:
        ValueError: if the folder is absent, has neither layout, lacks a column or an X-ray, or
            nothing is left.
    """
    place = existing_folder(folder, "folder")
    for name, prepare in (("labels.csv", _from_copy), ("metadata.csv", _from_published)):
        if (place / name).is_file():
            return _select(
                prepare(pd.read_csv(place / name, dtype=str, keep_default_na=False), name), place
            )
    raise ValueError(
        f"folder must be one with labels.csv or metadata.csv, got {str(folder)!r}. Name the folder that holds it."
    )


def _columns(table: pd.DataFrame, wanted: list[str], name: str) -> pd.DataFrame:
    absent = [column for column in wanted if column not in table.columns]
    if absent:
        raise ValueError(
            f"{name} must be a table with the columns {wanted}, got none of {absent}. Add them."
        )
    return table[wanted]


def _from_copy(table: pd.DataFrame, name: str) -> pd.DataFrame:
    chosen = _columns(table, ["image", "mask", "patient", "notes", *_SHARED], name)
    return chosen.rename(columns={"patient": "group", "notes": "text"}).assign(modality="X-ray")


def _from_published(table: pd.DataFrame, name: str) -> pd.DataFrame:
    chosen = _columns(
        table, ["filename", "folder", "patientid", "clinical_notes", "modality", *_SHARED], name
    )
    chosen = chosen.rename(columns={"patientid": "group", "clinical_notes": "text"})
    return chosen.assign(image=chosen["folder"] + "/" + chosen["filename"], mask="")


def _select(table: pd.DataFrame, folder: Path) -> Selection:
    table = table.map(str.strip)
    labels = table["finding"].map(label_of)
    reasons = pd.Series("", index=table.index)
    reasons[labels.isna()] = "finding " + table["finding"].where(table["finding"] != "", "empty")
    reasons[~table["view"].isin(FRONTAL)] = "view " + table["view"].where(
        table["view"] != "", "empty"
    )
    reasons[table["modality"] != "X-ray"] = "modality " + table["modality"].where(
        table["modality"] != "", "empty"
    )
    kept = table[reasons == ""]
    if kept.empty:
        raise ValueError(
            f"folder must be one with X-rays of COVID-19 or pneumonia, got none in {str(folder)!r}. Check it."
        )
    missing = [image for image in kept["image"] if not (folder / image).is_file()]
    if missing:
        raise ValueError(
            f"image must be a file, got {len(missing)} that are not: {some(missing)}. Fetch the whole set."
        )
    anonymous = [int(number) + 2 for number in kept.index[kept["group"] == ""]]
    if anonymous:
        raise ValueError(
            f"patient must be given, got none in row {anonymous[0]}. Without it patients cannot be split."
        )
    rows = pd.DataFrame(
        {
            "image": [(folder / image).resolve().as_posix() for image in kept["image"]],
            "mask": [
                (folder / mask).resolve().as_posix() if mask else None for mask in kept["mask"]
            ],
            "text": [note or None for note in kept["text"]],
            "label": labels[kept.index].to_numpy(),
            "group": kept["group"].to_numpy(),
            "names_diagnosis": kept["text"].str.contains(_DIAGNOSIS).to_numpy(dtype=bool),
            **{column: [value or None for value in kept[column]] for column in _SHARED},
        }
    )
    counts = Counter(reasons[reasons != ""])
    return Selection(rows, tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))))


def main(
    folder: Annotated[
        Path,
        typer.Argument(help="A clone of covid-chestxray-dataset, or a small copy with labels.csv."),
    ],
    output: Annotated[Path, typer.Option(help="The manifest to write, .csv or .jsonl.")] = Path(
        "covid_cxr.csv"
    ),
) -> None:
    """Write the manifest of COVID-19 against other pneumonia."""
    console = Console()
    try:
        found = read(folder)
        path = write_manifest(found.rows, output)
    except ValueError as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    for reason, count in found.left_out:
        console.print(f"{count:>6,}  left out: {reason}", markup=False)
    rows = found.rows
    for label in LABELS:
        of_class = rows[rows["label"] == label]
        silent = of_class["text"].isna().sum()
        console.print(
            f"{len(of_class):>6,}  X-rays of class {label}, {silent} of them without a note"
        )
    console.print(
        f"{rows['names_diagnosis'].sum():>6,}  notes name a diagnosis: text alone may give the label away"
    )
    console.print(f"{len(rows):>6,}  rows of {rows['group'].nunique()} patients written to {path}")


if __name__ == "__main__":
    typer.run(main)
