"""Trains the study's two lung segmenters and says how well they do, on X-rays they have not seen.

Model 1 learns from Shenzhen and a second collection (Montgomery as published, or the COVID set),
model 2 from Shenzhen alone:

    python examples/lung_disease/segment.py --shenzhen DIR --montgomery DIR
    python examples/lung_disease/segment.py --shenzhen DIR --covid DIR --folds 5 --epochs 40
    python examples/lung_disease/segment.py --shenzhen DIR --ship src/mmfusion/segmentation/weights

Each model is cross-validated by patient; model 2 is besides trained on all of Shenzhen and measured
on the whole second collection, another hospital's. `--ship` writes the weights that `LungSegmenter`
loads, `--shipped` measures those it has. A run that was stopped goes on where it was. Everything
lands in runs/lung_disease/segment/: results.json, learning curves, example masks and the worst ten
as PNG.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import typer
from provenance import typed_command, versions
from rich.console import Console
from scipy.stats import bootstrap
from segment_data import (
    LungSample,
    Masks,
    Pixels,
    load_pairs,
    read_covid,
    read_montgomery,
    read_shenzhen,
)
from segment_report import draw_curves, draw_examples, draw_worst
from segment_training import Recipe, backend, predicted, ship, train
from sklearn.model_selection import GroupKFold

from mmfusion import LungSegmenter, dice, load_image
from mmfusion.segmentation.plausibility import two_largest

SIZE = 256
_FOLDERS = ("--shenzhen", "--montgomery", "--covid", "--output", "--ship")


app = typer.Typer(add_completion=False)


@app.command()
def main(
    shenzhen: Annotated[Path, typer.Option(help="Folder of the Shenzhen X-rays and masks.")],
    montgomery: Annotated[
        Path | None, typer.Option(help="Folder of the Montgomery X-rays and masks.")
    ] = None,
    covid: Annotated[
        Path | None, typer.Option(help="Folder of the COVID set and its masks.")
    ] = None,
    folds: Annotated[int, typer.Option(min=0, help="0 leaves cross-validation out.")] = 5,
    epochs: Annotated[int, typer.Option(min=1)] = Recipe.epochs,
    loss: Annotated[str, typer.Option(help="dice, bce_dice or focal.")] = Recipe.loss,
    augmentation: Annotated[
        float, typer.Option(help="0 to 1: less for X-rays like those of the training.")
    ] = Recipe.augmentation,
    negatives: Annotated[
        float, typer.Option(help="Share of training samples that are no X-rays.")
    ] = Recipe.negatives,
    width: Annotated[int, typer.Option(min=1)] = Recipe.width,
    patch_size: Annotated[int, typer.Option(min=1)] = Recipe.patch_size,
    batch_size: Annotated[int, typer.Option(min=1)] = Recipe.batch_size,
    learning_rate: Annotated[float, typer.Option()] = Recipe.learning_rate,
    seed: Annotated[int, typer.Option()] = Recipe.seed,
    bf16: Annotated[bool, typer.Option(help="Compute in bfloat16.")] = Recipe.bf16,
    output: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path(
        "runs/lung_disease/segment"
    ),
    ship_to: Annotated[
        Path | None, typer.Option("--ship", help="Write LungSegmenter's weights into this folder.")
    ] = None,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="Train nothing: measure LungSegmenter as it is.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=10, help="Only so many X-rays of each set, to try things out.")
    ] = None,
) -> None:
    """Train, cross-validate and draw."""
    console = Console()
    recipe = Recipe(
        epochs=epochs,
        loss=loss,
        augmentation=augmentation,
        negatives=negatives,
        width=width,
        patch_size=patch_size,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        bf16=bf16,
    )
    try:
        home = read_shenzhen(shenzhen)[:limit]
        second = read_montgomery(montgomery) if montgomery else read_covid(covid) if covid else []
        if shipped:
            measure_shipped(console, home + second[:limit], output)
        else:
            run(console, recipe, home, second[:limit], folds, output, ship_to)
    except ValueError as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error


def run(
    console: Console,
    recipe: Recipe,
    home: list[LungSample],
    second: list[LungSample],
    folds: int,
    output: Path,
    ship_to: Path | None,
) -> None:
    """Train the models and write what came out into `output`."""
    output.mkdir(parents=True, exist_ok=True)
    home_pairs = load_pairs(home, SIZE)
    results: dict[str, Any] = {
        "command": typed_command(_FOLDERS),
        "recipe": asdict(recipe),
        "versions": _versions(),
        "size": SIZE,
        "models": {},
    }
    models = {"model 2 (shenzhen)": (home, home_pairs)}
    if second:
        second_pairs = load_pairs(second, SIZE)
        both = tuple(np.concatenate(parts) for parts in zip(home_pairs, second_pairs, strict=True))
        models[f"model 1 (shenzhen + {second[0].source})"] = (home + second, (both[0], both[1]))
    drawn: dict[str, Pixels] = {}
    for name, (samples, pairs) in models.items() if folds else ():
        drawn[name], curves = cross_validate(
            console, recipe, samples, pairs, folds, output / _folder(name)
        )
        scores = dice_of(drawn[name], pairs[1])
        found = by_source(scores, samples)
        results["models"][name] = {"folds": folds, "cross_validated_dice": found}
        console.print(f"{name}, {folds} folds: {found}", highlight=False)
        draw_curves(output / f"{_folder(name)}-curves.png", name, curves)
        draw_worst(output / f"{_folder(name)}-worst.png", name, samples, pairs, drawn[name], scores)
    if len(drawn) == 2:
        draw_examples(
            output / "masks.png",
            home,
            home_pairs,
            {name: found[: len(home)] for name, found in drawn.items()},
        )
    if second or ship_to is not None:
        model, _ = train(recipe, home_pairs, None, output / "all-of-shenzhen")
    if second:
        away = masks_of(predicted(model, second_pairs[0]))
        scores = dice_of(away, second_pairs[1])
        title = f"model 2, trained on all of shenzhen, on {second[0].source}"
        there = summary(scores, second)
        results["another_hospital"] = {
            "trained_on": "shenzhen",
            "measured_on": second[0].source,
            "dice": there,
        }
        console.print(f"{title}: {there}", highlight=False)
        draw_worst(
            output / f"{second[0].source}-worst.png", title, second, second_pairs, away, scores
        )
    (output / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    if ship_to is not None:
        ship(model, recipe, home_pairs[0], ship_to)
        console.print(f"Weights written to {ship_to}.", highlight=False)
    console.print(f"Written to {output}/results.json and PNG.", highlight=False)


def cross_validate(
    console: Console,
    recipe: Recipe,
    samples: Sequence[LungSample],
    pairs: tuple[Pixels, Masks],
    folds: int,
    folder: Path,
) -> tuple[Pixels, list[dict[str, list[float]]]]:
    """Returns each X-ray's mask [B, H, W] from the fold in which it was not trained on, and the folds' curves."""
    pixels, masks = pairs
    drawn = np.zeros(pixels.shape[:3], np.float32)
    groups = [f"{sample.source} {sample.group}" for sample in samples]
    curves = []
    for number, (seen, unseen) in enumerate(
        GroupKFold(folds, shuffle=True, random_state=recipe.seed).split(groups, groups=groups)
    ):
        console.print(
            f"fold {number + 1} of {folds}: {len(seen)} X-rays to train, {len(unseen)} to test",
            highlight=False,
        )
        model, curve = train(
            replace(recipe, seed=recipe.seed + number),
            (pixels[seen], masks[seen]),
            (pixels[unseen], masks[unseen]),
            folder / f"fold{number}",
        )
        drawn[unseen] = masks_of(predicted(model, pixels[unseen]))
        curves.append(curve)
    return drawn, curves


def measure_shipped(console: Console, samples: list[LungSample], output: Path) -> None:
    """Measure `LungSegmenter` as it is shipped, from the files to the masks at their own size."""
    output.mkdir(parents=True, exist_ok=True)
    scores = []
    segmenter = LungSegmenter()
    for sample, found in zip(
        samples, segmenter.segment(sample.image for sample in samples), strict=True
    ):
        reader = np.any(
            [np.asarray(load_image(path).convert("L")) > 127 for path in sample.masks], axis=0
        )
        if reader.shape != found.mask.shape:
            raise ValueError(
                f"{sample.masks[0]} must have the size of its X-ray, {found.mask.shape}, got {reader.shape}."
            )
        scores.append(dice(found.mask, reader))
    measured = by_source(np.asarray(scores), samples)
    results = {"command": typed_command(_FOLDERS), "versions": _versions(), "shipped": measured}
    (output / "shipped.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    console.print(f"LungSegmenter: {measured}\nWritten to {output}/shipped.json.", highlight=False)


def by_source(
    scores: np.ndarray[Any, np.dtype[np.float64]], samples: Sequence[LungSample]
) -> dict[str, dict[str, float]]:
    """Returns the summary of each collection that the samples come from."""
    found = {}
    for source in dict.fromkeys(sample.source for sample in samples):
        rows = [i for i, sample in enumerate(samples) if sample.source == source]
        found[source] = summary(scores[rows], [samples[i] for i in rows])
    return found


def _versions() -> dict[str, str]:
    return {"backend": backend(), **versions("mmfusion", "keras", "numpy", "torchvision")}


def masks_of(maps: Pixels) -> Pixels:
    """Returns the masks, 0 or 1, that `LungSegmenter` makes of probability maps [B, H, W]: the two largest parts, no holes."""
    return np.stack([two_largest(found > 0.5) for found in maps]).astype(np.float32)


def dice_of(maps: Pixels, masks: Masks) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Returns the Dice coefficient of each X-ray's mask [B]."""
    return np.asarray(
        [dice(found > 0.5, mask[..., 0]) for found, mask in zip(maps, masks, strict=True)]
    )


def summary(
    scores: np.ndarray[Any, np.dtype[np.float64]], samples: Sequence[LungSample]
) -> dict[str, float]:
    """Returns count, mean with its 95 % bootstrap interval by patient, the median, the mean of the worst tenth, and the least."""
    _, patient = np.unique(
        [f"{sample.source} {sample.group}" for sample in samples], return_inverse=True
    )
    of_patients = np.bincount(patient, scores), np.bincount(patient)

    def mean(sums: Any, counts: Any, axis: int) -> Any:
        return sums.sum(axis) / counts.sum(axis)

    # Not BCa, scipy's default: it divides by the spread, which is nought where all scores are
    # equal.
    options: dict[str, Any] = {
        "paired": True,
        "vectorized": True,
        "method": "percentile",
        "rng": np.random.default_rng(0),
    }
    interval = bootstrap(of_patients, mean, **options).confidence_interval
    worst = np.sort(scores)[: max(1, len(scores) // 10)]
    return {
        "count": len(scores),
        "mean": round(float(scores.mean()), 4),
        "low": round(float(interval.low), 4),
        "high": round(float(interval.high), 4),
        "median": round(float(np.median(scores)), 4),
        "worst_tenth": round(float(worst.mean()), 4),
        "least": round(float(scores.min()), 4),
    }


def _folder(name: str) -> str:
    return name.split(" (")[0].replace(" ", "-")


if __name__ == "__main__":
    app()
