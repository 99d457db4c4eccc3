"""The case "peers": what other libraries offer for the same job, on the same backbones and weights where they let one choose."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ViTConfig

from benchmarks.measuring import Setting, compared, cut, of_compiled, of_model
from benchmarks.models import WIDTHS, DualEncoder, classifier, needed_operations, pairs
from benchmarks.timing import Side
from mmfusion.model.types import masked_mean

TRANSCHEX: dict[str, Any] = {
    "patch_size": (32, 32),
    "num_language_layers": 2,
    "num_vision_layers": 2,
    "num_mixed_layers": 2,
}
"""MONAI's TransCheX as its own documentation builds it: two layers of each kind, patches of 32 pixels."""

PEERS = {"torchmultimodal": ("torchmultimodal", "iopath"), "monai": ("monai",)}
"""The packages of the peers that are not always installed."""

Peer = Callable[..., Tensor]


def peers(setting: Setting) -> dict[str, Any]:
    """`concat` beside transformers' dual encoder (eager, sdpa, compiled), torchmultimodal's late fusion and MONAI's TransCheX.

    The dual encoder and the late fusion have our backbones with our weights, so that they do the
    same work; TransCheX has an architecture of its own, and attends to padding: it is timed, not
    compared with the others.
    """
    if not isinstance(setting.chosen.image, ViTConfig):
        return {
            "skipped": "the dual encoder takes a ViT of transformers, which these backbones have not"
        }
    ours = classifier(setting.chosen, "concat")
    built: dict[str, Peer] = {}
    for attention in ("eager", "sdpa", "compiled"):
        torch.manual_seed(0)
        dual = DualEncoder(ours).eval()
        dual.towers.set_attn_implementation("eager" if attention == "eager" else "sdpa")
        built[f"dual encoder, {attention}"] = dual
    absent = [
        name
        for name, parts in PEERS.items()
        if any(importlib.util.find_spec(part) is None for part in parts)
    ]
    if "torchmultimodal" not in absent:
        built["torchmultimodal, late fusion"] = _late_fusion(ours)
    if "monai" not in absent:
        built["MONAI, TransCheX"] = _transchex(setting.chosen.pixels)
    full = {
        name: pairs(setting.chosen, setting.batch, torch.float32, width=width)
        for name, width in WIDTHS.items()
    }
    sides: dict[str, Side] = {}
    expected: dict[str, Tensor] = {}
    for peer, module in built.items():
        for name, inputs in full.items():
            with torch.inference_mode():
                # To 128 longer texts are cut, and TransCheX sees the padding: there each width has
                # its own answer.
                same = name != "to 128" and "TransCheX" not in peer
                expected[f"{peer}, {name}"] = module(**(full["to the longest"] if same else inputs))
            placed = {key: value.to(setting.device) for key, value in inputs.items()}
            placed["pixel_values"] = placed["pixel_values"].to(setting.dtype)
            sides[f"{peer}, {name}"] = _side(module, placed, compiles=peer.endswith("compiled"))
    inputs = pairs(setting.chosen, setting.batch, setting.dtype, device=setting.device)
    assert ours.text_encoder is not None
    ours.text_encoder.padding = "padded"
    with torch.inference_mode():
        expected |= dict.fromkeys(
            ("mmfusion, packed", "mmfusion, compiled"), ours(**full["to the longest"]).logits
        )
    ours.text_encoder.padding = "packed"
    for module in (ours, *built.values()):
        setting.place(module)
    sides = {
        "mmfusion, packed": of_model(ours, inputs),
        "mmfusion, compiled": of_compiled(ours, inputs),
    } | sides
    lengths = inputs["attention_mask"].sum(1).tolist()
    operations = {
        name: needed_operations(setting.chosen, setting.batch, cut(lengths, name)) for name in sides
    }
    known = {name: value for name, value in operations.items() if "TransCheX" not in name}
    return compared(setting, sides, expected, operations=known) | {"absent": absent}


def _side(module: Peer, inputs: dict[str, Tensor], *, compiles: bool) -> Side:
    # One graph for each width: the best that the compiler can do for it.
    run = torch.compile(module, dynamic=False) if compiles else module
    return lambda: run(**inputs)


def _late_fusion(ours: Any) -> nn.Module:
    """Torchmultimodal's generic late fusion around copies of our backbones: ViT's first token, BERT's mean, side by side."""
    from torchmultimodal.models.late_fusion import LateFusion
    from torchmultimodal.modules.fusions.concat_fusion import ConcatFusionModule

    dual = DualEncoder(ours).towers
    encoders = nn.ModuleDict(
        {"image": _Picture(dual.vision_model), "text": _Words(dual.text_model)}
    )
    dim = dual.vision_model.config.hidden_size + dual.text_model.config.hidden_size
    return _TwoInputs(LateFusion(encoders, ConcatFusionModule(), nn.Linear(dim, 2))).eval()


class _Picture(nn.Module):
    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.tower(pixel_values=pixel_values).last_hidden_state[:, 0]


class _Words(nn.Module):
    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower

    def forward(self, words: dict[str, Tensor]) -> Tensor:
        return masked_mean(self.tower(**words).last_hidden_state, words["attention_mask"].bool())


class _TwoInputs(nn.Module):
    """Its inputs by name, as the others take them."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(
            {
                "image": pixel_values,
                "text": {"input_ids": input_ids, "attention_mask": attention_mask},
            }
        )


def _transchex(pixels: int) -> nn.Module:
    """MONAI's TransCheX, whose loader is handed a file of random weights in the place of the published BERT."""
    from monai.networks.nets import Transchex

    with tempfile.TemporaryDirectory() as folder:
        torch.save({}, Path(folder) / "pytorch_model.bin")
        model = Transchex(
            in_channels=3,
            img_size=(pixels, pixels),
            num_classes=2,
            path_or_repo_id=folder,
            **TRANSCHEX,
        )
    return _WithoutMask(model).eval()


class _WithoutMask(nn.Module):
    """TransCheX takes no attention mask."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, vision_feats=pixel_values)
