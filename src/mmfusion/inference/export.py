"""The export of a classifier as one graph, in the format of torch.export or ONNX.

The graph computes logits from pixels and tokens. It is compared with the model before it is saved.
"""

import importlib.metadata
import importlib.util
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..model.graph import evaluating
from ..model.modeling import FusionClassifier
from ..model.packed_attention import PACKED_ATTENTION, mask_of_padding
from .export_batches import TEXT, completed, draw, drawn, input_names, longest

FORMATS = {".pt2": "torch.export", ".onnx": "ONNX"}
"""The formats by the endings of their files."""

EXPORTED_ATTENTION = "mmfusion_exported"
"""The name of an attention for transformers: "sdpa", with masks for padded batches only."""


@final
@dataclass(frozen=True)
class ExportReport:
    """The description of an exported graph, with its difference from the model.

    Attributes:
        path: the file.
        format: "torch.export" or "ONNX".
        inputs: the names of the graph's inputs, in their order.
        samples: the number of samples on which graph and model were compared.
        largest_difference: the largest difference between the logits of both.
    """

    path: str
    format: str
    inputs: tuple[str, ...]
    samples: int
    largest_difference: float


def export_model(
    model: FusionClassifier,
    path: str | os.PathLike[str],
    *,
    batches: Iterable[Mapping[str, Tensor]] | None = None,
    windows: bool = False,
    tolerance: float = 1e-4,
) -> ExportReport:
    """Writes the whole classifier as one graph, if the graph gives the same logits as the model.

    The graph takes the processor's output and returns `logits` [B, C]. Its inputs are
    `pixel_values` [B, C, H, W] for an image tower, `input_ids` and `attention_mask` [B, L] (int64)
    for a text tower, and `image_present` and `text_present` [B] (bool) if there are both towers. A
    classifier of V pictures takes `pixel_values` [B, V, C, H, W] and `image_present` [B, V].
    Batch size and text length are free. Height and width are those of the image encoder. A graph
    cannot raise: the logits of a sample with neither modality have no meaning.

    `torch.export.load` reads a `.pt2`, and any ONNX runtime reads an `.onnx`. The class names, the
    image's normalisation and the library's version are saved as JSON: in the extra file
    "mmfusion.json" of a `.pt2`, and under "mmfusion" in the metadata of an `.onnx`.

    Args:
        model: the classifier. It is not changed.
        path: a file that ends in `.pt2` or `.onnx`. It is written only if the comparison succeeds.
        batches: the model inputs for the comparison, as the processor makes them. Entries that are
            no input of the graph (labels) are ignored. None draws random batches: of one sample and
            of several, with texts of several lengths, and with each modality missing.
        windows: whether texts are in windows [B, W, L], as a processor with long_text="chunk" makes
            them of long texts. The number of windows is free.
        tolerance: the largest difference of logits that counts as equal.

    Returns:
        The report of what was written.

    Raises:
        ValueError: if the path has another ending, if `batches` is empty, or if a model for `.onnx`
            is not in float32.
        ImportError: for `.onnx` without the packages of `mmfusion[export]`.
        RuntimeError: if the graph's logits differ from the model's.

    Example:
        >>> import tempfile
        >>> from mmfusion.testing import tiny_classifier
        >>> model = tiny_classifier(image=None, text="bert")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_model(model, f"{folder}/model.pt2")
        >>> report.format, report.inputs, report.largest_difference < 1e-5
        ('torch.export', ('input_ids', 'attention_mask'), True)
    """
    target = Path(path)
    if target.suffix not in FORMATS:
        raise ValueError(f"path must end in .pt2 (torch.export) or .onnx, got {os.fspath(path)!r}.")
    if target.suffix == ".onnx":
        _require_onnx()
        halves = sorted(
            {str(p.dtype).removeprefix("torch.") for p in model.parameters()} - {"float32"}
        )
        if halves:
            raise ValueError(
                f"model must be in float32 for .onnx, got {', '.join(halves)}. Use model.float()."
            )
    names = input_names(model)
    checked = list(
        drawn(model, windows=windows)
        if batches is None
        else (completed(model, batch, names, windows) for batch in batches)
    )
    if not checked:
        raise ValueError(
            "batches must hold at least one batch, got none. Leave it out to have some drawn."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    # Write into a temporary folder and move every file in it, because an .onnx keeps weights of
    # more than 2 GB in files of their own.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
        with evaluating(model), torch.no_grad(), _without_idle_masks(model):
            expected = [_Graph(model, names)(*batch.values()) for batch in checked]
            write = _write_onnx if target.suffix == ".onnx" else _write_program
            answer = write(model, names, windows, Path(folder) / target.name)
            pairs = zip(checked, expected, strict=True)
            # torch's max returns NaN if there is one. Python's max may skip it.
            apart = float(
                torch.stack(
                    [
                        (answer(batch).float() - logits.float()).abs().max()
                        for batch, logits in pairs
                    ]
                ).max()
            )
        # `not <=` instead of `>`, so that NaN raises too.
        if not apart <= tolerance:
            raise RuntimeError(
                f"the {FORMATS[target.suffix]} graph must answer as the model does within "
                f"{tolerance:g}, got a difference of {apart:.3g}. "
                "Nothing was written; a model in half precision needs a larger tolerance."
            )
        for file in Path(folder).iterdir():
            os.replace(file, target.parent / file.name)
    return ExportReport(
        str(target), FORMATS[target.suffix], names, sum(len(logits) for logits in expected), apart
    )


@final
class _Graph(nn.Module):
    """The classifier with positional inputs, and with its logits as the only output."""

    def __init__(self, model: FusionClassifier, names: tuple[str, ...]):
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def _program(
    model: FusionClassifier, names: tuple[str, ...], windows: bool
) -> tuple[_Graph, tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """Returns what torch.export and torch.onnx trace: module, batch, and free axes per input."""
    # Two samples and more than one token, because torch makes an axis of length 1 a constant.
    # So are two windows.
    size = {"batch": 2, "length": min(8, longest(model)), "windows": 2 * windows}
    traced = draw(model, names, **size, seed=0)
    batch = torch.export.Dim("batch")
    free_text: dict[int, Any] = {0: batch}
    if windows:
        free_text[1] = torch.export.Dim("windows")
    free_text[1 + windows] = torch.export.Dim("length", max=longest(model))
    free = tuple(free_text if name in TEXT else {0: batch} for name in names)
    return _Graph(model, names).eval(), tuple(traced.values()), free


def _write_program(
    model: FusionClassifier, names: tuple[str, ...], windows: bool, path: Path
) -> Any:
    """Returns a function from a batch to the logits of the .pt2 file that was written."""
    graph, traced, free = _program(model, names, windows)
    exported = torch.export.export(graph, traced, dynamic_shapes=(free,), strict=False)
    torch.export.save(
        exported, path, extra_files={"mmfusion.json": json.dumps(_description(model))}
    )
    module = torch.export.load(path).module()
    return lambda batch: module(*batch.values())


def _write_onnx(model: FusionClassifier, names: tuple[str, ...], windows: bool, path: Path) -> Any:
    """Returns a function from a batch to the logits of the .onnx file that was written."""
    # Imported here, because it is an optional dependency.
    import onnxruntime

    graph, traced, free = _program(model, names, windows)
    with _quiet("torch.onnx", "onnxscript", "onnx_ir"), warnings.catch_warnings():
        # torch warns of axes that share a name. Here they share it on purpose: all inputs have the
        # same batch size.
        warnings.filterwarnings("ignore", message=".*The axis name", category=UserWarning)
        written: Any = torch.onnx.export(
            graph,
            traced,
            dynamic_shapes=(free,),
            input_names=names,
            output_names=["logits"],
            dynamo=True,
            verbose=False,
        )
    _drop_idle_guards(written.model.graph)
    written.model.metadata_props["mmfusion"] = json.dumps(_description(model))
    written.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def answer(batch: Mapping[str, Tensor]) -> Tensor:
        (logits,) = session.run(
            ["logits"], {name: value.cpu().numpy() for name, value in batch.items()}
        )
        return torch.from_numpy(logits).to(model.device)

    return answer


AttentionInterface.register(EXPORTED_ATTENTION, ALL_ATTENTION_FUNCTIONS["sdpa"])
AttentionMaskInterface.register(EXPORTED_ATTENTION, mask_of_padding)


@contextmanager
def _without_idle_masks(model: FusionClassifier) -> Iterator[None]:
    """Yields while "sdpa" makes no attention masks in the image tower, which needs none."""
    backbone = None if model.image_encoder is None else model.image_encoder.backbone
    if (
        not isinstance(backbone, PreTrainedModel)
        or not backbone._supports_attention_backend
        or backbone.config._attn_implementation not in ("sdpa", PACKED_ATTENTION)
    ):
        yield
        return
    # A picture has no padding, but transformers' "sdpa" masks it anyway while a graph is traced.
    before = backbone.config._attn_implementation
    backbone.set_attn_implementation(EXPORTED_ATTENTION)
    try:
        yield
    finally:
        backbone.set_attn_implementation(before)


def _drop_idle_guards(graph: Any) -> None:
    """Removes the nodes of an ONNX graph that replace NaN after a softmax, where NaN is impossible.

    A softmax gives NaN for a query that may attend to no token. If all queries of a sample share
    one mask, each of them attends to the sample's real tokens, and there is at least one.
    """
    # Imported here, because it is an optional dependency.
    from onnx_ir import convenience

    # The pattern is Where(IsNaN(s), 0, s) with s = Softmax(Add(scores, mask)).
    for chosen in list(graph):
        guard = chosen.inputs[0].producer() if chosen.op_type == "Where" else None
        if guard is None or guard.op_type != "IsNaN" or guard.inputs[0] is not chosen.inputs[2]:
            continue
        softmax = guard.inputs[0].producer()
        masked = (
            softmax.inputs[0].producer()
            if softmax is not None and softmax.op_type == "Softmax"
            else None
        )
        mask = masked.inputs[1].shape if masked is not None and masked.op_type == "Add" else None
        # The last axes of the mask are queries and keys. Length 1 means one mask for all queries.
        if mask is not None and mask[-2] == 1:
            convenience.replace_all_uses_with(chosen.outputs[0], guard.inputs[0])
            graph.remove([chosen, guard], safe=True)


def _description(model: FusionClassifier) -> dict[str, Any]:
    """Returns what is saved beside the graph: version, class names, kind of problem, input spec."""
    described: dict[str, Any] = {
        "version": importlib.metadata.version("mmfusion"),
        "id2label": {str(index): name for index, name in (model.config.id2label or {}).items()},
        "problem_type": model.config.problem_type,
    }
    if model.image_encoder is not None:
        described["input_spec"] = model.image_encoder.input_spec
    return described


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Yields while these loggers pass on errors only.

    The exporter logs the progress of its own passes, which means nothing to the user.
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _require_onnx() -> None:
    """Raises an ImportError that lists the packages which the export to ONNX needs."""
    missing = [
        name
        for name in ("onnx", "onnxruntime", "onnxscript")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ImportError(
            f"exporting to ONNX needs {', '.join(missing)}. "
            "Install them with: pip install 'mmfusion[export]'"
        )
