"""The case "peers": the models that other libraries offer for the same job.

They have the same backbones and weights wherever a library allows that choice.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import ViTConfig

from benchmarks.measuring import Setting, compared, cut, of_compiled, of_model
from benchmarks.models import WIDTHS, DualEncoder, classifier, needed_operations, pairs
from benchmarks.timing import Side
from mmfusion.model.masking import masked_mean

TRANSCHEX: dict[str, Any] = {
    "patch_size": (32, 32),
    "num_language_layers": 2,
    "num_vision_layers": 2,
    "num_mixed_layers": 2,
}
"""The options of MONAI's TransCheX as in its documentation: two layers of each kind."""

PEERS = {"torchmultimodal": ("torchmultimodal", "iopath"), "monai": ("monai",)}
"""The optional peers, with the packages that each of them needs."""

Peer = Callable[..., Tensor]


def peers(setting: Setting) -> dict[str, Any]:
    """Returns the times of `concat` and of the peers, each peer at every width of `WIDTHS`.

    The peers are transformers' dual encoder (eager, sdpa, compiled), torchmultimodal's late fusion
    and MONAI's TransCheX. The dual encoder and the late fusion have our backbones with our weights,
    so they do the same work. TransCheX has an architecture of its own and attends to padding, so
    its answer is compared only with its own in float32.
    """
    if not isinstance(setting.chosen.image, ViTConfig):
        return {
            "skipped": "the dual encoder takes a ViT of transformers, "
            "which these backbones have not"
        }
    ours = classifier(setting.chosen, "concat")
    absent = [
        name
        for name, parts in PEERS.items()
        if any(importlib.util.find_spec(part) is None for part in parts)
    ]
    built = _built(ours, setting.chosen.pixels, absent)
    full = {
        name: pairs(
            setting.chosen, setting.batch, torch.float32, width=width, device=setting.device
        )
        for name, width in WIDTHS.items()
    }
    # The expected answers are those of float32.
    for module in (ours, *built.values()):
        module.to(setting.device)
    sides: dict[str, Side] = {}
    expected: dict[str, Tensor] = {}
    for peer, module in built.items():
        for name, inputs in full.items():
            with torch.inference_mode():
                # "to 128" cuts longer texts, and TransCheX attends to padding. In these two cases
                # each width has an answer of its own.
                same = name != "to 128" and "TransCheX" not in peer
                expected[f"{peer}, {name}"] = module(**(full["to the longest"] if same else inputs))
            placed = inputs | {"pixel_values": inputs["pixel_values"].to(setting.dtype)}
            sides[f"{peer}, {name}"] = _side(module, placed, compiles=peer.endswith("compiled"))
    inputs = pairs(setting.chosen, setting.batch, setting.dtype, device=setting.device)
    assert ours.text_encoder is not None
    ours.text_encoder.padding = "padded"
    with torch.inference_mode():
        expected |= dict.fromkeys(
            ("mmfusion, packed", "mmfusion, compiled"), ours(**full["to the longest"]).logits
        )
    ours.text_encoder.padding = "packed"
    # The expected answers above need float32, so the modules move to the dtype only now.
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
    # `needed_operations` counts our backbones, which TransCheX does not have.
    counted = {name: value for name, value in operations.items() if "TransCheX" not in name}
    return compared(setting, sides, expected, operations=counted) | {"absent": absent}


def _built(ours: Any, pixels: int, absent: list[str]) -> dict[str, Peer]:
    """Returns the peers by name, without those in `absent`."""
    built: dict[str, Peer] = {}
    for attention in ("eager", "sdpa", "compiled"):
        # The three have the same random head, because each is built from the same seed.
        torch.manual_seed(0)
        dual = DualEncoder(ours, "eager" if attention == "eager" else "sdpa").eval()
        built[f"dual encoder, {attention}"] = dual
    if "torchmultimodal" not in absent:
        built["torchmultimodal, late fusion"] = _late_fusion(ours)
    if "monai" not in absent:
        built["MONAI, TransCheX"] = _transchex(pixels)
    return built


def _side(module: Peer, inputs: dict[str, Tensor], *, compiles: bool) -> Side:
    """Returns a side that runs the module on the inputs, compiled where `compiles` is set."""
    # A graph for each width is faster than one graph for all widths, so it is fairer to the peer.
    run = torch.compile(module, dynamic=False) if compiles else module
    return lambda: run(**inputs)


def _late_fusion(ours: Any) -> nn.Module:
    """Returns torchmultimodal's late fusion around copies of our backbones.

    It concatenates the ViT's first token and the mean of BERT's tokens.
    """
    from torchmultimodal.models.late_fusion import LateFusion
    from torchmultimodal.modules.fusions.concat_fusion import ConcatFusionModule

    dual = DualEncoder(ours).towers
    encoders = nn.ModuleDict(
        {"image": _Picture(dual.vision_model), "text": _Words(dual.text_model)}
    )
    dim = dual.vision_model.config.hidden_size + dual.text_model.config.hidden_size
    return _TwoInputs(LateFusion(encoders, ConcatFusionModule(), nn.Linear(dim, 2))).eval()


@final
class _Picture(nn.Module):
    """The first token of a ViT."""

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.tower(pixel_values=pixel_values).last_hidden_state[:, 0]


@final
class _Words(nn.Module):
    """The mean of a BERT's real tokens."""

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower

    def forward(self, words: dict[str, Tensor]) -> Tensor:
        return masked_mean(self.tower(**words).last_hidden_state, words["attention_mask"].bool())


@final
class _TwoInputs(nn.Module):
    """A wrapper that takes the inputs by name, as the other peers do."""

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
    """Returns MONAI's TransCheX with random weights."""
    from monai.networks.nets import Transchex

    with tempfile.TemporaryDirectory() as folder:
        # The loader wants a BERT's file of weights. An empty one leaves all weights random.
        torch.save({}, Path(folder) / "pytorch_model.bin")
        model = Transchex(
            in_channels=3,
            img_size=(pixels, pixels),
            num_classes=2,
            path_or_repo_id=folder,
            **TRANSCHEX,
        )
    return _WithoutMask(model).eval()


@final
class _WithoutMask(nn.Module):
    """A wrapper that drops the attention mask, which TransCheX does not take."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, vision_feats=pixel_values)
