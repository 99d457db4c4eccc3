"""Timing by turns: every side once in each round, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

Side = Callable[[], Any]


def by_turns(sides: Mapping[str, Side], *, rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each side in each round.

    Args:
        sides: what to time, by name; each call does the whole work once.
        rounds: how often, at least 1.
        warm_up: rounds before, not counted: compilation, caches, and the allocator's first pages.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-warm_up, rounds):
        for name, side in sides.items():
            _wait()
            started = time.perf_counter()
            side()
            _wait()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def spread(seconds: list[float]) -> dict[str, Any]:
    """The median with the 10th and the 90th percentile, in seconds, and every round."""
    low, high = np.percentile(seconds, (10, 90))
    return {
        "median": float(np.median(seconds)),
        "low": float(low),
        "high": float(high),
        "rounds": [round(value, 6) for value in seconds],
    }


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
