"""Are the explanations faithful? Deletion curves on the phantom, and heat in the lungs.

On the phantom two facts decide: masses that are drawn into the picture, and a word that is written
into the text. Both are known, and the class is told by both together. So an explanation must find
both. Deleting what it points at first must let the probability fall faster than deleting in random
order. With `--shenzhen`, the share of the heat inside the lungs is measured on real X-rays.

    python examples/lung_disease/explanations.py --output runs/explanations
    python examples/lung_disease/explanations.py --shenzhen data/shenzhen --output runs/explanations
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

# Set before transformers is imported. It avoids warnings about forks.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import datasets
import numpy as np
import torch
import typer
from encoders import image_encoder, text_encoder
from explanations_data import CLASSES, WORD, Known, phantom_rows, shenzhen_rows
from explanations_table import render
from PIL import Image
from provenance import typed_command, versions
from rich.console import Console
from study_rows import NARROW

from mmfusion import (
    Explanation,
    FusionClassifier,
    FusionProcessor,
    deletion_curve,
    evaluate,
    explain,
    fit,
    training_arguments,
)

TARGET = CLASSES[-1]
STRATEGIES: dict[str, dict[str, Any]] = {
    "concat": {"fusion": "concat"},
    "late": {"fusion": "late"},
    "guarded": {"fusion": "guarded"},
    "cross_attention": {"fusion": {"name": "cross_attention", **NARROW}},
    "joint": {"fusion": {"name": "joint", **NARROW}},
    "mmtm": {"fusion": {"name": "mmtm", "pairs": 1}},
    "bottleneck": {"fusion": {"name": "bottleneck", "layers": 1}},
    "film": {"fusion": "film"},
    "gated": {"fusion": "gated"},
    "low_rank": {"fusion": "low_rank"},
    "tokens": {"fusion": "tokens"},
}
OWN = ("joint", "cross_attention", "mmtm", "bottleneck", "film", "gated", "low_rank", "tokens")
"""The strategies with layers of their own, which are trained without a warm start."""
PIXEL_METHODS = ("grad_cam", "occlusion", "integrated_gradients", "gradient_x_input")
WORD_METHODS = ("integrated_gradients", "occlusion", "gradient_x_input")


def main(
    output: Annotated[Path, typer.Option(help="Folder for pictures, models and results.")],
    shenzhen: Annotated[
        Path | None, typer.Option(help="Folder of the Shenzhen X-rays with lung masks.")
    ] = None,
    phantom: Annotated[bool, typer.Option(help="Whether the phantom is measured.")] = True,
    samples: Annotated[int, typer.Option(min=40, help="Phantoms, a fifth of them to test.")] = 1000,
    explained: Annotated[int, typer.Option(min=1, help="Test samples that are explained.")] = 12,
    epochs: Annotated[int, typer.Option(min=1, help="Of the image encoder's training.")] = 4,
    methods: Annotated[
        int, typer.Option(min=1, max=4, help="How many methods are compared, the defaults first.")
    ] = 4,
    fused_epochs: Annotated[int, typer.Option(min=1, help="Of each strategy's training.")] = 10,
) -> None:
    """Measure how faithful the explanations of every strategy are."""
    console, file = Console(), output / "explanations.json"
    output.mkdir(parents=True, exist_ok=True)
    # Each part may be run by itself. What another run has written is kept.
    results: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    command = typed_command(["--shenzhen", "--output"])
    made = {"command": command, "versions": versions("mmfusion", "torch", "timm", "transformers")}
    if shenzhen is not None:
        found = in_the_lungs(shenzhen, output / "shenzhen", explained)
        results["shenzhen"] = made | found
        file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if phantom:
        # A strategy that was measured already is not measured again.
        done = results.setdefault("phantom", made | {"samples": samples, "rows": {}})["rows"]
        rows = on_the_phantom(
            output, samples, explained, methods, epochs, fused_epochs, leave_out=set(done)
        )
        for name, row in rows:
            results["phantom"]["rows"][name] = row
            file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            console.print(name, json.dumps(row), markup=False)
    console.print(render(results), markup=False, soft_wrap=True)
    console.print(f"Written to {file}.", markup=False)


def on_the_phantom(
    output: Path,
    samples: int,
    explained: int,
    methods: int,
    epochs: int,
    fused_epochs: int,
    leave_out: set[str],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name of each strategy and what was measured of it."""
    parts, known = phantom_rows(output / "phantom", samples)
    encoder = tuned_encoder(parts, output / "image", epochs)
    for name, options in STRATEGIES.items():
        if name in leave_out:
            continue
        torch.manual_seed(0)
        started = time.perf_counter()
        text = text_encoder("small").freeze()
        model = FusionClassifier(
            image_encoder=encoder, text_encoder=text, num_labels=len(CLASSES), **options
        )
        processor = FusionProcessor.from_encoders(encoder, text, fit="squash")
        # After a warm start the validation may keep the probes alone, and nothing of the strategy's
        # own would be explained.
        own = {"num_train_epochs": fused_epochs, "learning_rate": 1e-3} if name in OWN else {}
        cache = output / "cache"
        train(model, processor, parts, output / name, cache, warm_start=name not in OWN, **own)
        row = measured(model, processor, parts["test"], known, explained, methods, output / "cache")
        yield name, row | {"seconds": round(time.perf_counter() - started)}


def train(
    model: FusionClassifier,
    processor: FusionProcessor,
    parts: dict[str, datasets.Dataset],
    folder: Path,
    cache: Path | None = None,
    warm_start: bool = True,
    **options: Any,
) -> None:
    """Trains a model on the rows of two parts; frozen towers are cached in a folder."""
    arguments = training_arguments(
        folder, model, save_strategy="no", disable_tqdm=True, seed=0, **options
    )
    fit(
        model,
        processor,
        parts["train"],
        parts["validation"],
        arguments=arguments,
        cache=cache,
        warm_start=warm_start,
    )


def tuned_encoder(parts: dict[str, datasets.Dataset], folder: Path, epochs: int) -> Any:
    """Returns the small image encoder, trained to see the masses and then frozen."""
    names = ["no mass", "mass"]
    halves = {
        part: rows.remove_columns(["text", "label"]).add_column(
            "label",
            [names[CLASSES[one].startswith("mass")] for one in rows["label"]],
            feature=datasets.Value("string"),
        )
        for part, rows in parts.items()
    }
    halves = {
        part: rows.cast_column("label", datasets.ClassLabel(names=names))
        for part, rows in halves.items()
    }
    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        encoder = image_encoder("small")
        model = FusionClassifier(image_encoder=encoder, id2label=dict(enumerate(names)))
        processor = FusionProcessor.from_encoders(encoder, None, fit="squash")
        train(model, processor, halves, folder, num_train_epochs=epochs)
        model.save_pretrained(folder)
    return FusionClassifier.from_pretrained(folder).image_encoder.freeze()


def measured(
    model: FusionClassifier,
    processor: FusionProcessor,
    rows: datasets.Dataset,
    known: dict[str, Known],
    explained: int,
    methods: int,
    cache: Path,
) -> dict[str, Any]:
    """Returns deletion curves and hits over test samples of the class that needs both facts.

    Samples that the classifier gets wrong are left out: what it does not see cannot be explained.
    """
    arguments = training_arguments("unused", model, disable_tqdm=True)
    score = evaluate(model, processor, rows, arguments=arguments, cache=cache)
    right = (score.logits.argmax(1) == score.labels) & (score.labels == CLASSES.index(TARGET))
    chosen = np.flatnonzero(right)[:explained].tolist()
    pixels: dict[str, list[dict[str, float]]] = {}
    words: dict[str, list[dict[str, float]]] = {}
    for index in chosen:
        row = rows[index]
        mass = known[Path(row["image"]).name].mass
        assert mass is not None
        explained_as = partial(explain, model, processor, row["image"], row["text"], target=TARGET)
        first = None
        for method in PIXEL_METHODS[:methods]:
            found = explained_as(method=method)
            heat = found.heat[0].values
            areas = curve(model, processor, row, found, "image", first)
            first = first or areas
            share = float(heat[mass].sum() / max(heat.sum(), 1e-9))
            facts = {"heat_in_mass": share, "mass_area": float(mass.mean())}
            pixels.setdefault(method, []).append(areas | facts)
        first = None
        for how in WORD_METHODS[:methods]:
            # The heat map is not used here, so the fastest one is made.
            found = explained_as(words=how, method="gradient_x_input")
            weights = [word.weight or 0.0 for word in found.words]
            top = found.words[int(np.argmax(weights))].text
            areas = curve(model, processor, row, found, "words", first)
            first = first or areas
            words.setdefault(how, []).append(areas | {"top_word": float(top == WORD)})
    return {
        "accuracy": float(score.metrics["accuracy"].estimate),
        "explained": len(chosen),
        "image": {name: mean_of(ones) for name, ones in pixels.items()},
        "words": {name: mean_of(ones) for name, ones in words.items()},
    }


def curve(
    model: FusionClassifier,
    processor: FusionProcessor,
    row: dict[str, Any],
    found: Explanation,
    over: str,
    first: dict[str, float] | None,
) -> dict[str, float]:
    """Returns the areas under the deletion curves of one explanation.

    The random orders are the same for every explanation of a sample, so `first`, the areas of
    another one, spares their computation.
    """
    line = deletion_curve(
        model, processor, row["image"], row["text"],
        over=over, explanation=found, orders=1 if first else 5,
    )  # fmt: skip
    return {
        "area": line.area,
        "random_area": first["random_area"] if first else line.random_area,
    }


def mean_of(ones: list[dict[str, float]]) -> dict[str, float]:
    """Returns the mean of each figure, and the gain of the mean area over the random one."""
    means = {name: float(np.mean([one[name] for one in ones])) for name in ones[0]}
    if "area" in means:
        means["gain"] = 1 - means["area"] / means["random_area"]
    return {name: round(value, 4) for name, value in means.items()}


def in_the_lungs(folder: Path, work: Path, explained: int) -> dict[str, Any]:
    """Returns the share of the heat that lies in the lungs, over test X-rays with tuberculosis."""
    parts, masks = shenzhen_rows(folder, work)
    torch.manual_seed(0)
    encoder = image_encoder("small").freeze()
    names = parts["train"].features["label"].names
    model = FusionClassifier(image_encoder=encoder, id2label=dict(enumerate(names)))
    processor = FusionProcessor.from_encoders(encoder, None, fit="squash")
    train(model, processor, parts, work / "model", work / "cache")
    arguments = training_arguments("unused", model, disable_tqdm=True)
    score = evaluate(model, processor, parts["test"], arguments=arguments)
    sick = np.flatnonzero(score.labels == names.index("tuberculosis"))[:explained].tolist()
    shares: dict[str, list[dict[str, float]]] = {}
    for index in sick:
        image = parts["test"][index]["image"]
        with Image.open(masks[Path(image).name]) as file:
            mask = np.asarray(file.convert("L")) > 127
        for method in PIXEL_METHODS:
            found = explain(model, processor, image, target="tuberculosis", method=method)
            heat = found.heat[0].values
            if heat.shape != mask.shape:
                raise ValueError(f"mask must have the size of {image}, got {mask.shape}.")
            if heat.any():
                shares.setdefault(method, []).append(
                    {
                        "heat_in_lungs": float(heat[mask].sum() / heat.sum()),
                        "lung_area": float(mask.mean()),
                    }
                )
    return {
        "auroc": float(score.metrics["auroc"].estimate),
        "explained": len(sick),
        "methods": {name: mean_of(ones) | {"count": len(ones)} for name, ones in shares.items()},
    }


if __name__ == "__main__":
    typer.run(main)
