"""The U-Net's forward pass on two backends of Keras and in plain torch, timed in one run.

    python benchmarks/unet.py --dtype float32 --output benchmarks/results/unet-float32.json

Each side is a process of its own with the same weights and pictures. It takes a numpy array and
returns one. The sides run one after the other in every round, so that other work of the machine
slows all of them alike. Their answers are compared before anything is timed.
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
"""The sides. The first starts first, because it draws the weights that the others load."""

_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""The largest allowed difference between probabilities, by dtype."""


def main(
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    width: Annotated[int, typer.Option(min=1)] = 16,
    size: Annotated[int, typer.Option(min=16, help="Pixels.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    rounds: Annotated[int, typer.Option(min=3)] = 15,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    output: Annotated[Path | None, typer.Option(help="A JSON file to write.")] = None,
) -> None:
    """Times the forward pass on every runtime."""
    if dtype not in _TOLERANCE:
        raise typer.BadParameter(f"--dtype must be one of {list(_TOLERANCE)}, got {dtype!r}.")
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
        differences = _agreement(folder, dtype)
        seconds: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
        # The sides take turns, so that a slow minute of the machine slows all of them.
        for _ in range(rounds):
            for runtime, side in sides.items():
                seconds[runtime].append(float(_asked(side)))
        # Closing the standard input ends a worker.
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
        "largest_difference_from_plain_torch": differences,
        "seconds": seconds,
        "median_seconds": medians,
        "keras_torch_speed_over_plain_torch": medians["torch"] / medians["keras-torch"],
        "keras_torch_speed_over_keras_tensorflow": medians["keras-tensorflow"]
        / medians["keras-torch"],
    }
    Console().print(_table(seconds, medians, f"{dtype}, {rounds} rounds"))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _table(seconds: dict[str, list[float]], medians: dict[str, float], title: str) -> Table:
    """Returns the table of the times of every runtime."""
    table = Table(
        "runtime",
        "median ms",
        "10th to 90th percentile",
        "speed of keras-torch over it",
        title=title,
    )
    for runtime, taken in seconds.items():
        low, high = np.percentile(taken, (10, 90)) * 1e3
        ratio = medians[runtime] / medians["keras-torch"]
        table.add_row(
            runtime, f"{medians[runtime] * 1e3:.0f}", f"{low:.0f} to {high:.0f}", f"{ratio:.2f}"
        )
    return table


def _started(runtime: str, folder: Path, dtype: str, threads: int) -> subprocess.Popen[str]:
    """Returns the worker process of a runtime, once it is ready to be timed.

    Raises:
        RuntimeError: when the worker ends before it is ready.
    """
    # The plain torch sides copy a Keras model, so they need a backend as well.
    backend = runtime.removeprefix("keras-") if runtime.startswith("keras") else "torch"
    # Each framework reads the number of threads from a variable of its own.
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
    # A worker prints "ready" after its warm-up; an empty line means that it has ended.
    if side.stdout.readline().strip() != "ready":
        raise RuntimeError(
            f"{runtime} must start, got exit status {side.wait()}. Its own message stands above."
        )
    return side


def _asked(side: subprocess.Popen[str]) -> str:
    """Returns the seconds of one more forward pass of a worker, as the worker writes them."""
    assert side.stdin is not None and side.stdout is not None
    side.stdin.write("\n")
    # Without the flush the line may stay in the buffer, and both processes wait forever.
    side.stdin.flush()
    return side.stdout.readline()


def _agreement(folder: Path, dtype: str) -> dict[str, Any]:
    """Returns the largest difference of each side's probabilities from those of plain torch.

    Raises:
        RuntimeError: when a difference is larger than the tolerance of the dtype.
    """
    answers = {runtime: np.load(folder / f"{runtime}.npy") for runtime in RUNTIMES}
    differences = {
        runtime: float(np.abs(probabilities - answers["torch"]).max())
        for runtime, probabilities in answers.items()
    }
    # Not `value > tolerance`: a NaN must count as wrong, too.
    wrong = {
        runtime: value for runtime, value in differences.items() if not value <= _TOLERANCE[dtype]
    }
    if wrong:
        raise RuntimeError(
            f"All sides must answer alike within {_TOLERANCE[dtype]}, got {wrong}. "
            "There is nothing to time."
        )
    return differences


if __name__ == "__main__":
    typer.run(main)
