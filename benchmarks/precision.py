"""The case "int8": the compiled classifier in float32, bfloat16 and 8-bit integers."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.measuring import Setting, timed
from benchmarks.models import classifier, pairs
from benchmarks.timing import Side
from mmfusion import CompiledClassifier
from mmfusion.inference.int8 import parity

PRECISIONS: dict[str, Any] = {"float32": None, "bfloat16": torch.bfloat16, "int8": "int8"}
"""The precisions by name, as `CompiledClassifier` takes them."""


def int8(setting: Setting) -> dict[str, Any]:
    """Returns the times of `CompiledClassifier` in each precision, and how far the answers move.

    The weights are random. The answers of trained models are compared by
    examples/lung_disease/precision.py.
    """
    if importlib.util.find_spec("torchao") is None:
        return {"skipped": "torchao is not installed"}
    inputs = pairs(setting.chosen, setting.batch, torch.float32, device=setting.device)
    model = classifier(setting.chosen, "concat").to(setting.device)
    sides: dict[str, Side] = {}
    for name, dtype in PRECISIONS.items():
        fast = CompiledClassifier(model, dtype=dtype, batch_sizes=(setting.batch,))
        sides[name] = lambda fast=fast: fast(**inputs).logits
    with torch.inference_mode():
        expected = model(**inputs).logits
        found = {name: asdict(parity(expected, side())) for name, side in sides.items()}
    seconds = timed(setting, sides)
    medians = {name: side["median"] for name, side in seconds.items()}
    return {
        "seconds": seconds,
        "parity": found,
        "bfloat16_over_int8": medians["bfloat16"] / medians["int8"],
    }
