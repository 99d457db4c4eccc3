"""The outputs of every strategy from fixed seeds, compared with stored ones.

`python tests/golden/test_golden.py` writes them anew.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmfusion import testing as kit

FILE = Path(__file__).with_name("strategies.json")
STRATEGIES: dict[str, Any] = {
    "concat": "concat",
    "joint": "joint",
    "joint at 0": {"name": "joint", "at": 0},
    "joint after the tower": {"name": "joint", "at": 4},
    "cross_attention": "cross_attention",
    "mmtm": "mmtm",
    "bottleneck": "bottleneck",
    "film": "film",
    "film with the image": {"name": "film", "at": 2, "with_image": True},
    "gated": "gated",
    "low_rank": "low_rank",
    "tokens": "tokens",
    "late mean": {"name": "late", "combine": "mean"},
    "late learned": {"name": "late", "combine": "learned"},
    "late product": "late",
    "guarded": "guarded",
}


def outputs(name: str) -> dict[str, Any]:
    """Returns the logits and the loss of a seeded model on a seeded batch."""
    model = kit.tiny_classifier(STRATEGIES[name], "mlp")
    with torch.no_grad():
        output = model(**kit.tiny_batch(model))
    return {
        "logits": [[round(x, 6) for x in row] for row in output.logits.tolist()],
        "loss": round(float(output.loss), 6),
    }


@pytest.mark.parametrize("name", STRATEGIES)
def test_outputs_are_those_on_file(name: str) -> None:
    expected, got = json.loads(FILE.read_text(encoding="utf-8"))[name], outputs(name)
    torch.testing.assert_close(
        torch.tensor(got["logits"]), torch.tensor(expected["logits"]), atol=1e-4, rtol=0
    )
    assert got["loss"] == pytest.approx(expected["loss"], abs=1e-4)


if __name__ == "__main__":
    FILE.write_text(
        json.dumps({name: outputs(name) for name in STRATEGIES}, indent=1) + "\n", encoding="utf-8"
    )
