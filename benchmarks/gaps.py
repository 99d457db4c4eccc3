"""The case "gaps": how much of a forward pass a GPU computes, and how often the host waits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.measuring import Setting, of_compiled, of_model
from benchmarks.models import classifier, pairs
from benchmarks.timing import Side

PASSES = 5
"""The forward passes that are recorded."""

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
"""The calls of CUDA in which the host waits for the device."""


def gaps(setting: Setting) -> dict[str, Any]:
    """Returns of the eager and of the compiled pass how much of it the device is at work."""
    if setting.device != "cuda":
        return {"skipped": "only a GPU computes while the host goes on"}
    inputs = pairs(setting.chosen, setting.batch, setting.dtype, device=setting.device)
    model = setting.place(classifier(setting.chosen, "concat"))
    sides = {"packed": of_model(model, inputs), "compiled": of_compiled(model, inputs)}
    with torch.inference_mode():
        return {"device_at_work": {name: recorded(side) for name, side in sides.items()}}


def recorded(side: Side) -> dict[str, float]:
    """Returns what the profiler sees of some passes of one side.

    | key | meaning |
    | --- | --- |
    | busy | share of the time from the first to the last kernel in which one runs |
    | longest_gap_microseconds | the longest time without a kernel |
    | kernels | per pass |
    | waits | how often the host waits inside a pass |

    Args:
        side: one of the sides that are compared.
    """
    for _ in range(3):
        side()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(PASSES):
            side()
        torch.cuda.synchronize()
    events = profiler.events() or []
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type == DeviceType.CUDA
    ]
    share, longest = busy(spans)
    # The last wait is the one after all passes.
    waits = sum(event.name in WAITS for event in events) - 1
    return {
        "busy": share,
        "longest_gap_microseconds": longest,
        "kernels": len(spans) / PASSES,
        "waits": waits / PASSES,
    }


def busy(spans: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Returns the share of the time that is covered by spans, and the longest gap between them.

    Args:
        spans: starts and ends; they may overlap. At least one.

    Example:
        >>> busy([(0, 4), (2, 5), (7, 10)])
        (0.8, 2)
    """
    first, *rest = sorted(spans)
    start, end, gap, longest = first[0], first[1], 0.0, 0.0
    for left, right in rest:
        gap, longest = gap + max(0, left - end), max(longest, left - end)
        end = max(end, right)
    return 1 - gap / (end - start), longest
