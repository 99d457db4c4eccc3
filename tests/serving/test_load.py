"""64 clients at once: no answer is lost or wrong, and the memory does not grow."""

import os
from pathlib import Path

from benchmarks.serving import measure, write_tiny_model

REQUESTS = int(os.environ.get("MMFUSION_REQUESTS", "2000"))
"""The stored figures in `benchmarks/results/serving.json` are of 10,000."""


def test_many_clients_get_every_answer(tmp_path: Path) -> None:
    found = measure(write_tiny_model(tmp_path), 64, REQUESTS, "--engine", "eager")
    assert (found["requests"], found["lost"], found["wrong"]) == (REQUESTS, 0, 0)
    # With the inputs of each request kept on purpose, it grew by 34 MiB.
    grown = found["memory_after_mib"] - found["memory_before_mib"]
    assert grown < 25, found
