"""How far answers in bfloat16 and in 8-bit integers are from those in float32, on held-out folds.

    python examples/lung_disease/precision.py --dataset shenzhen --images DIR
    python examples/lung_disease/precision.py --dataset covid --images DIR

Trains `concat` on the frozen small encoders for each fold, and answers the test fold in each
precision. EfficientNet-Lite0 has no linear layer, and MiniLM's are narrower than those that
`CompiledClassifier` quantises by itself. All of MiniLM's are quantised here, because the question
is what becomes of the answers. The result is written to runs/lung_disease/<dataset>-precision.json.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import datasets
import numpy as np
import torch
import typer
from encoders import image_encoder, text_encoder
from provenance import typed_command, versions
from rich.console import Console
from rich.table import Table
from study_data import load
from torch import Tensor, nn

from mmfusion import FusionClassifier, FusionProcessor, fit, predict_stream, training_arguments
from mmfusion.data.splits import fold_indices
from mmfusion.inference.int8 import quantize_linear_layers
from mmfusion.inference.parity import parity
from mmfusion.training.stored import write_json

MINILM = 384
"""The width of the small text encoder."""


def in_precisions(model: FusionClassifier) -> dict[str, FusionClassifier]:
    """Returns a trained classifier, and copies of it in bfloat16 and in 8-bit integers."""
    half = copy.deepcopy(model)
    # transformers annotates `to` for something else.
    nn.Module.to(half, torch.bfloat16)
    integers = copy.deepcopy(half)
    quantize_linear_layers(integers, MINILM)
    return {"float32": model, "bfloat16": half, "int8": integers}


def answers(rows: datasets.Dataset, folds: int, folder: Path) -> tuple[dict[str, Tensor], Tensor]:
    """Returns the logits [N, C] of all samples in each precision, and their labels [N].

    The model that answers a sample was not trained on it.
    """
    image, text = image_encoder("small").freeze(), text_encoder("small").freeze()
    processor = FusionProcessor.from_encoders(image, text, max_length=128)
    found: dict[str, list[Tensor]] = {}
    labels: list[int] = []
    for trained, tested in fold_indices(rows, n=folds, seed=0, text=None):
        classes = rows.features["label"].num_classes
        model = FusionClassifier(image_encoder=image, text_encoder=text, num_labels=classes)
        arguments = training_arguments(
            folder / "run", model, save_strategy="no", eval_strategy="no", disable_tqdm=True
        )
        fit(model, processor, rows.select(trained), arguments=arguments, cache=folder / "cache")
        test = rows.select(tested)
        labels += test["label"]
        for name, one in in_precisions(model).items():
            stream = predict_stream(one, processor, test, progress=False)
            logits = torch.from_numpy(np.stack([answer.logits for answer in stream]))
            found.setdefault(name, []).append(logits)
    return {name: torch.cat(parts) for name, parts in found.items()}, torch.tensor(labels)


def main(
    images: Annotated[Path, typer.Option(help="Folder of the X-rays.")],
    dataset: Annotated[str, typer.Option(help="shenzhen, covid or openi.")] = "shenzhen",
    folds: Annotated[int, typer.Option(min=2)] = 3,
    output: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/lung_disease"),
    limit: Annotated[
        int | None, typer.Option(min=20, help="Only so many samples, to try things out.")
    ] = None,
) -> None:
    """Print the AUROC in each precision, and how many answers change."""
    folder = output / f"{dataset}-precision"
    folder.mkdir(parents=True, exist_ok=True)
    rows = next(iter(load(dataset, images, folder, seed=0, limit=limit).protocols.values()))
    logits, labels = answers(rows, folds, folder)
    reports = {name: parity(logits["float32"], one, labels) for name, one in logits.items()}
    table = Table("precision", "AUROC", "answers that change", "mean difference of a logit")
    for name, report in reports.items():
        table.add_row(
            name, f"{report.auroc_after:.4f}", f"{report.changed:.2%}", f"{report.mean:.4f}"
        )
    Console().print(table)
    write_json(
        output / f"{dataset}-precision.json",
        {
            "command": typed_command(("--images", "--output")),
            "versions": versions("mmfusion", "torch", "torchao", "transformers", "timm"),
            "samples": len(rows),
            "folds": folds,
            "precisions": {name: asdict(report) for name, report in reports.items()},
        },
    )


if __name__ == "__main__":
    typer.run(main)
