"""The study's table of architectures: accuracy by epoch on raw and on segmented X-rays.

    python examples/lung_disease/architectures.py --dataset shenzhen --images DIR
    python examples/lung_disease/architectures.py --dataset openi --images DIR --pretrained
    --image-size 224 --bf16

The table has the five published CNNs, EfficientNet-Lite0, whose ImageNet weights come from a
package, and a ViT, whose attention is drawn over the X-rays. With `--source keras`, the published
CNNs are those of keras.applications, as in the study. Keras must run on torch then: set
KERAS_BACKEND=torch. Each model is trained as a whole for five epochs on each fold. Raw and
segmented X-rays share the samples and the folds. The comparison uses the last epoch, because a
choice of the best epoch on the test fold would be biased.

A stopped run continues at the first fold that is missing. All output is written to
runs/lung_disease/<dataset>-architectures/.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

# The segmenter uses Keras, which may load tensorflow. This hides its long log.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import datasets
import numpy as np
import typer
from architectures_report import draw_accuracies, draw_attention, write_table
from architectures_rows import (
    ARCHITECTURES,
    DEFAULT,
    Architecture,
    Settings,
    encoder_of,
    title_of,
    weights_of,
)
from manifests import choose
from paired import METRICS, add_holm, minus_raw, ranked_within
from provenance import typed_command, versions
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from segmenting import WAYS, segmented
from study_data import StudyData, load
from transformers import set_seed
from transformers.utils import logging

from mmfusion import (
    FusionClassifier,
    FusionProcessor,
    bootstrap_interval,
    fit,
    predict,
    training_arguments,
)
from mmfusion.data.splits import fold_indices
from mmfusion.training.stored import kept


def main(
    images: Annotated[Path, typer.Option(help="Folder of the X-rays.")],
    dataset: Annotated[str, typer.Option(help="shenzhen, covid or openi.")] = "shenzhen",
    model: Annotated[
        list[str] | None,
        typer.Option(help="Only this row, by timm's name; may be given several times."),
    ] = None,
    segment: Annotated[
        list[str] | None, typer.Option(help="What raw is compared with: mask, crop, or both.")
    ] = None,
    image_size: Annotated[int, typer.Option(min=32, help="Pixels.")] = Settings.image_size,
    pretrained: Annotated[
        bool, typer.Option(help="Fetch ImageNet weights (network).")
    ] = Settings.pretrained,
    source: Annotated[
        str, typer.Option(help="Where the five published CNNs come from: timm or keras (on torch).")
    ] = Settings.source,
    n_folds: Annotated[int, typer.Option("--folds", min=2)] = Settings.folds,
    epochs: Annotated[int, typer.Option(min=1)] = Settings.epochs,
    batch_size: Annotated[int, typer.Option(min=1)] = Settings.batch_size,
    learning_rate: Annotated[float, typer.Option()] = Settings.learning_rate,
    bf16: Annotated[bool, typer.Option(help="Train in bfloat16 (autocast).")] = Settings.bf16,
    seed: Annotated[int, typer.Option()] = Settings.seed,
    output: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/lung_disease"),
    limit: Annotated[
        int | None, typer.Option(min=20, help="Only so many samples, to try things out.")
    ] = None,
) -> None:
    """Train every architecture on raw and on segmented X-rays.

    Write results.json, report.md and the plots.
    """
    console = Console()
    settings = Settings(
        image_size, pretrained, n_folds, epochs, batch_size, learning_rate, bf16=bf16, seed=seed
    )
    try:
        settings = replace(settings, source=choose(source, ("timm", "keras"), "--source"))
        rows = [
            ARCHITECTURES[choose(name, list(ARCHITECTURES), "--model")]
            for name in dict.fromkeys(model or DEFAULT)
        ]
        ways = [
            "none",
            *(choose(way, WAYS[1:], "--segment") for way in dict.fromkeys(segment or ["mask"])),
        ]
        # The segmenter was trained on real X-rays; on drawings the comparison says nothing.
        if dataset == "phantom":
            raise ValueError(
                "--dataset must be one with X-rays, got 'phantom', whose pictures are synthetic."
            )
        folder = output / f"{dataset}-architectures"
        folder.mkdir(parents=True, exist_ok=True)
        data = load(dataset, images, folder, seed=seed, limit=limit)
        run(console, data, rows, ways, settings, folder)
    except ValueError as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error


def run(
    console: Console,
    data: StudyData,
    rows: list[Architecture],
    ways: list[str],
    settings: Settings,
    folder: Path,
) -> None:
    """Trains the rows on every fold, and writes the results, the report and the plots."""
    # The bars and messages of the libraries would hide the progress bar of the folds.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    started = time.perf_counter()
    # The pictures are the same under every text protocol, so the first protocol is enough.
    samples = next(iter(data.protocols.values())).select_columns(["image", "label", "group"])
    # A sample without a picture has no place in a table of image models.
    samples = samples.select([i for i, path in enumerate(samples["image"]) if path is not None])
    pictures = {}
    for way in ways:
        pictures[way], notes = segmented(samples, way, folder / "lungs")
        # Two ways share some notes.
        data.notes.extend(note for note in notes if note not in data.notes)
    for note in data.notes:
        console.print(note, highlight=False)
    table = _rows(console, rows, pictures, settings, folder)
    # The correction needs all p-values, so it comes after the last row.
    add_holm(table)
    written = {
        "dataset": data.name,
        "command": typed_command(("--images", "--output")),
        "settings": asdict(settings) | {"segment": ways},
        "cohort": data.notes,
        "versions": versions("mmfusion", "torch", "timm", "transformers", "keras", "statsmodels"),
        "minutes": round((time.perf_counter() - started) / 60, 2),
        "rows": table,
    }
    (folder / "results.json").write_text(json.dumps(written, indent=2), encoding="utf-8")
    write_table(folder, written)
    draw_accuracies(folder, written)
    console.print(
        f"Written to {folder}/results.json, report.md and PNG in {written['minutes']} minutes.",
        highlight=False,
    )


def _rows(
    console: Console,
    rows: list[Architecture],
    pictures: dict[str, datasets.Dataset],
    settings: Settings,
    folder: Path,
) -> list[dict[str, Any]]:
    """Returns one entry per architecture and way, in the table's order."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    raw = pictures["none"]
    # No model here reads a text, and many Shenzhen patients share the same sex and age. Therefore
    # only patients, and not equal texts, are kept in one fold.
    parts = list(fold_indices(raw, n=settings.folds, seed=settings.seed, text=None))
    labels, groups = np.asarray(raw["label"]), list(raw["group"])
    table = []
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(rows) * len(pictures) * len(parts))
        for row in rows:
            # Raw comes first in `pictures`, because the other ways are compared with it.
            logits: dict[str, np.ndarray[Any, Any]] = {}
            for way, samples in pictures.items():
                progress.update(task, description=f"{row.title}, pictures: {way}")
                done = []
                for number in range(len(parts)):
                    done.append(_kept_fold(row, way, samples, parts, number, settings, folder))
                    progress.advance(task)
                logits[way] = _pooled(done, parts, len(labels))
                table.append(_entry(row, way, done, logits, labels, groups, settings, parts))
    return table


def _kept_fold(
    row: Architecture,
    way: str,
    samples: datasets.Dataset,
    parts: list[tuple[Any, Any]],
    number: int,
    settings: Settings,
    folder: Path,
) -> dict[str, Any]:
    """Returns the outcome of one fold, from disk if it was trained before with these settings."""
    rows = [[int(i) for i in indices] for indices in parts[number]]
    # The hash covers everything that decides the outcome: a change of it gives another file name.
    described = json.dumps([asdict(settings), rows, list(samples["image"]), list(samples["label"])])
    name = f"{row.timm}-{way}-{number}-{hashlib.sha256(described.encode()).hexdigest()[:16]}"
    train, test = (samples.select(indices) for indices in rows)
    return kept(
        folder / "folds" / f"{name}.json",
        # The attention is drawn in one fold only, because one set of pictures is enough.
        lambda: _fold(
            row, train, test, settings, folder, f"attention-{name}" if number == 0 else None
        ),
    )


def _fold(
    row: Architecture,
    train: datasets.Dataset,
    test: datasets.Dataset,
    settings: Settings,
    folder: Path,
    draw_as: str | None,
) -> dict[str, Any]:
    """Returns the outcome of one training.

    It holds the logits of the test fold after the last epoch, the accuracy on the test fold after
    each epoch, the seconds per epoch and the number of trained parameters.
    """
    set_seed(settings.seed)
    encoder = encoder_of(row, settings)
    model = FusionClassifier(image_encoder=encoder, num_labels=train.features["label"].num_classes)
    # The encoder states its own size, which the settings replace. Nothing is cut off, because
    # findings may lie at the border of an X-ray.
    size = settings.image_size
    spec = encoder.input_spec | {"size": [size, size]}
    processor = FusionProcessor(input_spec=spec, fit="squash")
    arguments = training_arguments(
        folder / "scratch",
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=0.1,
        lr_scheduler_type="cosine",
        # The accuracy on the test fold is recorded after each epoch, as in the published table.
        # No checkpoint is chosen by it, because that would bias the comparison.
        metric_for_best_model=None,
        save_strategy="no",
        seed=settings.seed,
        bf16=settings.bf16,
        disable_tqdm=True,
    )
    # The published networks were trained without a warm start.
    result = fit(
        model,
        processor,
        train,
        test,
        arguments=arguments,
        warm_start=False,
        calibrate=False,
    )
    logits = predict(model, processor, test, arguments=arguments)
    if draw_as is not None and row.timm.startswith("vit"):
        draw_attention(folder, draw_as, encoder, processor, test)
    return {
        "logits": logits.tolist(),
        "accuracy_by_epoch": [
            entry["eval_accuracy"] for entry in result.history if "eval_accuracy" in entry
        ],
        "seconds_per_epoch": result.seconds_per_epoch,
        "parameters_trained": result.trained_parameters,
    }


def _pooled(
    done: list[dict[str, Any]], parts: list[tuple[Any, Any]], count: int
) -> np.ndarray[Any, Any]:
    """Returns the logits of all samples [B, C], each from the fold in which it was tested."""
    logits = np.zeros((count, len(done[0]["logits"][0])))
    for outcome, (_, test) in zip(done, parts, strict=True):
        logits[test] = outcome["logits"]
    return logits


def _entry(
    row: Architecture,
    way: str,
    done: list[dict[str, Any]],
    logits: dict[str, np.ndarray[Any, Any]],
    labels: np.ndarray[Any, Any],
    groups: list[str],
    settings: Settings,
    parts: list[tuple[Any, Any]],
) -> dict[str, Any]:
    """Returns the row of results.json for one architecture and one way."""
    # The folds may differ in size. The weights make each sample count the same.
    sizes = [len(test) for _, test in parts]
    entry: dict[str, Any] = {
        "model": title_of(row, settings),
        "weights": weights_of(row, settings),
        "segment": way,
        "samples": len(labels),
        "accuracy_by_epoch": np.average(
            [outcome["accuracy_by_epoch"] for outcome in done], axis=0, weights=sizes
        ).tolist(),
        "accuracy_by_epoch_and_fold": [outcome["accuracy_by_epoch"] for outcome in done],
        "seconds_per_epoch": float(np.mean([outcome["seconds_per_epoch"] for outcome in done])),
        "parameters_trained": done[0]["parameters_trained"],
        "published_accuracy_by_epoch": row.published.get("raw" if way == "none" else "segmented"),
        "published_change_points": row.change,
    }
    # Each fold has a model of its own with its own scale of logits. The AUROC over all folds is
    # therefore taken from ranks within each fold.
    scores = {
        name: {"accuracy": one, "auroc": ranked_within(one, [test for _, test in parts])}
        for name, one in logits.items()
    }
    for name, metric in METRICS.items():
        interval = bootstrap_interval(metric, scores[way][name], labels, groups=groups)
        entry |= {
            name: interval.estimate,
            f"{name}_low": interval.low,
            f"{name}_high": interval.high,
        }
    return (
        entry if way == "none" else entry | minus_raw(scores[way], scores["none"], labels, groups)
    )


if __name__ == "__main__":
    typer.run(main)
