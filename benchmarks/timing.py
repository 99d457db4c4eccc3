"""Timing by turns: every side runs once in each round.

Other work of the machine then slows all sides alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

Side = Callable[[], Any]
"""One of the sides that are compared: a call does the whole work once."""


def by_turns(
    sides: Mapping[str, Side], *, rounds: int, warm_up: int = 1, calls: int = 1
) -> dict[str, list[float]]:
    """Returns the seconds that each side takes for one call, in each round.

    Args:
        sides: the sides to time, by name.
        rounds: the number of rounds, at least 1.
        warm_up: the number of rounds before them that are not timed. They leave compilation, cold
            caches and first allocations out of the times.
        calls: how often a side is called in a round, one call right after the other. A GPU then
            computes one batch while the host prepares the next, as with a stream of batches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-warm_up, rounds):
        for name, side in sides.items():
            # CUDA runs asynchronously: earlier work must end before the clock starts.
            _wait()
            started = time.perf_counter()
            for _ in range(calls):
                side()
            _wait()
            # Negative turns are the warm-up.
            if turn >= 0:
                seconds[name].append((time.perf_counter() - started) / calls)
    return seconds


def spread(seconds: list[float]) -> dict[str, Any]:
    """Returns the median, the 10th and the 90th percentile, and every round, in seconds."""
    low, high = np.percentile(seconds, (10, 90))
    return {
        "median": float(np.median(seconds)),
        "low": float(low),
        "high": float(high),
        "rounds": [round(value, 6) for value in seconds],
    }


def _wait() -> None:
    """Waits until the GPU has done all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
