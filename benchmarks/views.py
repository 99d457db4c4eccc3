"""Pictures per second of one view and of several views per sample, measured in turn.

    python -m benchmarks.views

A sample of several pictures must cost no more per picture than samples of one.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import BertConfig

from mmfusion import FusionClassifier, ImageEncoder, TextEncoder


def classifier(views: int, fusion: str, image: str, width: int) -> Any:
    """Returns a classifier with random weights in evaluation mode."""
    torch.manual_seed(0)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 4 * width}
    text = TextEncoder(BertConfig(hidden_size=width, **layers))
    model = FusionClassifier(
        image_encoder=ImageEncoder(image, pretrained=False),
        text_encoder=text,
        fusion=fusion,
        num_views=views,
    )
    return model.eval()


def batch_of(model: Any, samples: int, views: int) -> dict[str, torch.Tensor]:
    """Returns inputs of so many samples, each with all its views and a text of 32 tokens."""
    spec = model.image_encoder.input_spec
    axis = (views,) if views > 1 else ()
    ids = torch.randint(5, 1000, (samples, 32))
    return {
        "pixel_values": torch.randn(samples, *axis, spec["channels"], *spec["size"]),
        "image_present": torch.ones(samples, *axis, dtype=torch.bool),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
    }


def main(
    image: Annotated[str, typer.Option(help="A timm model.")] = "vit_small_patch16_224",
    width: Annotated[int, typer.Option(help="Of the text encoder.")] = 256,
    pictures: Annotated[int, typer.Option(help="Per batch.")] = 16,
    rounds: Annotated[int, typer.Option(min=3)] = 15,
    output: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
) -> None:
    """Print pictures per second for 1, 2 and 4 views, and the ratio to one view."""
    found = {}
    for fusion in ("concat", "joint", "cross_attention"):
        cases = {views: classifier(views, fusion, image, width) for views in (1, 2, 4)}
        inputs = {v: batch_of(model, pictures // v, v) for v, model in cases.items()}
        seconds: dict[int, list[float]] = {views: [] for views in cases}
        with torch.inference_mode():
            for turn in range(rounds + 2):
                for views, model in cases.items():
                    start = time.perf_counter()
                    model(**inputs[views])
                    if turn > 1:
                        seconds[views].append(time.perf_counter() - start)
        medians = {views: statistics.median(times) for views, times in seconds.items()}
        ratios = {
            views: statistics.median(
                one / many for one, many in zip(seconds[1], times, strict=True)
            )
            for views, times in seconds.items()
        }
        found[fusion] = {
            str(views): {"pictures per second": pictures / medians[views], "ratio": ratios[views]}
            for views in cases
        }
        for views in cases:
            rate, ratio = found[fusion][str(views)].values()
            typer.echo(f"{fusion}\t{views} views\t{rate:.1f} pictures/s\t{ratio:.3f} of one view")
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
