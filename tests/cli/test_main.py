"""The command line as a module."""

import subprocess
import sys


def test_the_package_runs_as_a_module_and_its_help_loads_no_torch() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['mmfusion', 'train', '--help']\n"
        "try:\n    runpy.run_module('mmfusion.cli', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code in (0, None), end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "cross_attention" in done.stdout
