"""The study's table of CNNs, rebuilt: accuracy by epoch on raw and on segmented X-rays, the same samples, the same folds.

    python examples/lung_disease/architectures.py --dataset shenzhen --images DIR
    python examples/lung_disease/architectures.py --dataset openi --images DIR --pretrained
    --image-size 224 --bf16

Five CNNs as published, EfficientNet-Lite0, whose ImageNet weights lie in a package, and a ViT,
whose attention is drawn over the X-rays. Each is trained as a whole for five epochs on each fold;
no epoch is chosen, the last one is compared. A run that was stopped goes on where it was.
Everything lands in runs/lung_disease/<dataset>-architectures/.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

# Keras, which segments, may load tensorflow, whose log would drown this one.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import datasets
import numpy as np
import typer
from architectures_report import draw_accuracies, draw_attention, write_table
from encoders import image_encoder
from manifests import choose, kept
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
    ImageEncoder,
    bootstrap_interval,
    fit,
    predict,
    training_arguments,
)
from mmfusion.data.splits import fold_indices


@dataclass(frozen=True)
class Architecture:
    """A row of the table.

    Attributes:
        title: its name in the table.
        timm: its name in timm.
        published: "segmented" and "raw" -> the published validation accuracy of each epoch; empty
            where there is none.
        change: the published gain by segmenting, best epoch against best epoch, in points; None
            where there is none.
    """

    title: str
    timm: str
    published: dict[str, tuple[float, ...]]
    change: float | None = None


def _published(segmented: str, raw: str) -> dict[str, tuple[float, ...]]:
    return {
        "segmented": tuple(map(float, segmented.split())),
        "raw": tuple(map(float, raw.split())),
    }


ARCHITECTURES = {
    row.timm: row
    for row in (
        Architecture(
            "DenseNet121",
            "densenet121",
            _published(".6569 .5882 .4118 .7059 .4902", ".5000 .4706 .5441 .3235 .6618"),
            4.4,
        ),
        Architecture(
            "DenseNet169",
            "densenet169",
            _published(".5000 .5000 .5000 .5000 .5000", ".2059 .4559 .4559 .4559 .5000"),
            0,
        ),
        Architecture(
            "DenseNet201",
            "densenet201",
            _published(".4020 .6471 .5000 .5000 .5000", ".5000 .5000 .5000 .5147 .5000"),
            13.2,
        ),
        Architecture(
            "VGG19",
            "vgg19",
            _published(".5000 .5000 .6765 .5000 .5000", ".2647 .5000 .5000 .5000 .5000"),
            17.6,
        ),
        Architecture(
            "NASNetLarge",
            "nasnetalarge",
            _published(".6961 .8431 .5686 .4706 .7941", ".2059 .6618 .5000 .5000 .5000"),
            18.1,
        ),
        Architecture("EfficientNet-Lite0", "tf_efficientnet_lite0", {}),
        Architecture("ViT-Ti/16", "vit_tiny_patch16_224", {}),
        Architecture("ViT-B/16", "vit_base_patch16_224", {}),
    )
}
"""timm's name -> the row."""

DEFAULT = [name for name in ARCHITECTURES if name != "vit_base_patch16_224"]
_PATCHES_ACROSS = 14
"""What a ViT of 224 pixels has; a smaller picture gets smaller patches, at least 8 across."""


@dataclass(frozen=True)
class Settings:
    """How the rows are trained; a change of any of them is another run.

    Attributes:
        image_size: side of the square that the models see, in pixels.
        pretrained: whether timm fetches ImageNet weights; EfficientNet-Lite0 has them anyway.
        folds: test folds, at least 2.
        epochs: passes over the training folds.
        batch_size: samples per step.
        learning_rate: of AdamW; a tenth of the steps warms up, then it falls along a cosine.
        weight_decay: of AdamW.
        bf16: whether to train in bfloat16 (autocast).
        seed: of weights, order and folds.
    """

    image_size: int = 224
    pretrained: bool = False
    folds: int = 5
    epochs: int = 5
    batch_size: int = 16
    learning_rate: float = 3e-4
    weight_decay: float = 0.05
    bf16: bool = False
    seed: int = 0


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
        bool, typer.Option(help="Fetch timm's ImageNet weights (network).")
    ] = Settings.pretrained,
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
    """Train every architecture on raw and on segmented X-rays, and write results.json, report.md and the plots."""
    console = Console()
    settings = Settings(
        image_size, pretrained, n_folds, epochs, batch_size, learning_rate, bf16=bf16, seed=seed
    )
    try:
        rows = [
            ARCHITECTURES[choose(name, list(ARCHITECTURES), "--model")]
            for name in dict.fromkeys(model or DEFAULT)
        ]
        ways = [
            "none",
            *(choose(way, WAYS[1:], "--segment") for way in dict.fromkeys(segment or ["mask"])),
        ]
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
    """Train the rows on every fold, and write what came out."""
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    started = time.perf_counter()
    # The pictures are the same under every text protocol.
    samples = next(iter(data.protocols.values())).select_columns(["image", "label", "group"])
    samples = samples.select([i for i, path in enumerate(samples["image"]) if path is not None])
    pictures = {}
    for way in ways:
        pictures[way], notes = segmented(samples, way, folder / "lungs")
        data.notes.extend(note for note in notes if note not in data.notes)
    for note in data.notes:
        console.print(note, highlight=False)
    table = _rows(console, rows, pictures, settings, folder)
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
    """One entry per architecture and way, in the table's order."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    raw = pictures["none"]
    # Shenzhen's texts, sex and age, tell no patients apart, and no row reads any: patients alone
    # stay together.
    parts = list(fold_indices(raw, n=settings.folds, seed=settings.seed, text=None))
    labels, groups = np.asarray(raw["label"]), list(raw["group"])
    table = []
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(rows) * len(pictures) * len(parts))
        for row in rows:
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
    rows = [[int(i) for i in indices] for indices in parts[number]]
    described = json.dumps([asdict(settings), rows, list(samples["image"]), list(samples["label"])])
    name = f"{row.timm}-{way}-{number}-{hashlib.sha256(described.encode()).hexdigest()[:16]}"
    train, test = (samples.select(indices) for indices in rows)
    return kept(
        folder / "folds" / f"{name}.json",
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
    """What one training comes to: the logits of the test fold after the last epoch, and its accuracy after each."""
    set_seed(settings.seed)
    encoder = _encoder(row, settings)
    model = FusionClassifier(image_encoder=encoder, num_labels=train.features["label"].num_classes)
    size = settings.image_size
    processor = FusionProcessor(input_spec=encoder.input_spec | {"size": [size, size]})
    arguments = training_arguments(
        folder / "scratch",
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=0.1,
        lr_scheduler_type="cosine",
        # The test fold is watched, as in the published table; no epoch may be chosen by it.
        metric_for_best_model=None,
        save_strategy="no",
        seed=settings.seed,
        bf16=settings.bf16,
        disable_tqdm=True,
    )
    result = fit(model, processor, train, test, arguments=arguments)
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


def _encoder(row: Architecture, settings: Settings) -> ImageEncoder:
    if row.timm == "tf_efficientnet_lite0":
        return image_encoder("small")
    options: dict[str, Any] = {}
    if row.timm.startswith("vit"):
        options["img_size"] = settings.image_size
        if not settings.pretrained:
            options["patch_size"] = _patch(settings)
    return ImageEncoder(row.timm, pretrained=settings.pretrained, **options)


def _patch(settings: Settings) -> int:
    """The side of a ViT's patches, in pixels: 16 for a picture of 224; smaller for a smaller one, which has at least 8 across."""
    return (
        16
        if settings.pretrained
        else settings.image_size // max(8, min(_PATCHES_ACROSS, settings.image_size // 8))
    )


def _title(row: Architecture, settings: Settings) -> str:
    return (
        row.title.replace("/16", f"/{_patch(settings)}")
        if row.timm.startswith("vit")
        else row.title
    )


def _weights(row: Architecture, settings: Settings) -> str:
    return (
        "ImageNet"
        if settings.pretrained or row.timm == "tf_efficientnet_lite0"
        else "from random weights"
    )


def _pooled(
    done: list[dict[str, Any]], parts: list[tuple[Any, Any]], count: int
) -> np.ndarray[Any, Any]:
    """The logits of all samples [B, C], each from the fold in which it was tested."""
    logits = np.zeros((count, len(done[0]["logits"][0])))
    for found, (_, test) in zip(done, parts, strict=True):
        logits[test] = found["logits"]
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
    sizes = [len(test) for _, test in parts]
    entry: dict[str, Any] = {
        "model": _title(row, settings),
        "weights": _weights(row, settings),
        "segment": way,
        "samples": len(labels),
        "accuracy_by_epoch": np.average(
            [found["accuracy_by_epoch"] for found in done], axis=0, weights=sizes
        ).tolist(),
        "accuracy_by_epoch_and_fold": [found["accuracy_by_epoch"] for found in done],
        "seconds_per_epoch": float(np.mean([found["seconds_per_epoch"] for found in done])),
        "parameters_trained": done[0]["parameters_trained"],
        "published_accuracy_by_epoch": row.published.get("raw" if way == "none" else "segmented"),
        "published_change_points": row.change,
    }
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
