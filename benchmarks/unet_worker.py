"""One side of `unet.py`.

It builds its U-Net. Then it runs the forward pass once for each line that it reads, and writes the
seconds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

# torchvision must be imported before Keras; mmfusion/segmentation/__init__.py gives the reason.
import torchvision  # noqa: F401

# isort: split
import numpy as np
import torch
from numpy.typing import NDArray
from plain_unet import plain_copy

from mmfusion import UNetSegmenter

Pixels = NDArray[np.float32]


def forward_of(runtime: str, folder: Path, dtype: str) -> Callable[[Pixels], Pixels]:
    """Returns a function that maps pictures [B, H, W, 1] to probabilities [B, H, W, 1]."""
    policy = "float32" if dtype == "float32" else "mixed_bfloat16"
    model = UNetSegmenter.from_config(
        json.loads((folder / "config.json").read_text()) | {"dtype": policy}
    )
    # The first worker draws the weights, and the later ones load them.
    if (folder / "unet.weights.h5").exists():
        model.load_weights(folder / "unet.weights.h5")
    else:
        model.save_weights(folder / "unet.weights.h5")
    if runtime == "keras-tensorflow":
        return lambda pixels: np.asarray(model.predict_on_batch(pixels))
    if runtime == "keras-torch":

        def answered(pixels: Pixels) -> Pixels:
            with torch.inference_mode():
                return model(pixels, training=False).numpy()

        return answered
    plain = plain_copy(model).eval().to(memory_format=torch.channels_last)
    if dtype == "bfloat16":
        plain = plain.to(torch.bfloat16)
    if runtime == "torch-compiled":
        plain = torch.compile(plain)

    def plainly(pixels: Pixels) -> Pixels:
        with torch.inference_mode():
            # This permutation moves no data: in memory the channels are last in both layouts.
            inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(next(plain.parameters()).dtype)
            return plain(inputs).permute(0, 2, 3, 1).numpy()

    return plainly


def main() -> None:
    """Answers each line of the standard input with the seconds of one forward pass."""
    runtime, folder, dtype = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    # Libraries may print to the standard output, so the answers go to a copy of it and all other
    # output goes to the standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    forward, pixels = forward_of(runtime, folder, dtype), np.load(folder / "pixels.npy")
    # The first calls compile and allocate; they must not be timed.
    for _ in range(3):
        probabilities = forward(pixels)
    np.save(folder / f"{runtime}.npy", probabilities)
    print("ready", file=answers)
    for _ in sys.stdin:
        started = time.perf_counter()
        forward(pixels)
        print(time.perf_counter() - started, file=answers)


if __name__ == "__main__":
    main()
