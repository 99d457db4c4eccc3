"""Linear layers in 8-bit integers, and the report on how far answers move."""

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from mmfusion import FusionClassifier
from mmfusion import testing as kit
from mmfusion.inference import int8
from mmfusion.inference.int8 import parity, quantize_linear_layers


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the narrow layers of the tiny encoders be quantised."""
    monkeypatch.setattr(int8, "LEAST_WIDTH", 8)


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns each row as whole numbers from -128 to 127, and the scales."""
    scale = x.abs().amax(-1, keepdim=True) / 127.5
    # The largest entry lies halfway between two numbers, so that the order of the rounding counts.
    return torch.round(x * (1 / scale)).clamp(-128, 127), scale


def test_a_layer_computes_the_equation(narrow: None) -> None:
    model = kit.tiny_classifier(image="timm_vit", text="bert").eval()
    kit.redraw_parameters(model, 0)
    layer = model.image_encoder.backbone.blocks[0].mlp.fc1
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    x = torch.randn(5, weight.shape[1])
    assert quantize_linear_layers(model) > 10
    (w, w_scale), (a, a_scale) = rounded(weight), rounded(x)
    expected = a_scale * w_scale.T * (a @ w.T) + bias
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(layer(x), x @ weight.T + bias, atol=1e-5)


def test_the_encoders_alone_are_quantised_and_samples_stay_apart(narrow: None) -> None:
    model = kit.tiny_classifier("cross_attention", image="timm_vit", text="bert").eval()
    kit.redraw_parameters(model, 0)
    batch = kit.tiny_batch(model, missing=False)
    with torch.no_grad():
        plain = model(**batch).logits
    quantize_linear_layers(model)
    kinds = {name: type(weight.data) for name, weight in model.named_parameters()}
    changed = {name for name, kind in kinds.items() if kind not in (Tensor, nn.Parameter)}
    assert changed and all(".backbone." in name for name in changed)
    kit.check_batch_law(model, batch)
    kit.check_padding_law(model, batch)
    with torch.no_grad():
        moved = (model(**batch).logits - plain).abs().max()
    assert 0 < moved < plain.abs().max()


def test_encoders_without_a_wide_layer_are_refused() -> None:
    with pytest.raises(ValueError, match="without a linear layer of 256 or more"):
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


@pytest.mark.parametrize("multi_label", [False, True])
def test_parity_is_counted_sample_by_sample(multi_label: bool) -> None:
    draw = np.random.default_rng(0)
    before = draw.normal(size=(50, 2))
    after = before + draw.normal(0, 0.3, size=(50, 2))
    labels = draw.integers(0, 2, (50, 2) if multi_label else 50)
    found = parity(
        torch.from_numpy(before),
        torch.from_numpy(after),
        torch.from_numpy(labels),
        multi_label=multi_label,
    )
    distances = [abs(after[i, j] - before[i, j]) for i in range(50) for j in range(2)]
    assert found.rows == 50 and found.largest == pytest.approx(max(distances))
    assert found.mean == pytest.approx(sum(distances) / 100)
    assert found.spread == pytest.approx(np.sqrt(((before - before.mean()) ** 2).mean()))
    if multi_label:
        changed = sum((before[i, j] > 0) != (after[i, j] > 0) for i in range(50) for j in range(2))
        assert found.changed == changed / 100
        expected = [
            np.mean([roc_auc_score(labels[:, c], x[:, c]) for c in (0, 1)]) for x in (before, after)
        ]
    else:
        changed = sum(
            (before[i, 1] > before[i, 0]) != (after[i, 1] > after[i, 0]) for i in range(50)
        )
        assert found.changed == changed / 50
        expected = [roc_auc_score(labels, x[:, 1] - x[:, 0]) for x in (before, after)]
    assert [found.auroc_before, found.auroc_after] == pytest.approx(expected)


def test_parity_without_labels_and_of_other_samples() -> None:
    logits = torch.zeros(3, 2)
    found = parity(logits, logits)
    assert found.auroc_before is found.auroc_after is None and found.changed == 0
    for other in (torch.zeros(2, 2), torch.zeros(3)):
        with pytest.raises(ValueError, match=r"logits \[B, C\] of the same samples"):
            parity(logits, other)
    with pytest.raises(ValueError, match=r"got \(0, 2\)"):
        parity(logits[:0], logits[:0])
