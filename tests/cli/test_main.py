"""`python -m mmfusion` and the entry point of the commands."""

import subprocess
import sys

import pytest

import mmfusion


@pytest.mark.parametrize("module", ["mmfusion", "mmfusion.cli"])
def test_the_package_runs_as_a_module_and_its_help_loads_no_torch(module: str) -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['mmfusion', '--help']\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__')\n"
        "except SystemExit:\n"
        "    print('heavy:', *{'torch', 'transformers', 'datasets', 'yaml'} & set(sys.modules))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "train" in answer.stdout and answer.stdout.rstrip().endswith("heavy:")


def test_the_version_is_printed() -> None:
    command = [sys.executable, "-m", "mmfusion", "--version"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.stdout == f"mmfusion {mmfusion.__version__}\n" and not answer.stderr
