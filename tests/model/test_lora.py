"""Adapters that are merged, and what a saved model says of them."""

import copy
from typing import Any

import peft
import pytest
import torch
from torch import nn

from mmfusion import FusionClassifier
from mmfusion import testing as kit


def adapted(image: str = "timm_vit") -> FusionClassifier:
    """Returns a classifier whose towers have adapters that are not zero."""
    torch.manual_seed(0)
    model = kit.tiny_classifier("concat", "linear", image, "bert").eval()
    model.image_encoder.add_lora(r=2, alpha=6)
    model.text_encoder.add_lora(r=2)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "probe" in name:
            nn.init.normal_(parameter)
    return model


def logits(model: FusionClassifier, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("image", ["timm_vit", "cnn"])
def test_merged_weights_are_those_of_the_formula(image: str) -> None:
    model = adapted(image)
    batch = kit.tiny_batch(model)
    expected = logits(model, batch)
    formula = {}
    for name, module in model.named_modules():
        if isinstance(getattr(module, "base_layer", None), nn.Linear):
            down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
            scale = (6 if name.startswith("image") else 16) / 2
            formula[name] = (module.base_layer.weight + scale * up @ down).detach().clone()
    assert model.merge_lora() is model
    for name, weight in formula.items():
        torch.testing.assert_close(model.get_submodule(name).weight, weight)
    torch.testing.assert_close(logits(model, batch), expected, rtol=1e-4, atol=1e-4)
    assert not [name for name, _ in model.named_parameters() if "lora_" in name]
    assert model.image_encoder.config.lora is None
    assert model.image_encoder.is_frozen and model.text_encoder.is_frozen
    with pytest.raises(ValueError, match="merge_lora must be called on an encoder with adapters"):
        model.merge_lora()


@pytest.mark.parametrize("way", ["ours", "unloaded by peft"])
def test_what_was_merged_comes_back_once(way: str, tmp_path: Any) -> None:
    """Before, the adapters were described still, and were applied a second time."""
    model = adapted()
    batch = kit.tiny_batch(model)
    expected = logits(model, batch)
    if way == "ours":
        model.merge_lora()
    else:
        for name, module in list(model.named_modules()):
            if isinstance(module, peft.tuners.lora.LoraLayer):
                module.merge()
                owner, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(owner), leaf, module.get_base_layer())
    model.save_pretrained(tmp_path)
    again = FusionClassifier.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(again, batch), expected, rtol=1e-4, atol=1e-4)
    assert again.text_encoder.config.lora is None


def test_adapters_in_the_weights_are_not_saved(tmp_path: Any) -> None:
    model = adapted()
    batch = kit.tiny_batch(model)
    expected = logits(model, batch)
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.merge()
    with pytest.raises(ValueError, match=r"must be apart from the weights.*Call merge_lora\(\)"):
        model.save_pretrained(tmp_path)
    # They are in the weights already, so the sum stays.
    model.merge_lora()
    torch.testing.assert_close(logits(model, batch), expected, rtol=1e-4, atol=1e-4)


def test_adapters_of_another_origin_are_told(tmp_path: Any) -> None:
    model = kit.tiny_classifier("concat", "linear", "timm_vit", "bert")
    config = peft.LoraConfig(r=2, target_modules=["query"])
    peft.inject_adapter_in_model(config, model.text_encoder.backbone)
    with pytest.raises(ValueError, match="adapters must be made by add_lora"):
        model.save_pretrained(tmp_path)
    copied = copy.deepcopy(model).merge_lora()
    copied.save_pretrained(tmp_path)
    assert FusionClassifier.from_pretrained(tmp_path).text_encoder.config.lora is None
