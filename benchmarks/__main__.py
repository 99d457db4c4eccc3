"""The command: `python -m benchmarks --device cpu --dtype float32`."""

from __future__ import annotations

import json
import os
import shlex
import sys
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
"""How the names begin of what a figure may depend on in the environment."""

SET_BY_TORCH = "TORCHINDUCTOR_CACHE_DIR"
"""What torch itself adds to the environment."""


def command() -> str:
    """What to type to run this again."""
    named = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(SETTINGS) and name != SET_BY_TORCH
    }
    settings = [f"{name}={shlex.quote(value)} " for name, value in sorted(named.items())]
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
    output: Annotated[
        Path | None,
        typer.Option(help="A JSON file to write; cases that it holds already are kept."),
    ] = None,
) -> None:
    """Time the library beside its peers, in one run on one machine."""
    console = Console()
    plain = device == "cpu" and dtype == "float32"
    wanted = case or [name for name in CASES if plain or name not in CPU_FLOAT32]
    unknown = [name for name in wanted if name not in CASES]
    if unknown or dtype not in ("float32", "bfloat16"):
        raise typer.BadParameter(
            f"--case must be of {list(CASES)} and --dtype float32 or bfloat16, got {unknown} and {dtype!r}."
        )
    if not plain and set(wanted) & CPU_FLOAT32:
        raise typer.BadParameter(
            f"--case {', '.join(CPU_FLOAT32)} runs on the CPU in float32, got {device} and {dtype}."
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("--device must be cpu where there is no GPU, got 'cuda'.")
    torch.set_num_threads(threads)
    kind = getattr(torch, dtype)
    product = fastest_product(device, kind)
    setting = Setting(preset(backbones), device, kind, batch_size, rounds, product)
    made: dict[str, Any] = {
        "command": command(),
        "machine": machine(device),
        "versions": versions(),
        "backbones": backbones,
        "dtype": dtype,
        "device": device,
        "batch_size": batch_size,
    }
    kept = (
        json.loads(output.read_text(encoding="utf-8"))["cases"]
        if output is not None and output.exists()
        else {}
    )
    console.print(
        f"{backbones}, {dtype}, {device}, batch {batch_size}: matrix products at {product.rate / 1e9:.0f} GFLOP/s",
        highlight=False,
    )
    for name in wanted:
        found = CASES[name](setting)
        # Each case says where it was measured: others in the file may come from another day or
        # machine.
        kept[name] = found | {"made": made | found.get("made", {})}
        print_case(console, name, found)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps({"cases": kept}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
