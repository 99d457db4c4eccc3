"""The script that rewrites transformers_families.json; it takes about ten minutes.

    python tests/golden/make_transformers_families.py
    python tests/golden/make_transformers_families.py bert vit

It runs every family of transformers that takes texts alone or pictures alone through the laws, in a
tiny configuration and a process of its own. With names, it runs these families again. `verdict` is
"laws hold" or the reason of the refusal. `padded` says whether the laws hold too where texts stand
in one padded batch. `unused` are the parameters that get no gradient. `heads` are the classes with
a head whose checkpoints give the encoder the weights of their base model to the bit, and
`refused_heads` those whose checkpoints it refuses, because they lack a part of the base model.

Where a law is broken, the script says so and its exit status is 1. Then name the family in
`mmfusion/model/encoder_families.py`. `python docs/_ext/part_tables.py` writes the table of the
documentation from the file.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import transformers

from mmfusion.model.adapter_bert import pool_by, text_runner
from mmfusion.model.encoder_families import REFUSED
from mmfusion.model.encoder_image import ImageEncoder
from mmfusion.model.encoder_text import TextEncoder
from mmfusion.testing.families import (
    check_family,
    check_heads,
    families,
    tiny_family_config,
)

TABLE = Path(__file__).with_name("transformers_families.json")
SECONDS = 100


def _compute_padded(encoder: Any) -> None:
    if hasattr(encoder.adapter, "run"):
        encoder.adapter.run = text_runner(pool_by("mean"))


def row_of(family: str, kind: str) -> dict[str, Any]:
    """Returns the verdict of one family."""
    if family in REFUSED:
        return {"kind": kind, "verdict": f"refused: {REFUSED[family]}"}
    try:
        made = TextEncoder if kind == "text" else ImageEncoder
        made(tiny_family_config(family))
    except ValueError as error:
        reason = str(error).split(f"{family!r}, ")[-1].split(". Choose")[0]
        return {"kind": kind, "verdict": f"refused: {reason.removeprefix('which ')}"}
    row = {"kind": kind, "verdict": "laws hold", "unused": check_family(family, kind)}
    row["heads"], row["refused_heads"] = check_heads(family, kind)
    if kind == "text":
        try:
            check_family(family, kind, setup=_compute_padded)
            row["padded"] = True
        # Families that cannot be padded fail in any way.
        except Exception:
            row["padded"] = False
    return row


def in_a_process(family: str, kind: str) -> dict[str, Any]:
    """Returns the verdict of one family, from a process that may crash or hang."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(SECONDS)
        try:
            row = row_of(family, kind)
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            row = {"kind": kind, "broken": f"{error!r:.300} in {where.filename}:{where.lineno}"}
        os.write(writing, json.dumps(row).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer) if answer else {"kind": kind, "broken": "killed"}


def main(names: list[str]) -> int:
    """Writes the table and returns the number of families that break a law."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    old = json.loads(TABLE.read_text())["families"] if names else {}
    rows = dict(old)
    for kind in ("text", "image"):
        for family in families(kind):
            if not names or family in names:
                rows[family] = in_a_process(family, kind)
    broken = {family: row["broken"] for family, row in rows.items() if "broken" in row}
    for family, reason in broken.items():
        print(f"{family} must keep the laws or be refused: {reason}")
    held = {"transformers": transformers.__version__, "families": dict(sorted(rows.items()))}
    TABLE.write_text(json.dumps(held, indent=1) + "\n")
    return len(broken)


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
