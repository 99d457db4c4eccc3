"""Mutated tables: `load_manifest` reads them, or refuses them with a sentence.

`MMFUSION_FUZZ` is the number of mutations. They follow from their numbers, so a failure repeats:
`python tests/fuzz/tables_worker.py FOLDER 17 18` reads number 17 alone.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("tables_worker.py")
COUNT = int(os.environ.get("MMFUSION_FUZZ", "200"))
# The memory of one process grows by what the allocators keep, so each reads a share.
SHARE = 1000


def outcomes(folder: Path, first: int, last: int) -> list[dict[str, Any]]:
    """Returns what became of each mutation of the seeds; a crash or a hang is told by its seed."""
    command = [sys.executable, str(WORKER), str(folder), str(first), str(last)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{lines[-1:]} ended the process: {done.stderr[-2000:]}"
    return [line for line in lines if line["kind"] != "begun"]


@pytest.mark.parametrize("first", range(0, COUNT, SHARE))
def test_a_mutated_table_is_read_or_refused_with_a_sentence(tmp_path: Path, first: int) -> None:
    last = min(first + SHARE, COUNT)
    found = outcomes(tmp_path, first, last)
    assert len(found) == last - first
    for outcome in found:
        assert outcome["kind"] in ("rows", "ValueError"), outcome
        if outcome["kind"] == "ValueError":
            # Each sentence has this form; an error from inside a library has not.
            assert " must " in outcome["message"], outcome
            assert outcome["message"].endswith((".", "?")), outcome
            assert len(outcome["message"]) < 3000, outcome
    kinds = Counter(outcome["kind"] for outcome in found)
    # Mutations that are all refused, or all read, would test little.
    assert min(kinds["rows"], kinds["ValueError"]) > len(found) / 10
