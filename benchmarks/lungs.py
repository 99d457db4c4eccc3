"""From a large X-ray's file to the mask of its lungs: seconds after loading, one process.

    python benchmarks/lungs.py XRAY.png --side 3000

The X-ray is enlarged to the side and written as 16-bit PNG first, so that decoding costs what it
costs in practice.
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
    """Time it."""
    segmenter = LungSegmenter()
    with tempfile.TemporaryDirectory() as folder:
        large = (
            np.asarray(
                load_image(xray).convert("L").resize((side, side), Image.Resampling.BICUBIC)
            ).astype(np.uint16)
            * 257
        )
        # The detector's noise: without it the file would be smaller than any real one, and sooner
        # decoded.
        large = np.clip(
            large + np.random.default_rng(0).normal(0, 400, large.shape), 0, 65535
        ).astype(np.uint16)
        path = Path(folder) / "large.png"
        Image.fromarray(large).save(path)
        segmenter(path)
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            found = segmenter(path)
            seconds.append(time.perf_counter() - started)
        size = path.stat().st_size / 1e6
    assert found.mask.shape == (side, side)
    Console().print(
        f"{side} x {side}, {size:.0f} MB: median {np.median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f}; "
        f"confidence {found.confidence:.3f}, frontal chest X-ray: {found.is_chest_xray}",
        highlight=False,
    )


if __name__ == "__main__":
    typer.run(main)
