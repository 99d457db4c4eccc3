"""The training of the study's two lung segmenters, and their test on X-rays they never saw.

Model 1 learns from Shenzhen and a second collection (Montgomery as published, or the COVID set),
model 2 from Shenzhen alone:

    python examples/lung_disease/segment.py --shenzhen DIR --montgomery DIR
    python examples/lung_disease/segment.py --shenzhen DIR --covid DIR --folds 5 --epochs 40
    python examples/lung_disease/segment.py --shenzhen DIR --ship src/mmfusion/segmentation/weights

Each model is cross-validated by patient. Model 2 is also trained on all of Shenzhen and measured on
the whole second collection, which comes from another hospital. `--ship` writes the weights that
`LungSegmenter` loads. `--shipped` measures the weights that it has.

A stopped run continues at the last complete epoch. All output is written to
runs/lung_disease/segment/: results.json, and as PNG the learning curves, example masks and the ten
worst masks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

# Keras may load tensorflow. This hides its long log.
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

from mmfusion import LungSegmenter, UNetSegmenter, dice, load_image
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
    """Trains the models, and writes the results and the pictures into `output`."""
    output.mkdir(parents=True, exist_ok=True)
    # Loaded once, because both models train on the same X-rays.
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
    # With 0 folds only the weights are trained, for `--ship` or for the other hospital.
    for name, (samples, pairs) in models.items() if folds else ():
        drawn[name], curves = cross_validate(
            console, recipe, samples, pairs, folds, output / _folder(name)
        )
        scores = dice_of(drawn[name], pairs[1])
        summaries = by_source(scores, samples)
        results["models"][name] = {"folds": folds, "cross_validated_dice": summaries}
        console.print(f"{name}, {folds} folds: {summaries}", highlight=False)
        draw_curves(output / f"{_folder(name)}-curves.png", name, curves)
        draw_worst(output / f"{_folder(name)}-worst.png", name, samples, pairs, drawn[name], scores)
    if len(drawn) == 2:
        draw_examples(
            output / "masks.png",
            home,
            home_pairs,
            # Both models were tested on the X-rays of Shenzhen, which come first.
            {name: masks[: len(home)] for name, masks in drawn.items()},
        )
    # One training serves both purposes.
    if second or ship_to is not None:
        model, _ = train(recipe, home_pairs, None, output / "all-of-shenzhen")
    if second:
        results["another_hospital"] = measure_away(console, model, second, second_pairs, output)
    (output / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    if ship_to is not None:
        ship(model, recipe, home_pairs[0], ship_to)
        console.print(f"Weights written to {ship_to}.", highlight=False)
    console.print(f"Written to {output}/results.json and PNG.", highlight=False)


def measure_away(
    console: Console,
    model: UNetSegmenter,
    second: list[LungSample],
    pairs: tuple[Pixels, Masks],
    output: Path,
) -> dict[str, Any]:
    """Returns the entry of results.json for a model of Shenzhen on the other hospital's X-rays."""
    away = masks_of(predicted(model, pairs[0]))
    scores = dice_of(away, pairs[1])
    title = f"model 2, trained on all of shenzhen, on {second[0].source}"
    there = summary(scores, second)
    console.print(f"{title}: {there}", highlight=False)
    draw_worst(output / f"{second[0].source}-worst.png", title, second, pairs, away, scores)
    return {"trained_on": "shenzhen", "measured_on": second[0].source, "dice": there}


def cross_validate(
    console: Console,
    recipe: Recipe,
    samples: Sequence[LungSample],
    pairs: tuple[Pixels, Masks],
    folds: int,
    folder: Path,
) -> tuple[Pixels, list[dict[str, list[float]]]]:
    """Returns the mask of each X-ray [B, H, W], and the learning curves of the folds.

    Each mask comes from the model that was not trained on the X-ray.
    """
    pixels, masks = pairs
    drawn = np.zeros(pixels.shape[:3], np.float32)
    # Two collections may use the same name for different patients.
    groups = [f"{sample.source} {sample.group}" for sample in samples]
    curves = []
    for number, (trained, tested) in enumerate(
        GroupKFold(folds, shuffle=True, random_state=recipe.seed).split(groups, groups=groups)
    ):
        console.print(
            f"fold {number + 1} of {folds}: {len(trained)} X-rays to train, {len(tested)} to test",
            highlight=False,
        )
        model, curve = train(
            # Another seed in each fold, so that no single draw of first weights decides.
            replace(recipe, seed=recipe.seed + number),
            (pixels[trained], masks[trained]),
            (pixels[tested], masks[tested]),
            folder / f"fold{number}",
        )
        drawn[tested] = masks_of(predicted(model, pixels[tested]))
        curves.append(curve)
    return drawn, curves


def measure_shipped(console: Console, samples: list[LungSample], output: Path) -> None:
    """Measures `LungSegmenter` with its shipped weights, and writes shipped.json.

    It reads the files of the X-rays, and compares masks in the original size.
    """
    output.mkdir(parents=True, exist_ok=True)
    scores = []
    segmenter = LungSegmenter()
    for sample, lungs in zip(
        samples, segmenter.segment(sample.image for sample in samples), strict=True
    ):
        # Montgomery has one mask per lung; the union is the truth.
        reader = np.any(
            [np.asarray(load_image(path).convert("L")) > 127 for path in sample.masks], axis=0
        )
        if reader.shape != lungs.mask.shape:
            raise ValueError(
                f"{sample.masks[0]} must have the size of its X-ray, {lungs.mask.shape}, "
                f"got {reader.shape}."
            )
        scores.append(dice(lungs.mask, reader))
    measured = by_source(np.asarray(scores), samples)
    results = {"command": typed_command(_FOLDERS), "versions": _versions(), "shipped": measured}
    (output / "shipped.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    console.print(f"LungSegmenter: {measured}\nWritten to {output}/shipped.json.", highlight=False)


def by_source(
    scores: np.ndarray[Any, np.dtype[np.float64]], samples: Sequence[LungSample]
) -> dict[str, dict[str, float]]:
    """Returns the summary of each collection that the samples come from, by its name."""
    summaries = {}
    for source in dict.fromkeys(sample.source for sample in samples):
        rows = [i for i, sample in enumerate(samples) if sample.source == source]
        summaries[source] = summary(scores[rows], [samples[i] for i in rows])
    return summaries


def _versions() -> dict[str, str]:
    return {"backend": backend(), **versions("mmfusion", "keras", "numpy", "torchvision")}


def masks_of(maps: Pixels) -> Pixels:
    """Returns the masks of probability maps [B, H, W], as `LungSegmenter` makes them.

    A mask holds 0 and 1. It keeps the two largest parts above one half, with their holes filled.
    """
    return np.stack([two_largest(one > 0.5) for one in maps]).astype(np.float32)


def dice_of(maps: Pixels, masks: Masks) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Returns the Dice coefficient of each X-ray's mask [B]."""
    return np.asarray(
        [dice(one > 0.5, mask[..., 0]) for one, mask in zip(maps, masks, strict=True)]
    )


def summary(
    scores: np.ndarray[Any, np.dtype[np.float64]], samples: Sequence[LungSample]
) -> dict[str, float]:
    """Returns the summary of Dice coefficients.

    It holds the count, the mean with its 95 % bootstrap interval by patient, the median, the mean
    of the worst tenth, and the least value.
    """
    _, patient = np.unique(
        [f"{sample.source} {sample.group}" for sample in samples], return_inverse=True
    )
    # Sums and counts by patient: the bootstrap draws patients, and each brings all its X-rays.
    of_patients = np.bincount(patient, scores), np.bincount(patient)

    def mean(sums: Any, counts: Any, axis: int) -> Any:
        return sums.sum(axis) / counts.sum(axis)

    # Not BCa, the default of scipy, which divides by the spread: that is zero if all scores are
    # equal.
    options: dict[str, Any] = {
        "paired": True,
        "vectorized": True,
        "method": "percentile",
        "rng": np.random.default_rng(0),
    }
    interval = bootstrap(of_patients, mean, **options).confidence_interval
    # The mean hides a few failed masks. The worst tenth shows them.
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
    """Returns the name of a model without its data, in a form that suits a folder."""
    return name.split(" (")[0].replace(" ", "-")


if __name__ == "__main__":
    app()
