"""The adapters of transformers' vision models: ViT and DeiT are walked by layer."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    ConvNextConfig,
    DeiTConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    PreTrainedConfig,
)

from mmfusion import testing as kit
from mmfusion.model import adapter_vit
from mmfusion.model.encoder_image import ImageEncoder
from mmfusion.model.types import Hidden

VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 2}
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
PICTURE = {"image_size": 16, "patch_size": 8}

# The number of blocks and of prefix tokens of each model.
HF_IMAGE: dict[str, tuple[PreTrainedConfig, int, int]] = {
    "vit": (kit.tiny_config("vit", **SMALL, **PICTURE), 3, 1),
    "deit": (DeiTConfig(**SMALL, **PICTURE), 3, 2),
    "clip": (CLIPVisionConfig(**SMALL, **PICTURE), 1, 0),
    "dinov2": (Dinov2Config(**SMALL, **PICTURE), 1, 0),
    "registers": (Dinov2WithRegistersConfig(**SMALL, **PICTURE, num_register_tokens=2), 1, 0),
    "convnext": (ConvNextConfig(hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1]), 1, 0),
}


def pixels(size: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", HF_IMAGE)
def test_transformers_vision_models(kind: str, check_walk: Any) -> None:
    config, blocks, prefix = HF_IMAGE[kind]
    encoder = ImageEncoder(config)
    own = check_walk(encoder, pixels(32 if kind == "convnext" else 16))
    assert encoder.num_blocks == blocks and encoder.takes_tokens == (blocks > 1)
    if blocks > 1:
        assert encoder.num_prefix == prefix and own.tokens.shape[1] == 4 + prefix
    else:
        assert encoder.block_dims == []


def test_masked_places_of_a_vit_are_not_seen() -> None:
    for encoder in (
        ImageEncoder("vit_tiny_patch16_224", pretrained=False, **VIT),
        ImageEncoder(HF_IMAGE["vit"][0]),
    ):
        encoder.eval()
        torch.manual_seed(0)
        values = torch.randn(1, 6, encoder.dim)
        mask = torch.tensor([[True] * 4 + [False] * 2])
        other = torch.where(mask.unsqueeze(-1), values, 100.0)
        first, second = (encoder.block(0, Hidden(x, mask)).values[:, :4] for x in (values, other))
        torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
        alone = encoder.block(0, Hidden(values[:, :4])).values
        torch.testing.assert_close(first, alone, rtol=0, atol=1e-5)


def test_a_replica_does_not_look_for_its_width_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """nn.DataParallel makes replicas for each batch, and each of them a new adapter."""
    encoder = ImageEncoder(ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4)).eval()
    pixels = torch.randn(1, 3, 32, 32)
    expected = encoder(pixels).pooled
    monkeypatch.setattr(adapter_vit, "feature_width", lambda _: pytest.fail("looked again"))
    monkeypatch.setattr(encoder, "_is_replica", True, raising=False)
    assert encoder.adapter is not encoder.adapter
    torch.testing.assert_close(encoder(pixels).pooled, expected)


def test_a_replica_of_a_projected_tower_answers_as_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower = CLIPVisionConfig(**sizes, intermediate_size=16, image_size=32, patch_size=8)
    encoder = ImageEncoder(tower, projection=6).eval()
    pixels = torch.randn(2, 3, 32, 32)
    expected = encoder(pixels)
    assert encoder.dim == 6 and expected.tokens.shape == (2, 17, 6)
    monkeypatch.setattr(encoder, "_is_replica", True, raising=False)
    torch.testing.assert_close(encoder(pixels).tokens, expected.tokens)
    torch.testing.assert_close(encoder(pixels).pooled, expected.pooled)
