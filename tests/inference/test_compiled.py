"""The compiled classifier; its tests are in workers/compiled_cases.py."""

import os
import subprocess
import sys
from pathlib import Path


def test_the_compiled_classifier() -> None:
    # This needs a process of its own, because torch.compile and the run-time check of shapes clash.
    cases = Path(__file__).parents[1] / "workers" / "compiled_cases.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    environment = os.environ | {"MMFUSION_SHAPES_UNCHECKED": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout
