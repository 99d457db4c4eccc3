"""The case "scaling": time and memory of the fused forward pass for growing batches and texts.

Each point is measured in a process of its own, because the peak of memory belongs to a process.
`python -m benchmarks.scaling POINT` measures one point and prints JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any, final

import torch

from benchmarks.machine import peak_megabytes
from benchmarks.measuring import Setting, in_its_own_process, of_model, timed
from benchmarks.models import classifier, pairs, preset

BATCHES = (1, 8, 32, 64)
"""The batch sizes; the texts have the lengths of real reports."""

LENGTHS = (16, 64, 128, 256, 512)
"""The text lengths in tokens; all texts of a batch have the same length."""

BATCH_OF_LENGTHS = 8
"""The batch size of the points in `LENGTHS`."""


@final
@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        backbones: the name of the preset.
        device: "cpu" or "cuda".
        dtype: "float32" or "bfloat16".
        threads: the number of threads that torch uses.
        rounds: how often the forward pass is timed.
        batch: the samples per batch.
        length: the tokens of each text; None for the lengths of real reports.
    """

    backbones: str
    device: str
    dtype: str
    threads: int
    rounds: int
    batch: int
    length: int | None = None


def scaling(setting: Setting) -> dict[str, Any]:
    """Returns the times and the peak memory of `concat` for growing batches and text lengths."""
    # The process of a point does not share the settings of this one, so it gets them by value.
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
    results: dict[str, Any] = {
        axis: {
            str(value): in_its_own_process("benchmarks.scaling", json.dumps(asdict(point)))
            for value, point in along.items()
        }
        for axis, along in points.items()
    }
    return results | {
        "made": {"inputs": "texts of the lengths of Open-i reports, then of one length"}
    }


def main(point: Point) -> None:
    """Measures `point` and prints the result as JSON."""
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
    # `pairs` draws the lengths of real reports; here every text fills its width.
    if point.length is not None:
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    seconds = timed(
        setting, {"concat": of_model(setting.place(classifier(setting.chosen, "concat")), inputs)}
    )["concat"]
    # Without a GPU the key is absent, and the table has no column for it.
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
