"""The manifest of COVID-19 against other pneumonia: frontal X-rays with clinical notes.

Two layouts are read: the published one (covid-chestxray-dataset: `metadata.csv`, `images/`), and a
small copy with `labels.csv`. The columns of the copy are image, mask, patient, sex, age, view,
finding, label, notes, license and url.

    python examples/lung_disease/covid_cxr.py data/covid-chestxray-dataset --output data/covid.csv

The manifest holds frontal X-rays of COVID-19 ("covid") and of other pneumonias and ARDS ("other").
It leaves out CT slices, lateral views, "No Finding", "todo", "Unknown", tuberculosis and all other
findings that are no pneumonia. The script prints how many it left out for each reason.

There are two warnings about the text. First, many notes name the diagnosis; the column
names_diagnosis marks them. Second, whether an X-ray has a note is itself a hint about the class: in
the small copy every X-ray without a note shows COVID-19.

Reference: Cohen, Morrison, Dao et al., "COVID-19 image data collection", arXiv 2003.11597 and
2006.11988, 2020.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

import pandas as pd
import typer
from manifests import existing_folder, some, write_manifest
from rich.console import Console

LABELS = ("other", "covid")
FRONTAL = ("PA", "AP", "AP Supine", "AP semi erect", "AP erect")

# The parts of a finding that count as another pneumonia, in lower case.
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
# Stems, because notes use adjectives ("pneumonic") as well as the names.
_DIAGNOSIS = re.compile(
    r"covid|corona|sars|mers|pneumon|ards|acute respiratory distress|pneumocystis|pcp|legionell"
    r"|varicell|klebsiell|streptoc|staphyloc|mycoplasm|influenza|h1n1|lipoid|e\. ?coli",
    re.IGNORECASE,
)
_SHARED = ["sex", "age", "view", "finding", "license", "url"]


@final
@dataclass(frozen=True, slots=True)
class Selection:
    """The selected rows, and the number of rows that were left out.

    Attributes:
        rows: the selected X-rays, with the columns that `read` lists.
        left_out: pairs of a reason and the number of rows left out for it.
    """

    rows: pd.DataFrame
    left_out: tuple[tuple[str, int], ...]


def label_of(finding: str) -> str | None:
    """Returns the class of a finding: "covid", "other" or None where it is no pneumonia.

    Both the older and the newer spelling of the metadata are understood.

    Args:
        finding: the text of the finding, such as "COVID-19, ARDS", "Pneumonia/Viral/COVID-19",
            "Pneumonia/Bacterial/Klebsiella" or "todo".

    Example:
        >>> findings = ("COVID-19, ARDS", "Pneumonia/Fungal/Pneumocystis", "No Finding")
        >>> [label_of(finding) for finding in findings]
        ['covid', 'other', None]
    """
    # The older metadata separates the parts by commas, the newer one by slashes.
    parts = [part.strip().lower() for part in re.split(r"[/,]", finding)]
    if "covid-19" in parts:
        return "covid"
    return "other" if any(part in _OTHER for part in parts) else None


def read(folder: str | Path) -> Selection:
    """Returns the selected X-rays of a folder in either of the two layouts.

    The table has the columns image, mask, text (the note, None where there is none), label, group
    (the patient), names_diagnosis, sex, age, view, finding, license and url.

    Args:
        folder: the small copy, or a clone of the published repository.

    Raises:
        ValueError: if the folder is absent or has neither layout, if a column or an X-ray is
            missing, or if no X-ray is selected.
    """
    place = existing_folder(folder, "folder")
    for name, prepare in (("labels.csv", _from_copy), ("metadata.csv", _from_published)):
        # Empty cells stay empty strings: the word "nan" could otherwise pass for a value.
        if (place / name).is_file():
            return _select(
                prepare(pd.read_csv(place / name, dtype=str, keep_default_na=False), name), place
            )
    raise ValueError(
        f"folder must be one with labels.csv or metadata.csv, got {str(folder)!r}. "
        "Name the folder that holds it."
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
    # The copy holds no CT slices and therefore no column for the modality.
    return chosen.rename(columns={"patient": "group", "notes": "text"}).assign(modality="X-ray")


def _from_published(table: pd.DataFrame, name: str) -> pd.DataFrame:
    chosen = _columns(
        table, ["filename", "folder", "patientid", "clinical_notes", "modality", *_SHARED], name
    )
    chosen = chosen.rename(columns={"patientid": "group", "clinical_notes": "text"})
    return chosen.assign(image=chosen["folder"] + "/" + chosen["filename"], mask="")


def _select(table: pd.DataFrame, folder: Path) -> Selection:
    # Some cells were typed with spaces around them.
    table = table.map(str.strip)
    labels = table["finding"].map(label_of)
    # A row may have several reasons to be left out. The last one set is the one that is counted.
    reasons = pd.Series("", index=table.index)
    reasons[labels.isna()] = "finding " + table["finding"].where(table["finding"] != "", "empty")
    reasons[~table["view"].isin(FRONTAL)] = "view " + table["view"].where(
        table["view"] != "", "empty"
    )
    reasons[table["modality"] != "X-ray"] = "modality " + table["modality"].where(
        table["modality"] != "", "empty"
    )
    selected = table[reasons == ""]
    if selected.empty:
        raise ValueError(
            "folder must be one with X-rays of COVID-19 or pneumonia, "
            f"got none in {str(folder)!r}. Check it."
        )
    missing = [image for image in selected["image"] if not (folder / image).is_file()]
    if missing:
        raise ValueError(
            f"image must be a file, got {len(missing)} that are not: {some(missing)}. "
            "Fetch the whole set."
        )
    # Plus 2 gives the line in the file: the header is line 1, and the index starts at 0.
    anonymous = [int(number) + 2 for number in selected.index[selected["group"] == ""]]
    if anonymous:
        raise ValueError(
            f"patient must be given, got none in row {anonymous[0]}. "
            "Without it patients cannot be split."
        )
    rows = pd.DataFrame(
        {
            "image": [(folder / image).resolve().as_posix() for image in selected["image"]],
            "mask": [
                (folder / mask).resolve().as_posix() if mask else None for mask in selected["mask"]
            ],
            # An empty note must count as a missing text, not as an empty one.
            "text": [note or None for note in selected["text"]],
            "label": labels[selected.index].to_numpy(),
            "group": selected["group"].to_numpy(),
            "names_diagnosis": selected["text"].str.contains(_DIAGNOSIS).to_numpy(dtype=bool),
            **{column: [value or None for value in selected[column]] for column in _SHARED},
        }
    )
    # The most frequent reason comes first.
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
        selection = read(folder)
        path = write_manifest(selection.rows, output)
    except ValueError as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    for reason, count in selection.left_out:
        console.print(f"{count:>6,}  left out: {reason}", markup=False)
    rows = selection.rows
    # The counts warn of a class whose X-rays lack notes more often than those of the other class.
    for label in LABELS:
        of_class = rows[rows["label"] == label]
        silent = of_class["text"].isna().sum()
        console.print(
            f"{len(of_class):>6,}  X-rays of class {label}, {silent} of them without a note"
        )
    console.print(
        f"{rows['names_diagnosis'].sum():>6,}  notes name a diagnosis: "
        "text alone may give the label away"
    )
    console.print(f"{len(rows):>6,}  rows of {rows['group'].nunique()} patients written to {path}")


if __name__ == "__main__":
    typer.run(main)
