"""What the cases share: their setting, and timing of sides that have first answered alike."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import Product
from benchmarks.models import Preset
from benchmarks.timing import Side, by_turns, spread
from mmfusion import CompiledClassifier, FusionClassifier

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
"""The largest difference from float32 eager that counts as the same answer, of embeddings whose entries are about 1."""

PRODUCTS = 5
"""Matrix products in each of their turns."""


@dataclass(frozen=True)
class Setting:
    """What all cases share.

    Attributes:
        chosen: the backbones.
        device: "cpu" or "cuda".
        dtype: of weights and pictures.
        batch: samples per batch.
        rounds: how often each side is timed.
        product: the fastest matrix product in this dtype; None leaves the roofline out.
    """

    chosen: Preset
    device: str
    dtype: torch.dtype
    batch: int
    rounds: int
    product: Product | None = None

    def place(self, module: Any) -> Any:
        """`module` on the device, in the dtype."""
        return module.to(self.device, self.dtype)


def of_model(model: FusionClassifier, inputs: Mapping[str, Tensor]) -> Side:
    """The model's logits."""
    return lambda: model(**inputs).logits


def of_compiled(model: FusionClassifier, inputs: Mapping[str, Tensor]) -> Side:
    """The logits of the model's compiled copy, which holds the inputs' batch size and the lengths it has by itself."""
    fast = CompiledClassifier(model, batch_sizes=(len(inputs["input_ids"]),))
    return lambda: fast(**inputs).logits


def timed(
    setting: Setting, sides: Mapping[str, Side], *, warm_up: int = 1, training: bool = False
) -> dict[str, Any]:
    """The sides' seconds, by turns."""
    with torch.inference_mode(not training):
        measured = by_turns(sides, rounds=setting.rounds, warm_up=warm_up)
    return {name: spread(seconds) for name, seconds in measured.items()}


def compared(
    setting: Setting,
    sides: Mapping[str, Side],
    expected: Tensor | Mapping[str, Tensor],
    only: Mapping[str, list[int]] | None = None,
    *,
    operations: Mapping[str, float | None] | None = None,
    tolerance: float | None = None,
) -> dict[str, Any]:
    """The sides' seconds, once each has answered as float32 eager does.

    Args:
        setting: the run's.
        sides: what to time, each returning a tensor [B, ...].
        expected: the answer, one for all or one for each.
        only: the rows to compare of a side, where it is not all.
        operations: floating-point operations that each side's work needs; None leaves the roofline
            out. With it matrix products take their turn among the sides, so that a slow minute of
            the machine lowers the roof as well.
        tolerance: the largest difference; None takes that of the dtype.

    Raises:
        RuntimeError: when a side answers otherwise.
    """
    tolerance = TOLERANCE[setting.dtype] if tolerance is None else tolerance
    apart: dict[str, float] = {}
    with torch.inference_mode():
        for name, side in sides.items():
            wanted = expected[name] if isinstance(expected, Mapping) else expected
            rows = (only or {}).get(name, list(range(len(wanted))))
            difference = (side().float().cpu()[rows] - wanted.cpu()[rows]).abs()
            apart[name] = float(difference.max()) if len(rows) else 0.0
    wrong = {name: value for name, value in apart.items() if not value <= tolerance}
    if wrong:
        raise RuntimeError(
            f"all sides must answer as float32 eager does within {tolerance:g}, got {wrong}. Nothing was timed."
        )
    # On a CPU the answers were the warm-up; a graph on CUDA is recorded in the second call.
    known = {name: value for name, value in (operations or {}).items() if value is not None}
    product = setting.product if known else None
    roof: dict[str, Side] = (
        {} if product is None else {"roof": lambda: [product.run() for _ in range(PRODUCTS)]}
    )
    seconds = timed(setting, {**sides, **roof}, warm_up=0 if setting.device == "cpu" else 2)
    found: dict[str, Any] = {"seconds": seconds, "largest_difference": apart}
    if product is not None:
        rate = PRODUCTS * product.operations / seconds.pop("roof")["median"]
        found |= {"operations": known, "matmul_rate": rate}
        found["share_of_matmul_rate"] = {
            name: value / seconds[name]["median"] / rate for name, value in known.items()
        }
    return found


def cut(lengths: list[int], side: str) -> list[int]:
    """The lengths that a side is given: one that pads to 128 cuts there what is longer."""
    return [min(length, 128) for length in lengths] if side.endswith("to 128") else lengths


def in_its_own_process(module: str, *words: str) -> dict[str, Any]:
    """What `python -m MODULE WORDS` prints as JSON.

    Raises:
        RuntimeError: with its last words, when it fails.
    """
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} must end well, got status {done.returncode}: {done.stderr[-2000:]}"
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found
