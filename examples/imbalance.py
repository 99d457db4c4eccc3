"""What do balanced class weights change? HAM10000, seven classes of lesions, two thirds nevi.

    python examples/imbalance.py DIR

Each row is trained twice on the same folds and seeds: with every sample weighed alike, and with
`class_weights="balanced"`. The differences are paired by sample and training. DIR and the encoders
are those of `examples/skin_lesions.py`. The results are written to runs/imbalance/results.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from skin_lesions import (
    TEMPLATE,
    Folder,
    ImageName,
    ImageWeights,
    TextName,
    manifest_of,
)
from transformers.utils import logging

from mmfusion import ImageEncoder, TextEncoder, compare, load_manifest, paired_bootstrap
from mmfusion.metrics.functional import METRICS
from mmfusion.training.compare import Comparison
from mmfusion.training.stored import finite, write_json

LOSSES: dict[str, dict[str, Any]] = {"plain": {}, "balanced": {"class_weights": "balanced"}}
"""Name -> options of `compare`."""
ROWS = ("image", "text", "concat", "guarded")


def differences(balanced: Comparison, plain: Comparison, *, resamples: int) -> dict[str, Any]:
    """Returns row -> metric -> balanced minus plain, with interval and p-value.

    Args:
        balanced: the comparison with weights.
        plain: that of the same samples, folds and seeds without.
        resamples: of the bootstrap.
    """
    answers = {"balanced": balanced.answers, "plain": plain.answers}
    told: dict[str, Any] = {}
    for row in plain.results["rows"]:
        name, told[row["name"]] = row["name"], {}
        for metric, entry in METRICS.items():
            scores: list[list[np.ndarray[Any, Any]]] = []
            for one in answers.values():
                logits = one.logits(name)
                takes = entry.takes_probabilities
                scores.append([one.probabilities(a) for a in logits] if takes else logits)
            difference = paired_bootstrap(
                entry.function,
                scores[0],
                scores[1],
                plain.answers.labels,
                groups=plain.answers.groups,
                resamples=resamples,
            )
            told[name][metric] = vars(difference)
    return told


def table_of(results: dict[str, Any]) -> Table:
    """Returns the results as a table for the terminal.

    Args:
        results: the content of results.json.
    """
    table = Table("model", "loss", "accuracy", "balanced accuracy", "AUROC", "ECE")
    for name, rows in results["rows"].items():
        for loss, row in rows.items():
            metrics = ("accuracy", "balanced_accuracy", "auroc", "ece")
            table.add_row(name, loss, *(f"{row[metric]['estimate']:.3f}" for metric in metrics))
    return table


def run(
    folder: Path,
    output: Path,
    encoders: Sequence[Any],
    *,
    rows: Sequence[str],
    folds: int,
    seeds: int,
    resamples: int,
) -> dict[str, Any]:
    """Returns the results, as they are written to results.json.

    Args:
        folder: of the data set.
        output: the folder for both comparisons.
        encoders: the image encoder and the text encoder.
        rows: as for `compare`.
        folds: test folds.
        seeds: how often the samples are divided.
        resamples: of the bootstrap.
    """
    manifest = manifest_of(folder, output / "manifest.csv")
    samples = load_manifest(manifest, text=None, root=folder, template=TEMPLATE)
    image, text = encoders
    found = {
        name: compare(
            samples,
            output / name,
            image_encoder=image,
            text_encoder=text,
            rows=list(rows),
            folds=folds,
            seeds=seeds,
            cache=output / "cache",
            resamples=resamples,
            title=f"HAM10000: {name}",
            notes=["Divided by lesion."],
            **options,
        )
        for name, options in LOSSES.items()
    }
    tables = {
        name: {row["name"]: row for row in one.results["rows"]} for name, one in found.items()
    }
    plain = found["plain"]
    return {
        "title": "HAM10000 with and without balanced class weights",
        "command": f"python examples/imbalance.py DIR {' '.join(f'--rows {row}' for row in rows)}",
        "notes": plain.results["notes"],
        "settings": plain.results["settings"] | {"losses": LOSSES},
        "versions": plain.results["versions"],
        "rows": {
            name: {loss: table[name] for loss, table in tables.items()} for name in tables["plain"]
        },
        "balanced_minus_plain": differences(found["balanced"], plain, resamples=resamples),
    }


def main(
    folder: Folder,
    image_encoder: ImageName = "tf_efficientnet_lite0",
    text_encoder: TextName = "sentence-transformers/all-MiniLM-L6-v2",
    image_weights: ImageWeights = None,
    rows: Annotated[
        list[str] | None, typer.Option(help="As for `mmfusion compare`; default: four.")
    ] = None,
    folds: Annotated[int, typer.Option(min=2)] = 3,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    resamples: Annotated[int, typer.Option(min=1, help="Of the bootstrap.")] = 2000,
    output: Annotated[Path, typer.Option(help="Where the results are written.")] = Path(
        "runs/imbalance"
    ),
) -> None:
    """Train every row with and without balanced class weights, and write the results."""
    console = Console()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        image = ImageEncoder(image_encoder, weights=image_weights).freeze()
        encoders = (image, TextEncoder(text_encoder).freeze())
        results = finite(
            run(
                folder,
                output,
                encoders,
                rows=rows or ROWS,
                folds=folds,
                seeds=seeds,
                resamples=resamples,
            )
        )
    except (ValueError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    write_json(output / "results.json", results)
    console.print(table_of(results))
    console.print(f"Written to {output / 'results.json'}.")


if __name__ == "__main__":
    typer.run(main)
