"""CNNs with the channels of the pixels last in memory, and with the layout of the processor.

    python -m benchmarks.layout

`ImageEncoder` lays the pixels out with the channels last on a CPU. The other side is the same
encoder without that step. Both run in turn, with the same weights.
"""

from __future__ import annotations

from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import torch
import typer

from benchmarks.timing import Side, by_turns
from mmfusion import ImageEncoder
from mmfusion.model import encoder_image

SOURCES = encoder_image.CHANNELS_LAST_SOURCES

MODELS = (
    "tf_efficientnet_lite0",
    "mobilenetv3_large_100",
    "resnet18",
    "resnet50",
    "densenet121",
    "convnext_tiny",
    "vit_small_patch16_224",
)
WORK = {"one picture": (1, False), "16 pictures": (16, False), "training step of 8": (8, True)}
"""The number of pictures, and whether there is a backward pass."""


def side(encoder: Any, pixels: torch.Tensor, *, training: bool, sources: tuple[str, ...]) -> Side:
    """Returns a side that encodes the pixels, and computes the gradients in training.

    Args:
        encoder: the image encoder.
        pixels: what it encodes.
        training: whether there is a backward pass.
        sources: the sources of encoders that lay the pixels out with the channels last.
    """

    def run() -> torch.Tensor:
        with (
            patch.object(encoder_image, "CHANNELS_LAST_SOURCES", sources),
            torch.set_grad_enabled(training),
        ):
            pooled: torch.Tensor = encoder(pixels).pooled
            if training:
                pooled.float().square().mean().backward()
                encoder.zero_grad()
        return pooled.detach()

    return run


def measured(name: str, dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """Returns, for each kind of work, the median of the ratios of the times of both layouts."""
    torch.manual_seed(0)
    encoder = ImageEncoder(name, pretrained=False).to(dtype)
    spec, found = encoder.input_spec, {}
    for work, (count, training) in WORK.items():
        pixels = torch.randn(count, spec["channels"], *spec["size"]).to(dtype)
        encoder.train(training)
        ours = side(encoder, pixels, training=training, sources=SOURCES)
        plain = side(encoder, pixels, training=training, sources=())
        if not training and dtype == torch.float32:
            torch.testing.assert_close(ours(), plain(), atol=1e-4, rtol=0)
        seconds = by_turns({"ours": ours, "plain": plain}, rounds=rounds)
        found[work] = float(np.median(np.divide(seconds["plain"], seconds["ours"])))
    return found


def main(
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    rounds: Annotated[int, typer.Option(min=3)] = 7,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Print how many times as long each CNN takes without the layout of the library."""
    torch.set_num_threads(threads)
    for name in MODELS:
        for work, ratio in measured(name, getattr(torch, dtype), rounds).items():
            typer.echo(f"{name}\t{work}\t{ratio:.2f}")


if __name__ == "__main__":
    typer.run(main)
