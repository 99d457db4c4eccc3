"""The parts that the cases share: their setting, and the timing of sides with equal answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from benchmarks.machine import Product
from benchmarks.models import Preset
from benchmarks.timing import Side, by_turns, spread
from mmfusion import CompiledClassifier, FusionClassifier
from mmfusion.model.facts import look

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
"""The largest difference from float32 eager that counts as equal, for entries of about 1."""

PRODUCTS = 5
"""The number of matrix products that run in each round."""


@final
@dataclass(frozen=True)
class Setting:
    """The settings that all cases of a run share.

    Attributes:
        chosen: the backbones.
        device: "cpu" or "cuda".
        dtype: the dtype of the weights and the pictures.
        batch: the samples per batch.
        rounds: how often each side is timed.
        product: the fastest matrix product in this dtype; with None no share of its rate is given.
        calls: how often each side is called in a round, one call right after the other.
    """

    chosen: Preset
    device: str
    dtype: torch.dtype
    batch: int
    rounds: int
    product: Product | None = None
    calls: int = 1

    def place(self, module: Any) -> Any:
        """Returns `module`, moved to the device and the dtype."""
        return module.to(self.device, self.dtype)


def with_facts(inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns the inputs, on CUDA with the facts that `FusionCollator` adds to a batch.

    On a CPU the facts would save nothing, because a model checks them there.
    """
    on_cpu = next(iter(inputs.values())).device.type == "cpu"
    return dict(inputs) if on_cpu else {**inputs, "facts": look(inputs)}


def of_model(model: FusionClassifier, inputs: Mapping[str, Tensor]) -> Side:
    """Returns a side that computes the model's logits."""
    batch = with_facts(inputs)
    return lambda: model(**batch).logits


def of_compiled(model: FusionClassifier, inputs: Mapping[str, Tensor]) -> Side:
    """Returns a side that computes the logits of the model's compiled copy.

    The copy is compiled for the batch size of the inputs and for its default lengths.
    """
    fast = CompiledClassifier(model, batch_sizes=(len(inputs["input_ids"]),))
    batch = with_facts(inputs)
    return lambda: fast(**batch).logits


def timed(
    setting: Setting, sides: Mapping[str, Side], *, warm_up: int = 1, training: bool = False
) -> dict[str, Any]:
    """Returns the seconds of each side; the sides take turns in every round."""
    # Inference mode forbids the backward pass.
    with torch.inference_mode(not training):
        measured = by_turns(sides, rounds=setting.rounds, warm_up=warm_up, calls=setting.calls)
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
    """Returns the seconds of each side, after each was found to answer as float32 eager does.

    Args:
        setting: the setting of the run.
        sides: the sides to time by name; each returns a tensor [B, ...].
        expected: the expected answer, one for all sides or one for each side.
        only: the rows to compare, for each side of which not all rows are compared.
        operations: the floating-point operations that the work of each side needs. With them the
            result gives each side's share of the rate of matrix products; None leaves it out. The
            matrix products take turns with the sides, so that a slow minute of the machine slows
            both.
        tolerance: the largest allowed difference; None takes the one of the dtype in `TOLERANCE`.

    Raises:
        RuntimeError: when the answer of a side differs by more than `tolerance`.
    """
    tolerance = TOLERANCE[setting.dtype] if tolerance is None else tolerance
    differences: dict[str, float] = {}
    with torch.inference_mode():
        for name, side in sides.items():
            answer = expected[name] if isinstance(expected, Mapping) else expected
            # Some sides cut long texts: their rows have another answer, and are left out.
            rows = (only or {}).get(name, list(range(len(answer))))
            difference = (side().float().cpu()[rows] - answer.cpu()[rows]).abs()
            differences[name] = float(difference.max()) if len(rows) else 0.0
    # Not `value > tolerance`: a NaN must count as wrong, too.
    wrong = {name: value for name, value in differences.items() if not value <= tolerance}
    if wrong:
        raise RuntimeError(
            f"all sides must answer as float32 eager does within {tolerance:g}, got {wrong}. "
            "Nothing was timed."
        )
    counted = {name: value for name, value in (operations or {}).items() if value is not None}
    product = setting.product if counted else None
    # One product alone may be too short for the clock, so each round runs several.
    roof: dict[str, Side] = (
        {} if product is None else {"roof": lambda: [product.run() for _ in range(PRODUCTS)]}
    )
    # On a CPU the comparison above was the warm-up. On CUDA a graph is recorded in the second call.
    seconds = timed(setting, {**sides, **roof}, warm_up=0 if setting.device == "cpu" else 2)
    result: dict[str, Any] = {"seconds": seconds, "largest_difference": differences}
    if product is not None:
        rate = PRODUCTS * product.operations / seconds.pop("roof")["median"]
        result |= {"operations": counted, "matmul_rate": rate}
        result["share_of_matmul_rate"] = {
            name: value / seconds[name]["median"] / rate for name, value in counted.items()
        }
    return result


def cut(lengths: list[int], side: str) -> list[int]:
    """Returns the lengths of the texts that a side gets; a side "to 128" cuts longer texts."""
    return [min(length, 128) for length in lengths] if side.endswith("to 128") else lengths


def in_its_own_process(module: str, *words: str) -> dict[str, Any]:
    """Returns the parsed JSON that `python -m MODULE WORDS` prints.

    Raises:
        RuntimeError: when the command fails, with the end of its error output.
    """
    # From the repository's root, where `benchmarks` can be imported.
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} must end well, "
            f"got status {done.returncode}: {done.stderr[-2000:]}"
        )
    result: dict[str, Any] = json.loads(done.stdout)
    return result
