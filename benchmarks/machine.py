"""The measured machine: its processor, versions, peak memory and rate of matrix products."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from benchmarks.processor import processor
from benchmarks.timing import by_turns

_PACKAGES = ("mmfusion", "torch", "transformers", "timm", "onnxruntime")
"""The packages whose versions a figure may depend on."""


def machine(device: str) -> dict[str, Any]:
    """Returns the processor, its threads in use, the platform, and on CUDA the accelerator."""
    facts: dict[str, Any] = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }
    if device == "cuda":
        facts["accelerator"] = torch.cuda.get_device_name()
    return facts


def versions() -> dict[str, str]:
    """Returns the installed versions of `_PACKAGES`, and the measured commit if git knows it."""
    installed = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _git("rev-parse", "--short", "HEAD")
    if commit:
        # Only changes of the code count: writing results changes files of the tree as well.
        installed["commit"] = commit + (
            "-dirty" if _git("status", "--porcelain", "--", "src", "benchmarks/*.py") else ""
        )
    return installed


def _git(*words: str) -> str:
    """Returns git's output on this repository; empty without a repository or without git."""
    if shutil.which("git") is None:
        return ""
    done = subprocess.run(
        ["git", *words], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def peak_megabytes() -> float:
    """Returns the peak resident memory of this process, in megabytes (10^6 bytes)."""
    # getrusage is no good on Linux: a process inherits the maximum of its parent.
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        # The line is in kilobytes; getrusage below answers in bytes on macOS.
        return int(line.split()[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


@final
@dataclass(frozen=True)
class Product:
    """A plain matrix product, whose rate is the upper limit of a model's rate.

    Attributes:
        run: does one multiplication of the two matrices.
        operations: the floating-point operations of one run, two for each multiplication.
        rate: the operations per second that were measured when the product was chosen.
    """

    run: Callable[[], object]
    operations: float
    rate: float


def fastest_product(device: str, dtype: torch.dtype) -> Product:
    """Returns the product with the best rate.

    The shapes are those of a transformer's layers and a square one. The rate of each is the median
    of five rounds.
    """
    # A GPU reaches its best rate only on larger matrices.
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
