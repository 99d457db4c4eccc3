"""The case "scaling": time and memory of the fused forward pass as the batch grows, and as the texts do.

Each point is a process of its own, so that its peak of memory is its own: `python -m
benchmarks.scaling POINT` prints JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.machine import peak_megabytes
from benchmarks.measuring import Setting, in_its_own_process, of_model, timed
from benchmarks.models import classifier, pairs, preset

BATCHES = (1, 8, 32, 64)
"""Batch sizes, texts of real lengths."""

LENGTHS = (16, 64, 128, 256, 512)
"""Text lengths, every text of the batch as long."""

BATCH_OF_LENGTHS = 8


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        backbones: the preset's name.
        device: "cpu" or "cuda".
        dtype: "float32" or "bfloat16".
        threads: of the processor.
        rounds: how often it is timed.
        batch: samples.
        length: tokens of each text; None for real lengths.
    """

    backbones: str
    device: str
    dtype: str
    threads: int
    rounds: int
    batch: int
    length: int | None = None


def scaling(setting: Setting) -> dict[str, Any]:
    """The forward pass of `concat` with more and more samples, and with longer and longer texts."""
    shared = (
        setting.chosen.name,
        setting.device,
        str(setting.dtype).removeprefix("torch."),
        torch.get_num_threads(),
    )
    points = {
        "batch": {size: Point(*shared, setting.rounds, size) for size in BATCHES},
        "length": {
            length: Point(*shared, setting.rounds, BATCH_OF_LENGTHS, length) for length in LENGTHS
        },
    }
    found: dict[str, Any] = {
        axis: {
            str(value): in_its_own_process("benchmarks.scaling", json.dumps(asdict(point)))
            for value, point in along.items()
        }
        for axis, along in points.items()
    }
    return found | {
        "made": {"inputs": "texts of the lengths of Open-i reports, then of one length"}
    }


def main(point: Point) -> None:
    """Measure `point` and print what was found."""
    torch.set_num_threads(point.threads)
    setting = Setting(
        preset(point.backbones),
        point.device,
        getattr(torch, point.dtype),
        point.batch,
        point.rounds,
    )
    inputs = pairs(
        setting.chosen, point.batch, setting.dtype, width=point.length, device=point.device
    )
    if point.length is not None:
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    seconds = timed(
        setting, {"concat": of_model(setting.place(classifier(setting.chosen, "concat")), inputs)}
    )["concat"]
    on_gpu = (
        {"peak_gpu_megabytes": torch.cuda.max_memory_allocated() / 1e6}
        if point.device == "cuda"
        else {}
    )
    rate = point.batch / seconds["median"]
    print(
        json.dumps(
            {"seconds": seconds, "pairs_per_second": rate, "peak_megabytes": peak_megabytes()}
            | on_gpu
        )
    )


if __name__ == "__main__":
    main(Point(**json.loads(sys.argv[1])))
