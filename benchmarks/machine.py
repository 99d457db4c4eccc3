"""What the figures were measured on: the processor, the versions, and how fast it multiplies matrices."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from benchmarks.processor import processor
from benchmarks.timing import by_turns

_PACKAGES = ("mmfusion", "torch", "transformers", "timm", "onnxruntime")


def machine(device: str) -> dict[str, Any]:
    """The processor, its cores in use, and the accelerator if there is one."""
    found: dict[str, Any] = {"processor": processor(), "threads": torch.get_num_threads(), "platform": platform.platform()}
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
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return found | ({} if described.returncode else {"commit": described.stdout.strip()})


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """The best rate of a plain matrix product, in floating-point operations per second: the roof of what follows.

    The best over shapes such as a transformer's and square ones, each the median of five.
    """
    side = 8192 if device == "cuda" else 2048
    shapes = [(side, 768, 3072), (side, 3072, 768), (side, 1024, 1024), (side, side, side)]
    pairs = [(torch.randn(m, k, device=device, dtype=dtype), torch.randn(k, n, device=device, dtype=dtype)) for m, k, n in shapes]
    sides = {str(shape): (lambda a=a, b=b: a @ b) for shape, (a, b) in zip(shapes, pairs, strict=True)}
    best = 0.0
    for (m, k, n), seconds in zip(shapes, by_turns(sides, rounds=5, warm_up=2).values(), strict=True):
        best = max(best, 2 * m * k * n / sorted(seconds)[2])
    return best
