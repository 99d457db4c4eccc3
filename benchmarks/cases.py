"""The cases: each returns what is written to the JSON. Sides that do the same work are timed once they have answered alike."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BertModel

from benchmarks.epochs import epoch
from benchmarks.measuring import (
    TOLERANCE,
    Setting,
    compared,
    cut,
    in_its_own_process,
    of_compiled,
    of_model,
    timed,
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
from benchmarks.peers import peers
from benchmarks.pixels import pixels_to_label
from benchmarks.scaling import scaling
from benchmarks.timing import Side
from mmfusion import FusionClassifier, TextEncoder, export_model
from mmfusion.model.types import masked_mean

GROWTH = (1_000, 10_000, 100_000)
"""Numbers of pairs that are streamed."""


def text_tower(setting: Setting) -> dict[str, Any]:
    """BERT on real report lengths: packed, padded to the longest, and transformers' own padded to the longest, to 128, to 512."""
    torch.manual_seed(0)
    ours = TextEncoder(setting.chosen.text).eval()
    plain = BertModel(setting.chosen.text, add_pooling_layer=False).eval()
    plain.load_state_dict(ours.backbone.state_dict())
    batch = texts(setting.batch, device=setting.device)
    mask = batch["attention_mask"].bool()
    with torch.inference_mode():
        expected = masked_mean(plain.to(setting.device)(**batch).last_hidden_state, mask).cpu()
    setting.place(ours), setting.place(plain)

    def of_ours(padding: str) -> Side:
        def run() -> Tensor:
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
    # A text of more than 128 tokens is cut there: it is another text.
    whole = {"transformers, to 128": [row for row, length in enumerate(lengths) if length <= 128]}
    return compared(setting, sides, expected, whole, operations=operations) | {
        "tokens": int(mask.sum()),
        "longest": int(mask.shape[1]),
    }


def fused(setting: Setting) -> dict[str, Any]:
    """The whole forward pass of every strategy, of the first one compiled, and of a dual encoder with a linear head.

    The dual encoder's texts are padded to 512, to 128 and to the longest.
    """
    inputs = pairs(setting.chosen, setting.batch, setting.dtype, device=setting.device)
    full = inputs | {"pixel_values": inputs["pixel_values"].float()}
    sides: dict[str, Side] = {}
    expected: dict[str, Tensor] = {}
    for fusion in FUSIONS:
        model = classifier(setting.chosen, fusion).to(setting.device)
        assert model.text_encoder is not None
        model.text_encoder.padding = "padded"
        with torch.inference_mode():
            # One pair at a time: there is nothing to pad, to pack or to group.
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


def parts(setting: Setting) -> dict[str, Any]:
    """Each tower alone, and mapper with fusion on top of what the towers gave.

    A strategy that acts inside the towers starts from the states that enter the first blocks it
    acts in, as from a cache; what it adds is its time less that of the same blocks without it.
    """
    inputs = pairs(setting.chosen, setting.batch, setting.dtype, device=setting.device)
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    model = setting.place(classifier(setting.chosen, "concat"))
    towers = {
        "image tower": lambda: model.image_encoder(inputs["pixel_values"]),
        "text tower": lambda: model.text_encoder(**words),
    }
    sides: dict[str, Side] = dict(towers)
    for fusion in FUSIONS:
        strategy = setting.place(classifier(setting.chosen, fusion))
        stored, rest = _behind(strategy, inputs)
        sides[f"mapper + {fusion}"] = of_model(strategy, stored)
        if rest is not None:
            sides[f"the same blocks without {fusion}"] = rest
    seconds = timed(setting, sides)
    medians = {name: found["median"] for name, found in seconds.items()}
    alone = medians["image tower"] + medians["text tower"]
    added = {
        fusion: medians[f"mapper + {fusion}"]
        - medians.get(f"the same blocks without {fusion}", 0.0)
        for fusion in FUSIONS
    }
    return {
        "seconds": seconds,
        "share_of_forward_time": {fusion: cost / (alone + cost) for fusion, cost in added.items()},
    }


def _behind(
    model: FusionClassifier, inputs: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Side | None]:
    """The states that enter the first blocks in which the strategy acts, and what runs the towers on from there without it."""
    image, text = model.image_encoder, model.text_encoder
    assert image is not None and text is not None
    model.freeze("image").freeze("text")
    at, at_text = model.cache_block("image"), model.cache_block("text")
    with torch.inference_mode():
        seen, read = (
            image.embed(inputs["pixel_values"]),
            text.embed(inputs["input_ids"], inputs["attention_mask"]),
        )
        seen = image.walk(0, min(at, image.num_blocks), seen)
        read = text.walk(0, min(at_text, text.num_blocks), read)
        stored = {
            "image_state": seen.values,
            "text_state": read.values,
            "attention_mask": read.mask,
        }
        if at > image.num_blocks:
            encoded = image.pool(seen)
            stored |= {"image_state": encoded.tokens, "image_pooled": encoded.pooled}
        if at_text > text.num_blocks:
            stored |= {"text_state": text.pool(read).tokens, "text_pooled": text.pool(read).pooled}

    def rest() -> None:
        if at < image.num_blocks:
            image.pool(image.walk(at, image.num_blocks, seen))
        if at_text < text.num_blocks:
            text.pool(text.walk(at_text, text.num_blocks, read))

    return stored, rest if at < image.num_blocks or at_text < text.num_blocks else None


def training_step(setting: Setting) -> dict[str, Any]:
    """Forward, backward and an AdamW step with everything training, texts packed and padded."""
    inputs = pairs(setting.chosen, setting.batch, setting.dtype, device=setting.device)
    inputs["labels"] = torch.arange(setting.batch, device=setting.device) % 2
    model = setting.place(classifier(setting.chosen, "concat"))
    assert model.text_encoder is not None
    losses = {}
    # Without dropout, whose draws differ between the two.
    for padding in ("packed", "padded"):
        model.text_encoder.padding = padding
        losses[padding] = model.eval()(**inputs).loss.item()
    if not abs(losses["packed"] - losses["padded"]) <= TOLERANCE[setting.dtype]:
        raise RuntimeError(f"both must have the same loss, got {losses}. Nothing was timed.")
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def of(padding: str) -> Side:
        def step() -> None:
            model.text_encoder.padding = padding
            model(**inputs).loss.backward()
            optimiser.step()
            optimiser.zero_grad()

        return step

    return {
        "seconds": timed(
            setting, {"packed": of("packed"), "padded to the longest": of("padded")}, training=True
        )
    }


def latency(setting: Setting) -> dict[str, Any]:
    """One pair at a time, eager and compiled: the median and the 99th percentile, in seconds."""
    model = setting.place(classifier(setting.chosen, "concat"))
    inputs = pairs(setting.chosen, 1, setting.dtype, device=setting.device)
    with torch.inference_mode():
        full = classifier(setting.chosen, "concat").to(setting.device)
        expected = full(**inputs | {"pixel_values": inputs["pixel_values"].float()}).logits
    sides = {"concat": of_model(model, inputs), "concat, compiled": of_compiled(model, inputs)}
    found = compared(replace(setting, rounds=max(100, setting.rounds)), sides, expected)
    for side in found["seconds"].values():
        side["percentile_99"] = float(np.percentile(side["rounds"], 99))
    return found | {"made": {"batch_size": 1}}


def exported(setting: Setting) -> dict[str, Any]:
    """The exported graph in torch and in onnxruntime beside eager, at batch 1 and at the batch of the run."""
    import onnxruntime

    model = classifier(setting.chosen, "concat")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        reports = {
            ending: export_model(model, Path(folder) / f"model{ending}")
            for ending in (".pt2", ".onnx")
        }
        program = torch.export.load(reports[".pt2"].path).module()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(
            reports[".onnx"].path, options, providers=["CPUExecutionProvider"]
        )
        for batch in sorted({1, setting.batch}):
            inputs = pairs(setting.chosen, batch, torch.float32)
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
            found[f"batch {batch}"] = compared(setting, sides, expected, tolerance=1e-4)
    return found | {
        "largest_difference": {
            ending: report.largest_difference for ending, report in reports.items()
        }
    }


def compiled(setting: Setting) -> dict[str, Any]:
    """`CompiledClassifier` beside the classifier with packed and with padded texts."""
    inputs = pairs(setting.chosen, setting.batch, setting.dtype, device=setting.device)
    model = setting.place(classifier(setting.chosen, "concat"))
    assert model.text_encoder is not None

    def of(padding: str) -> Side:
        def run() -> Tensor:
            model.text_encoder.padding = padding
            return model(**inputs).logits

        return run

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
    """Seconds and peak memory of `predict_stream` over more and more pairs, tiny towers, each number in its own process."""
    if importlib.util.find_spec("datasets") is None:
        return {"skipped": "datasets is not installed"}
    found = {
        str(count): in_its_own_process("benchmarks.streamed", setting.device, str(count))
        for count in GROWTH
    }
    return {
        "pairs": found,
        "made": {"backbones": "tiny", "inputs": "batch 32, texts of 1 to 60 words"},
    }


CASES: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "text tower": text_tower,
    "fused forward": fused,
    "parts": parts,
    "training step": training_step,
    "latency": latency,
    "compiled": compiled,
    "export": exported,
    "peers": peers,
    "epoch": epoch,
    "pixels to label": pixels_to_label,
    "scaling": scaling,
    "growth": growth,
}


CPU_FLOAT32 = {"export"}
"""Cases that run on the CPU in float32 alone."""
