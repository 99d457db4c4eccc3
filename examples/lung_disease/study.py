"""The lung-disease study: does fusing an X-ray with its text help, by how much, and how surely?

Without arguments (`make study`) it runs offline on the real Open-i reports with synthetic pictures,
under both text protocols, with small pretrained encoders that are frozen and whose features are
cached. These commands use other data and the published encoders:

    python examples/lung_disease/study.py --dataset openi --images DIR --preset published
    python examples/lung_disease/study.py --dataset shenzhen --images DIR
    python examples/lung_disease/study.py --dataset covid --images DIR --train all --epochs 5
    python examples/lung_disease/study.py --dataset shenzhen --images DIR --segment none --segment
    mask --segment crop

A stopped study continues at the first fold that is missing. All output is written to
runs/lung_disease/<dataset>/.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

# Set before transformers is imported. They avoid warnings about forks and general advice, which
# would hide the output of the study.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
# The segmenter uses Keras, which may load tensorflow. This hides its long log.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import datasets
import typer
from encoders import image_encoder, text_encoder
from manifests import choose
from paired import METRICS, add_holm, minus_raw
from provenance import typed_command, versions
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from segmenting import WAYS, segmented
from study_data import StudyData, load
from study_report import (
    Results,
    answers_of,
    draw_confusion,
    draw_curves,
    figures,
    summarise,
    write_report,
)
from study_rows import Part, Row, Runner, Settings, parts_of, table_rows
from transformers.utils import logging

TRAINS = ("frozen", "all", "lora")
"""The parts of the encoders that `--train` may train."""

PHANTOM_EPOCHS = 4
"""The most epochs of the run without arguments, which must end within ten minutes on two cores."""

# The long options have names of their own, so that the signature of `main` stays readable.
Images = Annotated[Path | None, typer.Option(help="Folder of the X-rays (all but the phantom).")]
Preset = Annotated[str, typer.Option(help="small (offline) or published (ViT-B/16 + BERT-base).")]
Segment = Annotated[
    list[str] | None,
    typer.Option(
        help="none, mask or crop: what is done to the X-rays; give several to compare them."
    ),
]
Train = Annotated[str, typer.Option(help="frozen, all or lora: what of the encoders trains.")]
Seeds = Annotated[
    int, typer.Option(min=1, help="How often each row is trained; probabilities are averaged.")
]
RowFilter = Annotated[
    str, typer.Option(help="Only rows whose name contains this, e.g. 'text only'.")
]
ImageName = Annotated[str | None, typer.Option(help="Another image encoder: hub name or folder.")]
TextName = Annotated[str | None, typer.Option(help="Another text encoder: hub name or folder.")]
Limit = Annotated[int | None, typer.Option(min=20, help="Only so many samples, to try things out.")]
DataSeed = Annotated[int, typer.Option(help="Chooses the cohort, the folds and the phantom.")]


def main(
    dataset: Annotated[str, typer.Option(help="phantom, openi, shenzhen or covid.")] = "phantom",
    images: Images = None,
    preset: Preset = "small",
    segment: Segment = None,
    train: Train = "frozen",
    folds: Annotated[int, typer.Option(min=2)] = 3,
    epochs: Annotated[int | None, typer.Option(min=1, help="Default: by --train.")] = None,
    seeds: Seeds = 1,
    rows: RowFilter = "",
    protocol: Annotated[str, typer.Option(help="Only this text protocol.")] = "",
    learning_rate: Annotated[float | None, typer.Option(help="Default: by --train.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    bf16: Annotated[bool, typer.Option(help="Train in bfloat16 (autocast).")] = False,
    image_name: ImageName = None,
    text_name: TextName = None,
    output: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/lung_disease"),
    limit: Limit = None,
    data_seed: DataSeed = 0,
) -> None:
    """Run the study and write results.json, report.md and the plots."""
    console = Console()
    try:
        if train not in TRAINS:
            raise ValueError(f"--train must be one of {list(TRAINS)}, got {train!r}.")
        ways = [choose(way, WAYS, "--segment") for way in dict.fromkeys(segment or ["none"])]
        settings = Settings(
            preset=preset,
            train=train,
            folds=folds,
            epochs=epochs
            or (PHANTOM_EPOCHS if (dataset, train) == ("phantom", "frozen") else None),
            seeds=tuple(range(seeds)),
            batch_size=batch_size,
            learning_rate=learning_rate,
            # Only the first 64 tokens, so that the run ends within ten minutes. The median of the
            # findings has 40 tokens.
            max_length=64 if (preset, train) == ("small", "frozen") else None,
            bf16=bf16,
            image_encoder=image_name,
            text_encoder=text_name,
        )
        folder = output / dataset
        folder.mkdir(parents=True, exist_ok=True)
        data = load(dataset, images, folder, seed=data_seed, limit=limit)
        run(console, data, settings, folder, ways, rows, protocol, data_seed)
    except ValueError as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error


def run(
    console: Console,
    data: StudyData,
    settings: Settings,
    folder: Path,
    ways: list[str],
    only_rows: str,
    only_protocol: str,
    data_seed: int,
) -> None:
    """Trains every row on every fold, and writes the results, the report and the plots."""
    # The bars and messages of the libraries would hide the progress bar of the study.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    for note in data.notes:
        console.print(note, highlight=False)
    # Printed before the figures, so that nobody takes them for results on X-rays.
    if data.synthetic_images:
        console.print(
            "The pictures are synthetic: figures of rows with images say nothing about real "
            "X-rays.",
            style="bold",
        )
    started = time.perf_counter()
    make = _encoder_makers(settings)
    table: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    for name in data.protocols:
        if only_protocol in name:
            rows, comparison = _run_protocol(
                console, data, name, settings, make, folder, ways, only_rows, data_seed
            )
            table += rows
            comparisons += comparison
    written = {
        "dataset": data.name,
        "synthetic_images": data.synthetic_images,
        "command": typed_command(("--images", "--output")),
        "settings": asdict(settings) | {"data_seed": data_seed, "segment": ways},
        "cohort": data.notes,
        "versions": versions("mmfusion", "torch", "transformers", "timm", "scikit-learn", "numpy"),
        "minutes": round((time.perf_counter() - started) / 60, 2),
        "comparisons": comparisons,
        "rows": table,
    }
    write_report(folder, data, written)
    _print(console, table, data)
    console.print(
        f"Written to {folder}/results.json, report.md and PNG in {written['minutes']} minutes.",
        highlight=False,
    )


def _run_protocol(
    console: Console,
    data: StudyData,
    name: str,
    settings: Settings,
    make: tuple[Callable[[], Any], Callable[[], Any]],
    folder: Path,
    ways: list[str],
    only_rows: str,
    data_seed: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the table's rows and the comparisons of one text protocol, way by way."""
    samples = data.protocols[name]
    # All rows and all ways share the folds, so that their differences are paired.
    parts = parts_of(samples, settings.folds, data.texts_identify, data_seed)
    wanted = [row for row in table_rows(_is_published(data, name)) if only_rows in row.model]
    if not wanted:
        raise ValueError(
            f"--rows must be part of a row's name, got {only_rows!r}. "
            f"Rows: {[r.model for r in table_rows(False)]}"
        )
    done: dict[str, Results] = {}
    for way in ways:
        pictures, notes = segmented(samples, way, folder / "lungs")
        data.notes.extend(note for note in notes if note not in data.notes)
        runner = Runner(pictures, parts, settings, *make, folder / name.replace(" ", "-"))
        # Rows without pictures are trained once: segmenting does not change them.
        texts = {
            row: outcome
            for row, outcome in next(iter(done.values()), {}).items()
            if row.modality == "text"
        }
        trained = _run_rows(
            console,
            runner,
            [row for row in wanted if row not in texts],
            f"{data.name}, {name}, {way}",
        )
        done[way] = {row: texts.get(row) or trained[row] for row in wanted}
    table: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    for way in ways:
        rows, comparison = _judged(folder, name, way, done, parts, samples, data)
        table += rows
        comparisons += comparison
    return table, comparisons


def _judged(
    folder: Path,
    protocol: str,
    way: str,
    done: dict[str, Results],
    parts: list[Part],
    samples: Any,
    data: StudyData,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the table's rows of one protocol and one way, and their comparison.

    There is no comparison, and no plot is drawn, if the user asked for some rows only.
    """
    answers, results = answers_of(samples), done[way]
    comparisons = []
    # The choice of the best fused and single model needs all rows.
    if len(results) == len(table_rows(False)):
        rows, comparison = summarise(protocol, way, results, parts, answers)
        comparisons.append(comparison)
        draw_curves(folder, protocol, way, results, data)
        draw_confusion(
            folder,
            protocol,
            way,
            results,
            parts,
            answers.labels,
            samples.features["label"].names,
            data,
        )
    else:
        rows = [figures(protocol, way, row, outcome, answers) for row, outcome in results.items()]
    # Segmented pictures are compared with raw ones only if the raw ones were asked for, too.
    if way != "none" and "none" in done:
        for one, (row, outcome) in zip(rows, results.items(), strict=True):
            if row.modality != "text":
                here, raw = (
                    dict.fromkeys(METRICS, compared.logits)
                    for compared in (outcome, done["none"][row])
                )
                one |= minus_raw(here, raw, answers.labels, answers.groups)
        add_holm(rows)
    return rows, comparisons


def _run_rows(console: Console, runner: Runner, rows: list[Row], title: str) -> Results:
    """Returns the outcome of each row, and shows a progress bar while they are trained."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    results: Results = {}
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(
            title, total=len(rows) * len(runner.parts) * len(runner.settings.seeds)
        )
        for row in rows:
            progress.update(task, description=f"{title}: {row.model}")
            results[row] = runner.run(row, lambda: progress.advance(task))
    return results


def _encoder_makers(settings: Settings) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Returns two functions that make the image encoder and the text encoder of a row.

    Frozen encoders are the same for every row. Encoders that train are new for every row.
    """

    def image() -> Any:
        return image_encoder(settings.preset, settings.image_encoder)

    def text() -> Any:
        return text_encoder(settings.preset, settings.text_encoder)

    if settings.train == "frozen":
        frozen_image, frozen_text = image().freeze(), text().freeze()
        return (lambda: frozen_image), (lambda: frozen_text)
    # LoRA trains adapters inside the encoder, so each row needs a new encoder.
    if settings.train == "lora":
        return (lambda: image().add_lora()), (lambda: text().add_lora())
    return image, text


def _is_published(data: StudyData, protocol: str) -> bool:
    """Returns whether the published study used these reports under this protocol."""
    return data.name in ("phantom", "openi") and protocol == "published"


def _print(console: Console, rows: list[dict[str, Any]], data: StudyData) -> None:
    """Prints one table for each protocol and way."""
    for protocol, way in dict.fromkeys((row["protocol"], row["segment"]) for row in rows):
        title = f"{data.name}, {protocol}, segment: {way}" + (
            " (synthetic pictures)" if data.synthetic_images else ""
        )
        table = Table("model", "accuracy", "AUROC", "minus best single", "published", title=title)
        for row in rows:
            if (row["protocol"], row["segment"]) == (protocol, way):
                difference = ""
                if "auroc_minus_single" in row:
                    low, high = row["auroc_minus_single_low"], row["auroc_minus_single_high"]
                    difference = f"{row['auroc_minus_single']:+.3f} ({low:+.3f} to {high:+.3f})"
                published = (
                    "" if row["published_accuracy"] is None else f"{row['published_accuracy']:.2f}"
                )
                table.add_row(
                    row["model"],
                    f"{row['accuracy']:.3f} ({row['accuracy_low']:.3f} to "
                    f"{row['accuracy_high']:.3f})",
                    f"{row['auroc']:.3f} ({row['auroc_low']:.3f} to {row['auroc_high']:.3f})",
                    difference,
                    published,
                )
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
