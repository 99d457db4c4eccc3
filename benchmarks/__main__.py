"""The command: `python -m benchmarks --device cpu --dtype float32`."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.cases import CASES, CPU_FLOAT32
from benchmarks.machine import fastest_product, machine, versions
from benchmarks.measuring import Setting
from benchmarks.models import preset
from benchmarks.report import print_case

SETTINGS = (
    "MALLOC_",
    "LD_PRELOAD",
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "ONEDNN_",
    "TORCH",
    "CUDA_",
    "KERAS_BACKEND",
)
"""The prefixes of the environment variables that a figure may depend on."""

CALLS_ON_A_GPU = 4
"""How often a side is called in each round on a GPU, one call right after the other."""

SET_BY_TORCH = "TORCHINDUCTOR_CACHE_DIR"
"""The environment variable that torch sets by itself; `command` leaves it out."""


def command() -> str:
    """Returns the shell command that repeats this run."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(SETTINGS) and name != SET_BY_TORCH
    }
    settings = [f"{name}={shlex.quote(value)} " for name, value in sorted(variables.items())]
    return f"{''.join(settings)}python -m benchmarks {shlex.join(sys.argv[1:])}"


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    backbones: Annotated[
        str,
        typer.Option(
            help="base (ViT-B/16, BERT-base), small (EfficientNet-Lite0, MiniLM) or tiny."
        ),
    ] = "base",
    case: Annotated[
        list[str] | None, typer.Option(help=f"Once or more; all without it: {', '.join(CASES)}.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    threads: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Start no case after so many minutes. Default: no limit."),
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Run the other cases after one has failed.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="A JSON file to write; cases that it holds already are kept."),
    ] = None,
) -> None:
    """Times the library and its peers, in one run on one machine."""
    console = Console()
    case_names = _checked_cases(case, device, dtype)
    torch.set_num_threads(threads)
    kind = getattr(torch, dtype)
    product = fastest_product(device, kind)
    calls = CALLS_ON_A_GPU if device == "cuda" else 1
    setting = Setting(preset(backbones), device, kind, batch_size, rounds, product, calls)
    made: dict[str, Any] = {
        "command": command(),
        "machine": machine(device),
        "versions": versions(),
        "backbones": backbones,
        "dtype": dtype,
        "device": device,
        "batch_size": batch_size,
        "calls": calls,
    }
    console.print(
        f"{backbones}, {dtype}, {device}, batch {batch_size}: "
        f"matrix products at {product.rate / 1e9:.0f} GFLOP/s",
        highlight=False,
    )
    left, failed = _run(case_names, setting, made, console, output, minutes, keep_going)
    if left:
        console.print(f"Not started after {minutes:g} minutes: {', '.join(left)}.")
    if failed:
        console.print(f"Failed: {', '.join(failed)}.")
        raise typer.Exit(1)


def _run(
    names: list[str],
    setting: Setting,
    made: dict[str, Any],
    console: Console,
    output: Path | None,
    minutes: float | None,
    keep_going: bool,
) -> tuple[list[str], list[str]]:
    """Runs the cases; returns those that were not started in time, and those that failed."""
    # A file may hold cases of an earlier run: they stay, so that one case can be measured again.
    stored = (
        json.loads(output.read_text(encoding="utf-8"))["cases"]
        if output is not None and output.exists()
        else {}
    )
    started, failed, left = time.perf_counter(), [], []
    for name in names:
        if minutes is not None and time.perf_counter() - started > 60 * minutes:
            left.append(name)
            continue
        try:
            result = CASES[name](setting)
        except Exception:
            if not keep_going:
                raise
            failed.append(name)
            console.print_exception()
            continue
        # Each case records where it was measured: the other cases in the file may come from another
        # day or from another machine.
        stored[name] = result | {"made": made | result.get("made", {})}
        print_case(console, name, result)
        # The file is written after every case, so that a later failure loses no measurement.
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps({"cases": stored}, indent=2) + "\n", encoding="utf-8")
    return left, failed


def _checked_cases(case: list[str] | None, device: str, dtype: str) -> list[str]:
    """Returns the names of the cases to run, once the options fit together.

    Raises:
        typer.BadParameter: for an unknown case or dtype, or for a device that cannot run it.
    """
    cpu_float32 = device == "cpu" and dtype == "float32"
    case_names = case or [name for name in CASES if cpu_float32 or name not in CPU_FLOAT32]
    unknown = [name for name in case_names if name not in CASES]
    if unknown or dtype not in ("float32", "bfloat16"):
        raise typer.BadParameter(
            f"--case must be of {list(CASES)} and --dtype float32 or bfloat16, "
            f"got {unknown} and {dtype!r}."
        )
    if not cpu_float32 and set(case_names) & CPU_FLOAT32:
        raise typer.BadParameter(
            f"--case {', '.join(CPU_FLOAT32)} runs on the CPU in float32, got {device} and {dtype}."
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("--device must be cpu where there is no GPU, got 'cuda'.")
    return case_names


if __name__ == "__main__":
    typer.run(main)
