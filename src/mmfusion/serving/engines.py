"""What answers a batch: the model as it is, compiled, or as a graph of ONNX."""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..inference.compiled import CompiledClassifier
from ..inference.export import export_model
from ..inference.stream import batch_logits
from ..model.modeling import FusionClassifier
from ..model.validation import check_choice
from .batching import Engine, Logits

ENGINES = ("compiled", "eager", "onnx")
DTYPES = ("float32", "bfloat16", "int8")


def make_engine(
    model: FusionClassifier,
    kind: str = "eager",
    *,
    dtype: str = "float32",
    batch_size: int = 32,
    lengths: Sequence[int] | None = None,
    windows: bool = False,
) -> Engine:
    """Returns a function from a batch of model inputs to its logits, float32 [B, C].

    Args:
        model: the classifier, on the device where it is to run. It is not changed.
        kind: "compiled" (`CompiledClassifier`; every shape is compiled before this returns),
            "eager", or "onnx" (onnxruntime on the CPU).
        dtype: of the weights. "int8" needs "compiled", and "onnx" needs "float32".
        batch_size: the most samples of a batch.
        lengths: the text lengths to compile; None: as `CompiledClassifier` chooses them.
        windows: whether the processor cuts long texts into windows.

    Raises:
        ValueError: for an unknown name, or a dtype that does not suit the kind.
        ImportError: if a package of `mmfusion[export]` or `mmfusion[int8]` is missing.
    """
    check_engine(kind, dtype)
    if kind == "onnx":
        return _onnx_engine(model, windows)
    runs: Any
    if kind == "compiled":
        wanted: Any = {"float32": None, "bfloat16": torch.bfloat16, "int8": "int8"}[dtype]
        sizes = sorted({1, min(8, batch_size), batch_size})
        runs = CompiledClassifier(model, dtype=wanted, batch_sizes=sizes, lengths=lengths).warm_up()
    else:
        runs = _frozen_copy(model, dtype)

    def answer(batch: Mapping[str, Tensor]) -> Logits:
        return np.asarray(batch_logits(runs, batch).cpu().numpy(), dtype=np.float32)

    return answer


def check_engine(kind: str, dtype: str) -> None:
    """Refuses an engine that `make_engine` cannot make, before a model is loaded.

    Args:
        kind: as for `make_engine`.
        dtype: as for `make_engine`.

    Raises:
        ValueError: for an unknown name, or a dtype that does not suit the kind.
    """
    check_choice("engine", kind, ENGINES)
    check_choice("dtype", dtype, DTYPES)
    if (kind, dtype) in (("eager", "int8"), ("onnx", "int8"), ("onnx", "bfloat16")):
        raise ValueError(
            f"dtype must be one that engine {kind!r} has, got {dtype!r}. Take 'compiled'."
        )


def _frozen_copy(model: FusionClassifier, dtype: str) -> FusionClassifier:
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    return torch.nn.Module.to(copied, getattr(torch, dtype))


def _onnx_engine(model: FusionClassifier, windows: bool) -> Engine:
    """Returns the engine of onnxruntime."""
    with tempfile.TemporaryDirectory(prefix="mmfusion-") as folder:
        path = Path(folder) / "model.onnx"
        report = export_model(model, path, windows=windows)
        import onnxruntime

        # The session holds the weights, so the file may go.
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def answer(batch: Mapping[str, Tensor]) -> Logits:
        inputs = {name: batch[name].numpy() for name in report.inputs}
        (logits,) = session.run(["logits"], inputs)
        return np.asarray(logits, dtype=np.float32)

    return answer
