"""The U-Net's forward pass on Keras's two backends, beside the same layers in plain torch: one run, taking turns.

    python benchmarks/unet.py --dtype float32 --output benchmarks/results/unet-float32.json

Each side is a process of its own with the same weights and pictures, from numpy to numpy; they run
one after the other in every round, so that what else the machine does falls on all of them. Before
anything is timed, their answers are compared.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from processor import processor
from rich.console import Console
from rich.table import Table

RUNTIMES = ("keras-torch", "torch", "torch-compiled", "keras-tensorflow")
_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}


def main(
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    width: Annotated[int, typer.Option(min=1)] = 16,
    size: Annotated[int, typer.Option(min=16, help="Pixels.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    rounds: Annotated[int, typer.Option(min=3)] = 15,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    output: Annotated[Path | None, typer.Option(help="A JSON file to write.")] = None,
) -> None:
    """Time the forward pass."""
    if dtype not in _TOLERANCE:
        raise typer.BadParameter(f"--dtype must be one of {list(_TOLERANCE)}, got {dtype!r}.")
    console = Console()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        np.save(
            folder / "pixels.npy",
            np.random.default_rng(0).random((batch_size, size, size, 1), dtype=np.float32),
        )
        (folder / "config.json").write_text(
            json.dumps({"width": width, "depth": 4, "name": "unet"})
        )
        sides = {runtime: _started(runtime, folder, dtype, threads) for runtime in RUNTIMES}
        apart = _agreement(folder, dtype)
        seconds: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
        for _ in range(rounds):
            for runtime, side in sides.items():
                seconds[runtime].append(float(_asked(side)))
        for side in sides.values():
            side.communicate()
    medians = {runtime: float(np.median(taken)) for runtime, taken in seconds.items()}
    results = {
        "command": " ".join(["python benchmarks/unet.py", *sys.argv[1:]]),
        "setting": {"dtype": dtype, "width": width, "size": size, "batch_size": batch_size},
        "machine": {"processor": processor(), "threads": threads, "platform": platform.platform()},
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("mmfusion", "torch", "keras", "tensorflow-cpu", "numpy")
        },
        "largest_difference_from_plain_torch": apart,
        "seconds": seconds,
        "median_seconds": medians,
        "keras_torch_speed_over_plain_torch": medians["torch"] / medians["keras-torch"],
        "keras_torch_speed_over_keras_tensorflow": medians["keras-tensorflow"]
        / medians["keras-torch"],
    }
    table = Table(
        "runtime",
        "median ms",
        "10th to 90th percentile",
        "speed of keras-torch over it",
        title=f"{dtype}, {rounds} rounds",
    )
    for runtime, taken in seconds.items():
        low, high = np.percentile(taken, (10, 90)) * 1e3
        ratio = medians[runtime] / medians["keras-torch"]
        table.add_row(
            runtime, f"{medians[runtime] * 1e3:.0f}", f"{low:.0f} to {high:.0f}", f"{ratio:.2f}"
        )
    console.print(table)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _started(runtime: str, folder: Path, dtype: str, threads: int) -> subprocess.Popen[str]:
    backend = runtime.removeprefix("keras-") if runtime.startswith("keras") else "torch"
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "OMP_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    worker = [
        sys.executable,
        str(Path(__file__).with_name("unet_worker.py")),
        runtime,
        str(folder),
        dtype,
    ]
    side = subprocess.Popen(
        worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert side.stdout is not None
    if side.stdout.readline().strip() != "ready":
        raise RuntimeError(
            f"{runtime} must start, got exit status {side.wait()}. Its own message stands above."
        )
    return side


def _asked(side: subprocess.Popen[str]) -> str:
    assert side.stdin is not None and side.stdout is not None
    side.stdin.write("\n")
    side.stdin.flush()
    return side.stdout.readline()


def _agreement(folder: Path, dtype: str) -> dict[str, Any]:
    """The largest difference of each side's probabilities from plain torch's."""
    answers = {runtime: np.load(folder / f"{runtime}.npy") for runtime in RUNTIMES}
    apart = {
        runtime: float(np.abs(found - answers["torch"]).max()) for runtime, found in answers.items()
    }
    wrong = {runtime: value for runtime, value in apart.items() if not value <= _TOLERANCE[dtype]}
    if wrong:
        raise RuntimeError(
            f"All sides must answer alike within {_TOLERANCE[dtype]}, got {wrong}. There is nothing to time."
        )
    return apart


if __name__ == "__main__":
    typer.run(main)
