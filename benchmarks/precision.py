"""The case "int8": the compiled classifier in float32, bfloat16 and 8-bit integers."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from typing import Any
from unittest import mock

import torch
from transformers import BertConfig

from benchmarks.measuring import Setting, timed
from benchmarks.models import classifier, pairs, texts
from mmfusion import CompiledClassifier, FusionClassifier, TextEncoder
from mmfusion.inference import int8 as quantising
from mmfusion.inference.parity import parity

WIDTHS = (128, 256, 384, 512, 768)
"""The widths of the text encoders that show from which width on integers are faster."""


def int8(setting: Setting) -> dict[str, Any]:
    """Returns the times of `CompiledClassifier` in each precision, and how far the answers move.

    The weights are random. The answers of trained models are compared by
    examples/lung_disease/precision.py. Text encoders of three layers show what a width gains.
    """
    if importlib.util.find_spec("torchao") is None:
        return {"skipped": "torchao is not installed"}
    inputs = pairs(setting.chosen, setting.batch, torch.float32, device=setting.device)
    model = classifier(setting.chosen, "concat").to(setting.device)
    precisions = {"float32": None, "bfloat16": torch.bfloat16, "int8": "int8"}
    try:
        fast = {name: _compiled(model, dtype, setting) for name, dtype in precisions.items()}
    except ValueError as error:
        return {"skipped": str(error)}
    sides = {name: lambda one=one: one(**inputs).logits for name, one in fast.items()}
    with torch.inference_mode():
        expected = model(**inputs).logits
        found = {name: asdict(parity(expected, side())) for name, side in sides.items()}
    return {
        "seconds": timed(setting, sides),
        "parity": found,
        **{f"text encoder of width {width}": _of_width(width, setting) for width in WIDTHS},
    }


def _of_width(width: int, setting: Setting) -> dict[str, Any]:
    """Returns the times of a text encoder, with all of its linear layers quantised."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=width,
        num_hidden_layers=3,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
    )
    model = FusionClassifier(text_encoder=TextEncoder(config)).eval().to(setting.device)
    inputs = texts(setting.batch, device=setting.device)
    with mock.patch.object(quantising, "LEAST_WIDTH", 1):
        fast = {"bfloat16": _compiled(model, torch.bfloat16, setting)}
        fast["int8"] = _compiled(model, "int8", setting)
    sides = {name: lambda one=one: one(**inputs).logits for name, one in fast.items()}
    return {"seconds": timed(setting, sides)}


def _compiled(model: FusionClassifier, dtype: Any, setting: Setting) -> CompiledClassifier:
    return CompiledClassifier(model, dtype=dtype, batch_sizes=(setting.batch,))
