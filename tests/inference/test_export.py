"""Exported graphs, loaded as users load them.

They must answer as the model does for other batch sizes, other lengths and absent modalities.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from mmfusion import FusionProcessor
from mmfusion import export_model as exported
from mmfusion import testing as kit
from mmfusion.data.toy import draw_shapes, word_tokenizer
from mmfusion.model.packed_attention import PACKED_ATTENTION

CASES = [
    ("timm_vit", "bert", "concat", "linear"),
    ("cnn", "roberta", "cross_attention", "cross_attention"),
    ("transformers_vit", "modernbert", "joint", "mlp"),
    ("timm_vit", "distilbert", "mmtm", "linear"),
    ("opaque", "mpnet", "late", "linear"),
    ("custom", "custom", "concat", "mlp"),
    (None, "bert", "concat", "linear"),
    ("cnn", None, "concat", "linear"),
    ("timm_vit", "bert", "guarded", "linear"),
    ("cnn", "bert", "bottleneck", "linear"),
    ("cnn", "custom", "film", "linear"),
    ("custom", "custom", "gated", "linear"),
    ("custom", "custom", "low_rank", "mlp"),
    ("custom", "custom", "tokens", "cross_attention"),
]


IN_ONNX = ("cross_attention", "joint", "late", "guarded", "bottleneck", "film", "tokens")
"""The strategies that are exported to ONNX, whose file is made from the graph of torch.export."""

IN_BOTH = ("joint", "late")
"""Those that are exported to both, with and without a backbone of transformers for the picture."""


@dataclass
class Graph:
    """An exported file, read once, as a program without mmfusion reads it.

    Attributes:
        answer: returns the logits of a batch.
        described: what mmfusion wrote into the file.
    """

    answer: Callable[[dict[str, Tensor]], Tensor]
    described: dict[str, Any]


def loaded(path: Path) -> Graph:
    if path.suffix == ".pt2":
        extra = {"mmfusion.json": ""}
        program = torch.export.load(path, extra_files=extra).module()
        return Graph(lambda batch: program(*batch.values()), json.loads(extra["mmfusion.json"]))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(batch: dict[str, Tensor]) -> Tensor:
        inputs = {name: value.numpy() for name, value in batch.items()}
        return torch.from_numpy(session.run(None, inputs)[0])

    written = session.get_modelmeta().custom_metadata_map["mmfusion"]
    return Graph(run, json.loads(written))


# Counting lines slows the exporters, and the other tests of this file run the same ones.
@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("image", "text", "fusion", "mapper", "ending"),
    [(*case, ".pt2") for case in CASES if case[2] not in IN_ONNX or case[2] in IN_BOTH]
    + [(*case, ".onnx") for case in CASES if case[2] in IN_ONNX and None not in case],
)
def test_a_graph_answers_as_the_model(
    image: str | None, text: str | None, fusion: str, mapper: str, ending: str, tmp_path: Path
) -> None:
    model = kit.tiny_classifier(fusion, mapper, image, text)
    model.config.id2label = {0: "normal", 1: "ill", 2: "neither"}
    path = tmp_path / f"model{ending}"
    report = exported(model, path)
    assert (
        report.path == str(path) and report.samples == 8 and 0 <= report.largest_difference < 1e-4
    )
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    batches = [kit.tiny_batch(model, rows, missing=rows > 1, seed=5) for rows in (1, 3, 6)]
    if image is not None and text is not None:
        batches += [kit.repadded(batches[-1], side="left", extra=3), kit.corrupted(batches[-1])]
    graph = loaded(path)
    for batch in batches:
        inputs = {name: batch[name] for name in report.inputs}
        torch.testing.assert_close(
            graph.answer(inputs), model(**batch).logits.detach(), atol=1e-4, rtol=0
        )
    told = graph.described
    assert told["id2label"] == {"0": "normal", "1": "ill", "2": "neither"}
    assert told["problem_type"] == model.config.problem_type
    if image is not None:
        assert told["input_spec"] == model.image_encoder.input_spec


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("padding", "fusion", "mapper", "image"),
    [
        ("auto", "concat", "linear", None),
        ("packed", "concat", "mlp", "cnn"),
        ("padded", "joint", "mlp", "timm_vit"),
    ],
)
def test_a_graph_packs_its_texts_unless_told_otherwise(
    padding: str, fusion: str, mapper: str, image: str | None, tmp_path: Path
) -> None:
    model = kit.tiny_classifier(fusion, mapper, image, "bert")
    model.text_encoder.padding = padding
    model(**kit.tiny_batch(model))
    assert exported(model, tmp_path / "model.pt2").largest_difference < 1e-5
    program = torch.export.load(tmp_path / "model.pt2")
    finds_tokens = any("nonzero" in str(node.target) for node in program.graph.nodes)
    assert finds_tokens == (padding != "padded")


def test_a_graph_holds_the_temperature(tmp_path: Path) -> None:
    model = kit.tiny_classifier("late")
    batch = kit.tiny_batch(model, 3, seed=5)
    plain = model(**batch).logits.detach()
    model.config.temperature = 2.5
    report = exported(model, tmp_path / "model.pt2")
    inputs = {name: batch[name] for name in report.inputs}
    found = loaded(tmp_path / "model.pt2").answer(inputs)
    torch.testing.assert_close(found, plain / 2.5, atol=1e-4, rtol=0)


def test_no_kernel_enters_a_graph_that_asks_for_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmfusion.model.packed_attention._kernel_runs", lambda query: True)
    model = kit.tiny_classifier("concat", "linear", None, "bert")
    assert exported(model, tmp_path / "model.pt2").largest_difference < 1e-5


@pytest.mark.no_cover
def test_a_graph_whose_batch_has_no_text_answers_still(tmp_path: Path) -> None:
    model = kit.tiny_classifier("concat", "linear", "cnn", "bert")
    batch = kit.tiny_batch(model, 3, missing=False)
    batch["attention_mask"][:] = 0
    batch["text_present"][:] = False
    for ending in (".pt2", ".onnx"):
        report = exported(model, tmp_path / f"model{ending}")
        inputs = {name: batch[name] for name in report.inputs}
        found = loaded(Path(report.path)).answer(inputs)
        torch.testing.assert_close(found, model(**batch).logits.detach(), atol=1e-4, rtol=0)


@pytest.mark.no_cover
def test_a_graph_masks_only_where_something_is_masked(tmp_path: Path) -> None:
    model = kit.tiny_classifier("concat", "linear", "transformers_vit", "bert")
    exported(model, tmp_path / "model.pt2")
    masks = [
        node.kwargs.get("attn_mask") or (node.args[3] if len(node.args) > 3 else None)
        for node in torch.export.load(tmp_path / "model.pt2").graph.nodes
        if "scaled_dot_product_attention" in str(node.target)
    ]
    image, text = masks[: model.image_encoder.num_blocks], masks[model.image_encoder.num_blocks :]
    assert image == [None] * 4 and len(text) == 3 and None not in text
    assert model.image_encoder.backbone.config._attn_implementation == PACKED_ATTENTION
    exported(model, tmp_path / "model.onnx")
    assert not [
        node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type == "IsNaN"
    ]


@pytest.mark.no_cover
def test_a_query_whose_window_holds_padding_alone_makes_no_nan(tmp_path: Path) -> None:
    model = kit.tiny_classifier("concat", "linear", None, "modernbert")
    model.text_encoder.padding = "padded"
    words = torch.arange(2, 26).repeat(2, 1)
    batch = {
        "input_ids": words,
        "attention_mask": (torch.arange(24) < torch.tensor([[24], [2]])).long(),
    }
    report = exported(model, tmp_path / "model.onnx", batches=[batch])
    assert [node for node in onnx.load(report.path).graph.node if node.op_type == "IsNaN"]
    found = loaded(tmp_path / "model.onnx").answer(batch)
    torch.testing.assert_close(found, model(**batch).logits.detach(), atol=1e-4, rtol=0)


def test_it_is_checked_on_what_a_processor_makes(tmp_path: Path) -> None:
    manifest = draw_shapes(tmp_path / "data", 6, size=32)
    texts = [line.split(",", 2)[1] for line in manifest.read_text().splitlines()[1:]]
    model = kit.tiny_classifier("late", "linear", "timm_vit", "bert")
    processor = FusionProcessor(word_tokenizer(texts), model.image_encoder.input_spec)
    pictures: list[Any] = sorted((tmp_path / "data").glob("*.png"))[:6]
    pictures[2] = None
    real = processor(images=pictures, text=[*texts[:5], None])
    before = model.train()
    other = {**real, "labels": torch.zeros(6), "attention_mask": real["attention_mask"].bool()}
    report = exported(model, tmp_path / "model.pt2", batches=[real, other])
    assert report.samples == 12 and report.largest_difference < 1e-5
    assert before.training
    with pytest.raises(
        ValueError, match="batches must hold .* got one without input_ids, attention_mask"
    ):
        exported(model, tmp_path / "other.pt2", batches=[{"pixel_values": real["pixel_values"]}])


def test_a_graph_that_answers_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = kit.tiny_classifier("concat", "linear", None, "bert")
    path = tmp_path / "model.pt2"
    path.write_text("what was there before")
    batches = [kit.tiny_batch(model, rows) for rows in (2, 3)]
    real = torch.export.load
    # This graph answers well except for a NaN in the second batch, which a plain max() may miss.
    nan = {2: 0.0, 3: float("nan")}

    def loaded(file: Path) -> Any:
        graph = real(file).module()
        return SimpleNamespace(module=lambda: lambda *inputs: graph(*inputs) + nan[len(inputs[0])])

    monkeypatch.setattr("torch.export.load", loaded)
    with pytest.raises(
        RuntimeError,
        match=r"graph must answer as the model does within 0.0001, got a difference of nan",
    ):
        exported(model, path, batches=batches)
    assert path.read_text() == "what was there before" and len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = kit.tiny_classifier("concat", "linear", None, "bert")
    with pytest.raises(ValueError, match=r"path must end in .pt2 .* or .onnx, got .*model.pt'"):
        exported(model, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="batches must hold at least one batch"):
        exported(model, tmp_path / "model.pt2", batches=[])
    with pytest.raises(
        ValueError, match=r"model must be in float32 for .onnx, got bfloat16. Use model.float"
    ):
        exported(
            kit.tiny_classifier("concat", "linear", None, "bert").bfloat16(),
            tmp_path / "model.onnx",
        )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"needs onnx, onnxruntime, onnxscript.*mmfusion\[export\]"
    ):
        exported(model, tmp_path / "model.onnx")
