"""The seconds from a large X-ray's file to the mask of its lungs, with the model loaded already.

    python benchmarks/lungs.py XRAY.png --side 3000

First the X-ray is enlarged to SIDE x SIDE pixels and written as a 16-bit PNG. The time to decode it
is then that of a real file.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console

from mmfusion import LungSegmenter, load_image


def main(
    xray: Annotated[Path, typer.Argument(help="A frontal chest X-ray.")],
    side: Annotated[int, typer.Option(min=64, help="Pixels.")] = 3000,
    rounds: Annotated[int, typer.Option(min=3)] = 7,
) -> None:
    """Times the segmenter on one large picture and prints the seconds."""
    segmenter = LungSegmenter()
    with tempfile.TemporaryDirectory() as folder:
        large = (
            np.asarray(
                load_image(xray).convert("L").resize((side, side), Image.Resampling.BICUBIC)
            ).astype(np.uint16)
            * 257
        )
        # The noise of a detector: without it the file would be smaller than a real one, and its
        # decoding faster.
        large = np.clip(
            large + np.random.default_rng(0).normal(0, 400, large.shape), 0, 65535
        ).astype(np.uint16)
        path = Path(folder) / "large.png"
        Image.fromarray(large).save(path)
        # The first call loads and compiles, so it is not timed.
        segmenter(path)
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            lungs = segmenter(path)
            seconds.append(time.perf_counter() - started)
        size = path.stat().st_size / 1e6
    assert lungs.mask.shape == (side, side)
    Console().print(
        f"{side} x {side}, {size:.0f} MB: median {np.median(seconds):.2f} s, "
        f"{min(seconds):.2f} to {max(seconds):.2f}; "
        f"confidence {lungs.confidence:.3f}, frontal chest X-ray: {lungs.is_chest_xray}",
        highlight=False,
    )


if __name__ == "__main__":
    typer.run(main)
