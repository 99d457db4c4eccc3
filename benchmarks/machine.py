"""What the figures were measured on: the processor, the versions, memory, and how fast it multiplies matrices."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.processor import processor
from benchmarks.timing import by_turns

_PACKAGES = ("mmfusion", "torch", "transformers", "timm", "onnxruntime")


def machine(device: str) -> dict[str, Any]:
    """The processor, its cores in use, and the accelerator if there is one."""
    found: dict[str, Any] = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }
    if device == "cuda":
        found["accelerator"] = torch.cuda.get_device_name()
    return found


def versions() -> dict[str, str]:
    """What was installed, of what matters, and the commit that was measured, where git knows it."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _git("rev-parse", "--short", "HEAD")
    if commit:
        found["commit"] = commit + (
            "-dirty" if _git("status", "--porcelain", "--", "src", "benchmarks/*.py") else ""
        )
    return found


def _git(*words: str) -> str:
    """What git says of the repository that holds this file; nothing outside of one, or without git."""
    if shutil.which("git") is None:
        return ""
    done = subprocess.run(
        ["git", *words], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def peak_megabytes() -> float:
    """The most memory this process ever held. Not getrusage on Linux, whose maximum a process inherits from its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


@dataclass(frozen=True)
class Product:
    """Plain matrix products whose rate is the roof of what is measured.

    Attributes:
        run: multiplies.
        operations: floating-point operations of one run, two per multiplication.
        rate: operations per second when it was chosen.
    """

    run: Callable[[], object]
    operations: float
    rate: float


def fastest_product(device: str, dtype: torch.dtype) -> Product:
    """The product with the best rate, of shapes such as a transformer's and square ones, each the median of five."""
    side = 8192 if device == "cuda" else 2048
    shapes = [(side, 768, 3072), (side, 3072, 768), (side, 1024, 1024), (side, side, side)]
    pairs = [
        (
            torch.randn(m, k, device=device, dtype=dtype),
            torch.randn(k, n, device=device, dtype=dtype),
        )
        for m, k, n in shapes
    ]
    sides = {
        str(shape): (lambda a=a, b=b: a @ b) for shape, (a, b) in zip(shapes, pairs, strict=True)
    }
    measured = by_turns(sides, rounds=5, warm_up=2)
    candidates = [
        Product(side, 2.0 * m * k * n, 2.0 * m * k * n / sorted(measured[name])[2])
        for (m, k, n), (name, side) in zip(shapes, sides.items(), strict=True)
    ]
    return max(candidates, key=lambda product: product.rate)
