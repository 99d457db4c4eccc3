"""One measurement of the case "growth", in a process of its own.

`python -m benchmarks.streamed DEVICE PAIRS` prints JSON.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from benchmarks.machine import peak_megabytes
from benchmarks.models import classifier, preset
from mmfusion import FusionProcessor, predict_stream
from mmfusion.data.toy import word_tokenizer


def main(device: str, count: int) -> None:
    """Streams `count` pairs through tiny towers and prints the rate and the peak memory."""
    model = classifier(preset("tiny"), "concat").to(device)
    assert model.image_encoder is not None
    words = [f"word{i}" for i in range(200)]
    processor = FusionProcessor(word_tokenizer(words), model.image_encoder.input_spec)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    # A generator: a list of all samples would hide what the streaming itself holds.
    samples = (
        {
            "image": picture,
            "text": " ".join(words[(index + k) % 200] for k in range(1 + index % 60)),
        }
        for index in range(count)
    )
    started = time.perf_counter()
    answered = sum(1 for _ in predict_stream(model, processor, samples, progress=False))
    seconds = time.perf_counter() - started
    # A rate that leaves out lost pairs would be too good.
    if answered != count:
        raise RuntimeError(f"every pair must be answered, got {answered} of {count}.")
    print(
        json.dumps(
            {
                "seconds": seconds,
                "pairs_per_second": count / seconds,
                "peak_megabytes": peak_megabytes(),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
