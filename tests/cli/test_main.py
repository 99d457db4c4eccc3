"""`python -m mmfusion` and the entry point of the commands."""

import gc
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import mmfusion
from mmfusion.cli import app


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


def test_a_command_exits_without_a_search_for_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    at_exit: list[object] = []
    monkeypatch.setattr("atexit.register", at_exit.append)
    before = gc.get_threshold()
    # The default of Python. The processes of the tests have larger numbers.
    gc.set_threshold(700, 10, 10)
    try:
        assert CliRunner().invoke(app, ["predict", "nowhere"]).exit_code != 0
        assert at_exit == [gc.freeze] and gc.get_threshold()[0] > 700 and gc.isenabled()
    finally:
        gc.set_threshold(*before)
