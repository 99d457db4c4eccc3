"""Linear layers in 8-bit integers."""

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmfusion import FusionClassifier
from mmfusion import testing as kit
from mmfusion.inference.int8 import quantize_linear_layers


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns each row as whole numbers from -128 to 127, and the scales."""
    scale = x.abs().amax(-1, keepdim=True) / 127.5
    # The largest entry lies halfway between two numbers, so that the order of the rounding counts.
    return torch.round(x * (1 / scale)).clamp(-128, 127), scale


def test_a_layer_computes_the_equation() -> None:
    model = kit.tiny_classifier(image="timm_vit", text="bert").eval()
    kit.redraw_parameters(model, 0)
    layer = model.image_encoder.backbone.blocks[0].mlp.fc1
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    x = torch.randn(5, weight.shape[1])
    assert quantize_linear_layers(model, 8) > 10
    (w, w_scale), (a, a_scale) = rounded(weight), rounded(x)
    expected = a_scale * w_scale.T * (a @ w.T) + bias
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(layer(x), x @ weight.T + bias, atol=1e-5)


def test_the_encoders_alone_are_quantised_and_samples_stay_apart() -> None:
    model = kit.tiny_classifier("cross_attention", image="timm_vit", text="bert").eval()
    kit.redraw_parameters(model, 0)
    batch = kit.tiny_batch(model, missing=False)
    with torch.no_grad():
        plain = model(**batch).logits
    count = quantize_linear_layers(model, 8)
    kinds = {name: type(weight.data) for name, weight in model.named_parameters()}
    changed = {name for name, kind in kinds.items() if kind not in (Tensor, nn.Parameter)}
    assert len(changed) == count and all(".backbone." in name for name in changed)
    kit.check_batch_law(model, batch)
    kit.check_padding_law(model, batch)
    with torch.no_grad():
        moved = (model(**batch).logits - plain).abs().max()
    assert 0 < moved < plain.abs().max()


def test_encoders_without_a_wide_layer_are_refused() -> None:
    with pytest.raises(ValueError, match="without a linear layer of 512 or more"):
        quantize_linear_layers(kit.tiny_classifier(image="timm_vit", text="bert"))


def test_a_missing_torchao_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def absent(name: str, *rest: Any) -> Any:
        if name.startswith("torchao"):
            raise ImportError("No module named 'torchao'")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r'pip install "mmfusion\[int8\]"'):
        quantize_linear_layers(FusionClassifier(text_encoder=kit.tiny_text_encoder("bert")))
