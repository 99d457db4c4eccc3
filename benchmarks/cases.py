"""The cases: each returns what is written to the JSON.

Sides that do the same work are timed only after their answers were found equal.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BertModel

from benchmarks.epochs import epoch
from benchmarks.gaps import gaps
from benchmarks.measuring import (
    TOLERANCE,
    Setting,
    compared,
    cut,
    in_its_own_process,
    of_compiled,
    of_model,
    timed,
    with_facts,
)
from benchmarks.models import (
    FUSIONS,
    WIDTHS,
    DualEncoder,
    classifier,
    needed_operations,
    pairs,
    texts,
    transformer_operations,
)
from benchmarks.parts import parts
from benchmarks.peers import peers
from benchmarks.pixels import pixels_to_label
from benchmarks.precision import int8
from benchmarks.scaling import scaling
from benchmarks.timing import Side
from mmfusion import TextEncoder, export_model
from mmfusion.model.masking import masked_mean

GROWTH = (1_000, 10_000, 100_000)
"""The numbers of pairs that the case "growth" streams."""


def text_tower(setting: Setting) -> dict[str, Any]:
    """Returns the times of BERT on texts as long as real reports, packed and padded.

    The library runs packed and padded to the longest text. transformers' BertModel runs padded to
    the longest text, to 128 tokens and to 512 tokens.
    """
    torch.manual_seed(0)
    ours = TextEncoder(setting.chosen.text).eval()
    # The same weights on both sides, so that their answers can be compared.
    plain = BertModel(setting.chosen.text, add_pooling_layer=False).eval()
    plain.load_state_dict(ours.backbone.state_dict())
    batch = texts(setting.batch, device=setting.device)
    mask = batch["attention_mask"].bool()
    with torch.inference_mode():
        expected = masked_mean(plain.to(setting.device)(**batch).last_hidden_state, mask).cpu()
    # The reference above is computed in float32, so the models move to the dtype only now.
    setting.place(ours), setting.place(plain)

    def of_ours(padding: str) -> Side:
        def run() -> Tensor:
            # Both sides share one model, so each call sets its own padding.
            ours.padding = padding
            return ours(**batch).pooled

        return run

    def of_plain(width: int | None) -> Side:
        padded = texts(setting.batch, width=width, device=setting.device)
        return lambda: masked_mean(
            plain(**padded).last_hidden_state, padded["attention_mask"].bool()
        )

    sides = {
        "packed": of_ours("packed"),
        "padded to the longest": of_ours("padded"),
        "transformers, to the longest": of_plain(None),
        "transformers, to 128": of_plain(128),
        "transformers, to 512": of_plain(512),
    }
    lengths = mask.sum(1).tolist()
    operations = {
        name: transformer_operations(setting.chosen.text, cut(lengths, name)) for name in sides
    }
    # The side padded to 128 cuts longer texts, so only the shorter texts have the same answer.
    whole = {"transformers, to 128": [row for row, length in enumerate(lengths) if length <= 128]}
    return compared(setting, sides, expected, whole, operations=operations) | {
        "tokens": int(mask.sum()),
        "longest": int(mask.shape[1]),
    }


def fused(setting: Setting) -> dict[str, Any]:
    """Returns the times of the whole forward pass of every strategy and of a dual encoder.

    The first strategy is timed compiled as well. The dual encoder has a linear head. Its texts are
    padded to 512, to 128 and to the longest.
    """
    inputs = pairs(setting.chosen, setting.batch, setting.dtype, device=setting.device)
    # The reference needs float32 pictures, whatever the dtype of the run is.
    full = inputs | {"pixel_values": inputs["pixel_values"].float()}
    sides: dict[str, Side] = {}
    expected: dict[str, Tensor] = {}
    for fusion in FUSIONS:
        model = classifier(setting.chosen, fusion).to(setting.device)
        assert model.text_encoder is not None
        model.text_encoder.padding = "padded"
        with torch.inference_mode():
            # One pair at a time needs no padding, packing or grouping: it is the reference answer.
            alone = [
                {name: value[row : row + 1] for name, value in full.items()}
                for row in range(setting.batch)
            ]
            expected[fusion] = torch.cat([model(**pair).logits for pair in alone]).float().cpu()
        model.text_encoder.padding = "auto"
        sides[fusion] = of_model(setting.place(model), inputs)
    first = FUSIONS[0]
    sides[f"{first}, compiled"] = of_compiled(
        setting.place(classifier(setting.chosen, first)), inputs
    )
    expected[f"{first}, compiled"] = expected[first]
    # The dual encoder takes a ViT of transformers; a timm model is given by its name, a string.
    if not isinstance(setting.chosen.image, str):
        peer = DualEncoder(classifier(setting.chosen, "concat")).eval().to(setting.device)
        with torch.inference_mode():
            answer = peer(**full).float().cpu()
        setting.place(peer)
        for name, width in WIDTHS.items():
            padded = pairs(
                setting.chosen, setting.batch, setting.dtype, width=width, device=setting.device
            )
            sides[f"dual encoder, {name}"] = lambda padded=padded: peer(**padded)
            expected[f"dual encoder, {name}"] = answer
    lengths = inputs["attention_mask"].sum(1).tolist()
    # The side padded to 128 cuts longer texts, so only the shorter texts have the same answer.
    short = [row for row, length in enumerate(lengths) if length <= 128]
    return compared(
        setting,
        sides,
        expected,
        {"dual encoder, to 128": short},
        operations={
            name: needed_operations(setting.chosen, setting.batch, cut(lengths, name))
            for name in sides
        },
    )


def training_step(setting: Setting) -> dict[str, Any]:
    """Returns the times of a training step of all weights, with packed and with padded texts.

    A step is the forward pass, the backward pass and an AdamW update.
    """
    inputs = pairs(setting.chosen, setting.batch, setting.dtype, device=setting.device)
    inputs["labels"] = torch.arange(setting.batch, device=setting.device) % 2
    model = setting.place(classifier(setting.chosen, "concat"))
    assert model.text_encoder is not None
    losses = {}
    # The losses are compared in eval mode, because the two sides draw different dropout masks.
    for padding in ("packed", "padded"):
        model.text_encoder.padding = padding
        losses[padding] = model.eval()(**inputs).loss.item()
    # Not `> TOLERANCE`: a NaN must count as different, too.
    if not abs(losses["packed"] - losses["padded"]) <= TOLERANCE[setting.dtype]:
        raise RuntimeError(f"both must have the same loss, got {losses}. Nothing was timed.")
    model.train()
    # A tiny learning rate keeps the weights, and so the work of each step, nearly the same.
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6)

    batch = with_facts(inputs)

    def of(padding: str) -> Side:
        def step() -> None:
            model.text_encoder.padding = padding
            model(**batch).loss.backward()
            optimiser.step()
            optimiser.zero_grad()

        return step

    return {
        "seconds": timed(
            setting, {"packed": of("packed"), "padded to the longest": of("padded")}, training=True
        )
    }


def latency(setting: Setting) -> dict[str, Any]:
    """Returns the times of one pair alone, eager and compiled, with the 99th percentile."""
    model = setting.place(classifier(setting.chosen, "concat"))
    inputs = pairs(setting.chosen, 1, setting.dtype, device=setting.device)
    with torch.inference_mode():
        full = classifier(setting.chosen, "concat").to(setting.device)
        expected = full(**inputs | {"pixel_values": inputs["pixel_values"].float()}).logits
    sides = {"concat": of_model(model, inputs), "concat, compiled": of_compiled(model, inputs)}
    # A 99th percentile needs 100 rounds at least.
    alone = replace(setting, rounds=max(100, setting.rounds), calls=1)
    result = compared(alone, sides, expected)
    for side in result["seconds"].values():
        side["percentile_99"] = float(np.percentile(side["rounds"], 99))
    return result | {"made": {"batch_size": 1, "calls": 1}}


def exported(setting: Setting) -> dict[str, Any]:
    """Returns the times of the exported graph in torch and in onnxruntime, and of eager.

    Each is timed at batch 1 and at the batch size of the run.
    """
    import onnxruntime

    # One exported graph must take every batch size, so both sizes run through the same files.
    model = classifier(setting.chosen, "concat")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        reports = {
            ending: export_model(model, Path(folder) / f"model{ending}")
            for ending in (".pt2", ".onnx")
        }
        program = torch.export.load(reports[".pt2"].path).module()
        options = onnxruntime.SessionOptions()
        # Without this, onnxruntime takes all cores, and torch only those of the setting.
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(
            reports[".onnx"].path, options, providers=["CPUExecutionProvider"]
        )
        for batch in sorted({1, setting.batch}):
            inputs = pairs(setting.chosen, batch, torch.float32)
            # An exported graph takes all inputs. These two say which modalities are present.
            inputs |= {
                name: torch.ones(batch, dtype=torch.bool)
                for name in ("image_present", "text_present")
            }
            arrays = {name: value.numpy() for name, value in inputs.items()}
            eager = of_model(model, inputs)
            sides: dict[str, Side] = {
                "eager": eager,
                "torch.export": lambda inputs=inputs: program(*inputs.values()),
                "onnxruntime": lambda arrays=arrays: torch.from_numpy(session.run(None, arrays)[0]),
            }
            with torch.inference_mode():
                expected = eager()
            results[f"batch {batch}"] = compared(setting, sides, expected, tolerance=1e-4)
    return results | {
        "largest_difference": {
            ending: report.largest_difference for ending, report in reports.items()
        }
    }


def compiled(setting: Setting) -> dict[str, Any]:
    """Returns the times of `CompiledClassifier` and of the classifier, packed and padded."""
    inputs = pairs(setting.chosen, setting.batch, setting.dtype, device=setting.device)
    model = setting.place(classifier(setting.chosen, "concat"))
    assert model.text_encoder is not None

    batch = with_facts(inputs)

    def of(padding: str) -> Side:
        def run() -> Tensor:
            model.text_encoder.padding = padding
            return model(**batch).logits

        return run

    # A second classifier of the same seed stays in float32 and gives the reference.
    full = classifier(setting.chosen, "concat").to(setting.device)
    full.text_encoder.padding = "padded"
    with torch.inference_mode():
        expected = full(**inputs | {"pixel_values": inputs["pixel_values"].float()}).logits
    return compared(
        setting,
        {"packed": of("packed"), "padded": of("padded"), "compiled": of_compiled(model, inputs)},
        expected,
    )


def growth(setting: Setting) -> dict[str, Any]:
    """Returns the seconds and the peak memory of `predict_stream` over a growing number of pairs.

    The towers are tiny. Each number of pairs runs in its own process, so that each has its own
    peak of memory.
    """
    if importlib.util.find_spec("datasets") is None:
        return {"skipped": "datasets is not installed"}
    measured = {
        str(count): in_its_own_process("benchmarks.streamed", setting.device, str(count))
        for count in GROWTH
    }
    return {
        "pairs": measured,
        "made": {"backbones": "tiny", "inputs": "batch 32, texts of 1 to 60 words"},
    }


CASES: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "text tower": text_tower,
    "fused forward": fused,
    "parts": parts,
    "training step": training_step,
    "latency": latency,
    "compiled": compiled,
    "int8": int8,
    "gaps": gaps,
    "export": exported,
    "peers": peers,
    "epoch": epoch,
    "pixels to label": pixels_to_label,
    "scaling": scaling,
    "growth": growth,
}
"""The cases by name: each takes the setting and returns what the JSON holds of it."""

CPU_FLOAT32 = {"export", "int8"}
"""The cases that run only on the CPU in float32."""
