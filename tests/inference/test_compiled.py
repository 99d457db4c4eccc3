"""The compiled classifier; its tests are in the files of `workers` that are named here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["compiled_cases", "compiled_rows"])
def test_the_compiled_classifier(name: str) -> None:
    # This needs a process of its own, because torch.compile and the run-time check of shapes clash.
    cases = Path(__file__).parents[1] / "workers" / f"{name}.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    environment = os.environ | {"MMFUSION_SHAPES_UNCHECKED": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout
