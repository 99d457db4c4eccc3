"""A classifier as one graph: torch.export or ONNX, from pixels and tokens to logits, held against the model it came from."""

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
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..model.graph import evaluating
from ..model.missing import MODALITIES, complete_inputs
from ..model.modeling import FusionClassifier
from ..model.packed_attention import PACKED_ATTENTION, mask_of_padding

FORMATS = {".pt2": "torch.export", ".onnx": "ONNX"}
"""File endings and what they stand for."""

EXPORTED_ATTENTION = "mmfusion_exported"
"""The name under which transformers knows "sdpa" without masks that mask nothing, while a graph is made."""

_IMAGE, _TEXT = MODALITIES["image"].encoded, MODALITIES["text"].encoded
_PRESENT = tuple(modality.present for modality in MODALITIES.values())


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it is from the model.

    Attributes:
        path: the file.
        format: "torch.export" or "ONNX".
        inputs: the names of the graph's inputs, in their order.
        samples: how many samples were answered by both.
        largest_difference: between the graph's logits and the model's.
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
    tolerance: float = 1e-4,
) -> ExportReport:
    """Write the whole classifier as one graph, after the graph has answered as the model does.

    The graph takes what the processor makes and gives `logits` [B, C]: `pixel_values` [B, C, H, W]
    for an image tower, `input_ids` and `attention_mask` [B, L] (int64) for a text tower, and with
    both towers `image_present` and `text_present` [B] (bool). Batch and text length are free,
    height and width are the image encoder's. It cannot raise: its answer to a sample with neither
    modality means nothing. A `.pt2` is read by `torch.export.load`, whose `extra_files` may name
    "mmfusion.json"; an `.onnx` by any ONNX runtime, with the same under "mmfusion" in its metadata:
    the class names, the image's normalisation and the library's version.

    Args:
        model: the classifier; it comes back as it was.
        path: a file that ends in `.pt2` or `.onnx`; it is written only if the check holds.
        batches: model inputs to check the graph on, as the processor makes them; what the graph has
            no input for (labels) is left aside. None draws some: one sample and several, texts of
            several lengths, and either modality missing.
        tolerance: the largest difference of logits that counts as the same answer.

    Raises:
        ValueError: when the path ends in neither, `batches` are empty, or a model for `.onnx` is
            not in float32.
        ImportError: for `.onnx` without the packages of `mmfusion[export]`.
        RuntimeError: when the graph answers otherwise than the model.

    Example:
        >>> import tempfile
        >>> from mmfusion.testing import tiny_classifier
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_model(tiny_classifier(image=None, text="bert"), f"{folder}/model.pt2")
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
    names = _input_names(model)
    checked = list(
        _drawn(model) if batches is None else (_completed(model, batch, names) for batch in batches)
    )
    if not checked:
        raise ValueError(
            "batches must hold at least one batch, got none. Leave it out to have some drawn."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    # Weights of more than 2 GB become files of their own beside an .onnx: all that lies in the
    # folder moves.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
        with evaluating(model), torch.no_grad(), _without_idle_masks(model):
            expected = [_Graph(model, names)(*batch.values()) for batch in checked]
            write = _write_onnx if target.suffix == ".onnx" else _write_program
            answer = write(model, names, Path(folder) / target.name)
            pairs = zip(checked, expected, strict=True)
            # Not Python's max, which passes over a NaN.
            apart = float(
                torch.stack(
                    [
                        (answer(batch).float() - logits.float()).abs().max()
                        for batch, logits in pairs
                    ]
                ).max()
            )
        # Written so that a NaN fails too.
        if not apart <= tolerance:
            raise RuntimeError(
                f"the {FORMATS[target.suffix]} graph must answer as the model does within {tolerance:g}, got a difference of "
                f"{apart:.3g}. Nothing was written; a model in half precision needs a larger tolerance."
            )
        for file in Path(folder).iterdir():
            os.replace(file, target.parent / file.name)
    return ExportReport(
        str(target), FORMATS[target.suffix], names, sum(len(logits) for logits in expected), apart
    )


class _Graph(nn.Module):
    """The classifier with its inputs by place, and its logits alone."""

    def __init__(self, model: FusionClassifier, names: tuple[str, ...]):
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def _input_names(model: FusionClassifier) -> tuple[str, ...]:
    """Returns the names of the graph's inputs; presence flags only where there is something to miss."""
    encoded = [name for modality in model.modalities for name in MODALITIES[modality].encoded]
    return (*encoded, *(_PRESENT if len(model.modalities) == 2 else ()))


def _program(
    model: FusionClassifier, names: tuple[str, ...]
) -> tuple[_Graph, tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """What torch.export and torch.onnx trace: the module, a batch, and which of its axes are free."""
    # Two samples and more than one token: torch takes an axis of length 1 for a constant.
    traced = _draw(model, names, batch=2, length=min(8, _longest(model)), seed=0)
    batch = torch.export.Dim("batch")
    length = torch.export.Dim("length", max=_longest(model))
    free = tuple({0: batch, 1: length} if name in _TEXT else {0: batch} for name in names)
    return _Graph(model, names).eval(), tuple(traced.values()), free


def _write_program(model: FusionClassifier, names: tuple[str, ...], path: Path) -> Any:
    graph, traced, free = _program(model, names)
    exported = torch.export.export(graph, traced, dynamic_shapes=(free,), strict=False)
    torch.export.save(
        exported, path, extra_files={"mmfusion.json": json.dumps(_description(model))}
    )
    module = torch.export.load(path).module()
    return lambda batch: module(*batch.values())


def _write_onnx(model: FusionClassifier, names: tuple[str, ...], path: Path) -> Any:
    import onnxruntime

    graph, traced, free = _program(model, names)
    with _quiet("torch.onnx", "onnxscript", "onnx_ir"), warnings.catch_warnings():
        # It warns of every axis that has the name of another one: here that is meant.
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
    """While the image tower's backbone makes no masks that mask nothing."""
    backbone = None if model.image_encoder is None else model.image_encoder.backbone
    if (
        not isinstance(backbone, PreTrainedModel)
        or not backbone._supports_attention_backend
        or backbone.config._attn_implementation not in ("sdpa", PACKED_ATTENTION)
    ):
        yield
        return
    before = backbone.config._attn_implementation
    backbone.set_attn_implementation(EXPORTED_ATTENTION)
    try:
        yield
    finally:
        backbone.set_attn_implementation(before)


def _drop_idle_guards(graph: Any) -> None:
    """Take out of an ONNX graph what makes zeros of a softmax's NaN, where there can be none.

    NaN stands where a query may look at no token at all. A mask that is the same for all queries of
    a sample shows each of them the sample's real tokens, one at least.
    """
    from onnx_ir import convenience

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
        if mask is not None and mask[-2] == 1:
            convenience.replace_all_uses_with(chosen.outputs[0], guard.inputs[0])
            graph.remove([chosen, guard], safe=True)


def _description(model: FusionClassifier) -> dict[str, Any]:
    described: dict[str, Any] = {
        "version": importlib.metadata.version("mmfusion"),
        "id2label": {str(index): name for index, name in (model.config.id2label or {}).items()},
        "problem_type": model.config.problem_type,
    }
    if model.image_encoder is not None:
        described["input_spec"] = model.image_encoder.input_spec
    return described


def _drawn(model: FusionClassifier) -> Iterator[dict[str, Tensor]]:
    """Batches unlike the traced one: a single sample, more samples, shorter and longer texts, modalities missing."""
    # Not the full length of a ModernBERT: its scores alone would fill the memory.
    names, longest = _input_names(model), min(512, _longest(model))
    for seed, (batch, length) in enumerate([(1, 2), (2, longest), (5, min(17, longest))], start=1):
        drawn = _draw(model, names, batch=batch, length=length, seed=seed)
        if "image_present" in drawn and batch > 2:
            drawn["image_present"][0] = False
            drawn["text_present"][1] = False
        yield drawn


def _draw(
    model: FusionClassifier, names: tuple[str, ...], *, batch: int, length: int, seed: int
) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}
    if model.image_encoder is not None:
        spec = model.image_encoder.input_spec
        made["pixel_values"] = torch.randn(
            batch, spec["channels"], *spec["size"], generator=draw
        ).to(model.dtype)
    if model.text_encoder is not None:
        lengths = torch.randint(1, length + 1, (batch, 1), generator=draw)
        lengths[-1] = length
        # The first ids of a vocabulary exist in every one.
        made["input_ids"] = torch.randint(
            0, min(100, _vocabulary(model)), (batch, length), generator=draw
        )
        made["attention_mask"] = (torch.arange(length) < lengths).long()
    made |= {name: torch.ones(batch, dtype=torch.bool) for name in _PRESENT if name in names}
    return {name: made[name].to(model.device) for name in names}


def _completed(
    model: FusionClassifier, batch: Mapping[str, Tensor], names: tuple[str, ...]
) -> dict[str, Tensor]:
    """Returns the graph's inputs of a processor's batch, on the model's device."""
    used = [MODALITIES[name] for name in model.modalities]
    lacking = [m.values for m in used if m.values not in batch]
    lacking += [m.mask for m in used if m.mask is not None and m.mask not in batch]
    if lacking:
        raise ValueError(
            f"batches must hold {', '.join(names)}, got one without {', '.join(lacking)}. "
            "Use the model's processor."
        )
    given = {name: batch[name] for m in used for name in m.processed if name in batch}
    completed = complete_inputs(model.modalities, given)
    tensors = dict(completed.tensors)
    tensors |= {MODALITIES[name].present: flags for name, flags in completed.present.items()}
    types = {"pixel_values": model.dtype}
    types |= dict.fromkeys(_TEXT, torch.int64) | dict.fromkeys(_PRESENT, torch.bool)
    return {name: tensors[name].to(model.device, types[name]) for name in names}


def _longest(model: FusionClassifier) -> int:
    limit = None if model.text_encoder is None else model.text_encoder.max_length
    return 512 if limit is None else limit


def _vocabulary(model: FusionClassifier) -> int:
    assert model.text_encoder is not None
    return model.text_encoder.vocab_size or 1


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Without what the exporter logs about its own passes."""
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
    missing = [
        name
        for name in ("onnx", "onnxruntime", "onnxscript")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ImportError(
            f"exporting to ONNX needs {', '.join(missing)}. Install them with: pip install 'mmfusion[export]'"
        )
