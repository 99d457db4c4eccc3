"""How far answers in bfloat16 and in 8-bit integers are from those in float32, on held-out folds.

    python examples/lung_disease/precision.py --dataset shenzhen --images DIR
    python examples/lung_disease/precision.py --dataset covid --images DIR

Trains `concat` on the frozen small encoders for each fold, and lets `CompiledClassifier` answer the
test fold in each precision. EfficientNet-Lite0 has no wide linear layer, so "int8" quantises the
text tower alone, and the rest is in bfloat16. The result is written to
runs/lung_disease/<dataset>-precision.json.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import datasets
import numpy as np
import torch
import typer
from encoders import image_encoder, text_encoder
from provenance import typed_command, versions
from rich.console import Console
from rich.table import Table
from study_data import load
from torch import Tensor

from mmfusion import (
    CompiledClassifier,
    FusionClassifier,
    FusionProcessor,
    fit,
    predict_stream,
    training_arguments,
)
from mmfusion.data.splits import fold_indices
from mmfusion.inference.int8 import Parity, parity
from mmfusion.training.stored import write_json

PRECISIONS: dict[str, Any] = {"float32": None, "bfloat16": torch.bfloat16, "int8": "int8"}
"""The precisions by name, as `CompiledClassifier` takes them."""


def answers(rows: datasets.Dataset, folds: int, folder: Path) -> tuple[dict[str, Tensor], Tensor]:
    """Returns the logits [N, C] of all samples in each precision, and their labels [N].

    The model that answers a sample was not trained on it.
    """
    image, text = image_encoder("small").freeze(), text_encoder("small").freeze()
    processor = FusionProcessor.from_encoders(image, text, max_length=128)
    found: dict[str, list[Tensor]] = {name: [] for name in PRECISIONS}
    labels: list[int] = []
    for trained, tested in fold_indices(rows, n=folds, seed=0, text=None):
        model = FusionClassifier(
            image_encoder=image,
            text_encoder=text,
            num_labels=rows.features["label"].num_classes,
        )
        arguments = training_arguments(
            folder / "run", model, save_strategy="no", eval_strategy="no", disable_tqdm=True
        )
        fit(
            model,
            processor,
            rows.select(trained),
            arguments=arguments,
            cache=folder / "cache",
        )
        test = rows.select(tested)
        labels += test["label"]
        for name, dtype in PRECISIONS.items():
            fast = CompiledClassifier(model, dtype=dtype, batch_sizes=(32,), lengths=(128,))
            stream = predict_stream(fast, processor, test, batch_size=32)
            found[name].append(torch.from_numpy(np.stack([one.logits for one in stream])))
    return {name: torch.cat(parts) for name, parts in found.items()}, torch.tensor(labels)


def compared(found: dict[str, Tensor], labels: Tensor) -> dict[str, Parity]:
    """Returns the report of each precision against float32."""
    return {name: parity(found["float32"], logits, labels) for name, logits in found.items()}


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
    reports = compared(*answers(rows, folds, folder))
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
