"""The manifest of the Shenzhen tuberculosis X-rays, with sex and age as the text, and lung masks.

Two layouts are read: the published one (`CXR_png/CHNCXR_0001_0.png`,
`ClinicalReadings/CHNCXR_0001_0.txt`, `mask/CHNCXR_0001_0_mask.png`), and a small copy with
`labels.csv` (image, mask, tuberculosis, sex, age, reading).

    python examples/lung_disease/shenzhen.py data/ChinaSet_AllFiles --output data/shenzhen.csv

The reading is the diagnosis itself ("normal", "PTB in the right upper field"). It was written by
the person who read the X-ray. Only sex and age are known before that, so only they become the text.
The manifest does not contain the reading.

Reference: Jaeger et al., "Two public chest X-ray datasets for computer-aided screening of pulmonary
diseases", Quantitative Imaging in Medicine and Surgery 4(6), 2014; for the masks Stirenko et al.,
arXiv 1803.01199, 2018.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, final

import pandas as pd
import typer
from manifests import choose, existing_folder, some, write_manifest
from rich.console import Console

LABELS = ("normal", "tuberculosis")
Sex = Literal["male", "female"]
Unit = Literal["year", "month", "week", "day"]

_NAME = re.compile(r"^CHNCXR_\d{4}_(?P<label>[01])$")
# The readings have typing errors: "femal" and "mal" occur beside "Female" and "male,".
_SEX = re.compile(
    r"(?<![a-z])(?P<female>fe?mal\w?|f(?![a-z]))|(?<![a-z])(?P<male>mal\w?|m(?![a-z]))",
    re.IGNORECASE,
)
# "m" does not stand for months, because "45 M" is a man.
_AGE = re.compile(
    r"(?P<age>\d+(?:\.\d+)?)\s*-?\s*"
    r"(?P<unit>years?|yrs?|y|months?|mths?|mos?|weeks?|wks?|w|days?|d)(?![a-z])",
    re.IGNORECASE,
)
_BARE_AGE = re.compile(r"male?\W{0,3}(?P<age>\d{1,3})(?!\d|\.\d)", re.IGNORECASE)
_UNITS: dict[str, Unit] = {"y": "year", "m": "month", "w": "week", "d": "day"}
_PER_YEAR: dict[Unit, float] = {"year": 1, "month": 12, "week": 52.18, "day": 365.25}


@final
@dataclass(frozen=True, slots=True)
class Demographics:
    """The facts about a patient that are known before the X-ray is read.

    Attributes:
        sex: "male" or "female", or None if it is unknown.
        age: the age in `unit`s, or None if it is unknown.
        unit: "year" for most patients, "month", "week" or "day" for infants.
    """

    sex: Sex | None
    age: float | None
    unit: Unit = "year"

    @property
    def years(self) -> float | None:
        """The age in years, rounded to two digits, or None if it is unknown."""
        return None if self.age is None else round(self.age / _PER_YEAR[self.unit], 2)

    @property
    def sentence(self) -> str | None:
        """Sex and age in words, such as "45-year-old male".

        An unknown age is left out, and an unknown sex becomes "patient". None if both are unknown.
        """
        age = None if self.age is None else f"{self.age:g}-{self.unit}-old"
        return f"{age} {self.sex or 'patient'}" if age else self.sex


@final
@dataclass(frozen=True, slots=True)
class Case:
    """One X-ray.

    Attributes:
        uid: the name of the X-ray. It also stands for the patient, who has only this X-ray.
        image: the file of the X-ray.
        mask: the file of the lung mask, or None if there is no mask.
        label: "normal" or "tuberculosis".
        patient: the sex and age of the patient.
    """

    uid: str
    image: Path
    mask: Path | None
    label: str
    patient: Demographics


@final
@dataclass(frozen=True, slots=True)
class Collection:
    """The X-rays of a folder.

    Attributes:
        cases: all X-rays.
        unparsed: the names of the X-rays whose sex or age is unknown.
    """

    cases: tuple[Case, ...]
    unparsed: tuple[str, ...]


def parse_demographics(text: str) -> Demographics:
    """Returns sex and age from the text of a clinical reading.

    A number without a unit counts as years if it directly follows the sex. An age above 120 years
    is a typing error and counts as unknown.

    Args:
        text: such as "male 45yrs", "Female24yr", "female, 28 yrs" or "male 6 months". The reading
            itself may follow on the next lines.

    Example:
        >>> parse_demographics("Female24yr").sentence
        '24-year-old female'
        >>> parse_demographics("male 6 months").years
        0.5
        >>> parse_demographics("left PTB") == Demographics(None, None)
        True
    """
    sex_match = _SEX.search(text)
    sex: Sex | None = None
    if sex_match:
        sex = "female" if sex_match["female"] else "male"
    match = _AGE.search(text)
    if match:
        age, unit = float(match["age"]), _UNITS[match["unit"][0].lower()]
    else:
        # Without a unit, only a number directly after the sex is safe to read as an age.
        bare = _BARE_AGE.search(text)
        if bare is None:
            return Demographics(sex, None)
        age, unit = float(bare["age"]), "year"
    return Demographics(sex, age, unit) if age / _PER_YEAR[unit] <= 120 else Demographics(sex, None)


def read(folder: str | Path, masks: str | Path | None = None) -> Collection:
    """Returns the X-rays of a folder in either of the two layouts, ordered by name.

    Args:
        folder: the small copy (with `labels.csv`), or the unpacked published archive.
        masks: the folder of the published masks, if it is not the subfolder `mask`. The masks are a
            separate download.

    Raises:
        ValueError: if the folder is absent, has neither layout, or lacks a file of its layout.
    """
    place = existing_folder(folder, "folder")
    if (place / "labels.csv").is_file():
        return read_copy(place)
    # The published archive unpacks into a folder of its own; both levels are accepted.
    for root in (place, place / "ChinaSet_AllFiles"):
        if (root / "CXR_png").is_dir():
            return read_published(root, masks)
    raise ValueError(
        f"folder must be one with labels.csv or with CXR_png/, got {str(folder)!r}. "
        "Name the folder that holds them."
    )


def read_published(folder: Path, masks: str | Path | None = None) -> Collection:
    """Returns the X-rays of the published archive.

    Args:
        folder: the folder that holds `CXR_png` (the X-rays) and `ClinicalReadings` (sex and age).
        masks: the folder of the masks. None takes `mask` inside the folder, which may be absent.

    Raises:
        ValueError: if there is no X-ray, or the name of one does not tell its label.
    """
    mask_folder = folder / "mask" if masks is None else existing_folder(masks, "masks")
    cases, unparsed = [], []
    for image in sorted((folder / "CXR_png").glob("*.png")):
        reading = folder / "ClinicalReadings" / f"{image.stem}.txt"
        # A wrong byte in a reading must not hide sex and age.
        text = reading.read_text(encoding="utf-8", errors="replace") if reading.is_file() else ""
        patient = parse_demographics(text)
        if patient.sex is None or patient.age is None:
            unparsed.append(image.stem)
        mask = mask_folder / f"{image.stem}_mask.png"
        cases.append(
            Case(image.stem, image, mask if mask.is_file() else None, _label(image.stem), patient)
        )
    if not cases:
        raise ValueError(
            f"folder must be one with X-rays in CXR_png/, got none in {str(folder)!r}. "
            "Unpack the archive."
        )
    return Collection(tuple(cases), tuple(unparsed))


def read_copy(folder: Path) -> Collection:
    """Returns the X-rays of the small copy, described by its `labels.csv` (ages in years).

    Args:
        folder: the folder that holds `labels.csv`.

    Raises:
        ValueError: if a column or an X-ray is missing, or if a label contradicts the digit at the
            end of the X-ray's name.
    """
    table = pd.read_csv(folder / "labels.csv", dtype=str, keep_default_na=False)
    wanted = ["image", "mask", "tuberculosis", "sex", "age"]
    absent = [column for column in wanted if column not in table.columns]
    if absent:
        raise ValueError(
            f"labels.csv must be a table with the columns {wanted}, got none of {absent}. Add them."
        )
    cases, unparsed = [], []
    # The numbers start at 2, because line 1 of the file is the header.
    for number, (image, mask, sick, sex, age) in enumerate(
        table[wanted].itertuples(index=False, name=None), start=2
    ):
        path, uid = folder / image, Path(image).stem
        if not path.is_file():
            raise ValueError(
                f"image must be a file, got {image!r} in row {number} of labels.csv. Restore it."
            )
        if LABELS.index(_label(uid)) != int(sick == "1"):
            raise ValueError(
                f"tuberculosis must be what the name says, got {sick!r} for {uid!r} in row "
                f"{number}. Fix it."
            )
        # The copy has separate columns. The same parser keeps both layouts consistent.
        patient = parse_demographics(f"{sex} {age}yrs")
        if patient.sex is None or patient.age is None:
            unparsed.append(uid)
        cases.append(Case(uid, path, folder / mask if mask else None, _label(uid), patient))
    return Collection(tuple(cases), tuple(unparsed))


def _label(uid: str) -> str:
    """Returns the label that the last digit of an X-ray's name stands for."""
    match = _NAME.match(uid)
    if match is None:
        raise ValueError(
            f"image must be named like CHNCXR_0001_0, got {uid!r}. The last digit tells the label."
        )
    return LABELS[int(match["label"])]


def manifest(cases: tuple[Case, ...], text: str = "sex-age") -> pd.DataFrame:
    """Returns the study's table, one row per X-ray.

    Its columns are image, mask, text, label, group (= uid), uid, sex and age (years).

    Args:
        cases: the X-rays.
        text: "sex-age", the only allowed text. "reading" is refused, because it states the label.

    Raises:
        ValueError: if the text is another one.
    """
    # Refused with its own message, because this mistake would make a study worthless.
    if text == "reading":
        raise ValueError(
            "text must be 'sex-age', got 'reading'. The reading is the diagnosis: "
            "a classifier that sees it is given the answer, so it is not offered as a text."
        )
    choose(text, ("sex-age",), "text")
    return pd.DataFrame(
        {
            "image": case.image.resolve().as_posix(),
            "mask": None if case.mask is None else case.mask.resolve().as_posix(),
            "text": case.patient.sentence,
            "label": case.label,
            "group": case.uid,
            "uid": case.uid,
            "sex": case.patient.sex,
            "age": case.patient.years,
        }
        for case in cases
    )


def main(
    folder: Annotated[
        Path, typer.Argument(help="The unpacked archive, or a small copy with labels.csv.")
    ],
    output: Annotated[Path, typer.Option(help="The manifest to write, .csv or .jsonl.")] = Path(
        "shenzhen.csv"
    ),
    masks: Annotated[
        Path | None, typer.Option(help="Folder with the lung masks, if elsewhere.")
    ] = None,
    text: Annotated[
        str, typer.Option(help="sex-age; the reading is the diagnosis and is refused.")
    ] = "sex-age",
) -> None:
    """Write the manifest of the Shenzhen X-rays."""
    console = Console()
    try:
        collection = read(folder, masks)
        path = write_manifest(manifest(collection.cases, text), output)
    except ValueError as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    for label, count in sorted(Counter(case.label for case in collection.cases).items()):
        console.print(f"{count:>6,}  X-rays of class {label}")
    console.print(
        f"{sum(case.mask is not None for case in collection.cases):>6,}  with a lung mask"
    )
    if collection.unparsed:
        console.print(
            f"{len(collection.unparsed):>6,}  whose sex or age could not be read: "
            f"{some(collection.unparsed)}"
        )
    console.print(f"{len(collection.cases):>6,}  rows written to {path}")


if __name__ == "__main__":
    typer.run(main)
