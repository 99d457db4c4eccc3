"""ImageEncoder: the pixels that it expects, and recomputed activations."""

import json
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import ResNetConfig

from mmfusion import testing as kit
from mmfusion.model.encoder_image import ImageEncoder
from mmfusion.model.registry import register_backbone
from mmfusion.model.types import Encoded

VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 2}


class Whole(nn.Module):
    dim = 6
    input_spec: ClassVar[dict[str, Any]] = {
        "size": [16, 16],
        "channels": 3,
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
        "interpolation": "nearest",
    }

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 8, stride=8)

    def forward(self, pixel_values: Tensor) -> Any:
        tokens = self.conv(pixel_values).flatten(2).transpose(1, 2)
        return Encoded(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), tokens[:, 0])


class Silent(nn.Module):
    dim = 3

    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values


register_backbone("test-whole", Whole)
register_backbone("test-silent", Silent)


def pixels(size: int = 16) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_a_module_may_return_the_contract_itself_and_declare_its_input() -> None:
    encoder = ImageEncoder(Whole())
    encoded = encoder(pixels())
    assert torch.equal(encoded.pooled, encoded.tokens[:, 0])
    assert encoder.input_spec["interpolation"] == "nearest"


def test_gradient_checkpointing_is_told_to_timm_and_read_from_transformers(vit: Any) -> None:
    encoder = ImageEncoder("vit_tiny_patch16_224", pretrained=False, **VIT)
    encoder.gradient_checkpointing = True
    assert encoder.backbone.grad_checkpointing and encoder.gradient_checkpointing
    other = ImageEncoder(vit())
    other.gradient_checkpointing = True
    assert not other.gradient_checkpointing


def test_a_backbone_that_declares_no_input_gets_the_usual_one() -> None:
    encoder = ImageEncoder(Silent())
    assert encoder.input_spec == {
        "size": [224, 224],
        "channels": 3,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "interpolation": "bilinear",
    }
    # A feature map is read row by row, and pooled by its mean.
    encoded = encoder(pixels(2))
    assert torch.equal(encoded.tokens[0, 1], pixels(2)[0, :, 0, 1])
    torch.testing.assert_close(encoded.pooled, pixels(2).mean((2, 3)))


class Counted(Silent):
    input_spec: ClassVar[dict[str, Any]] = {
        "size": np.array([4, 6]),
        "channels": np.int64(2),
        "mean": np.zeros(2),
        "std": np.ones(2, np.float32),
        "interpolation": "bilinear",
    }


register_backbone("test-counted", Counted)


def test_numpys_numbers_in_a_declared_input_can_be_saved() -> None:
    config = json.loads(json.dumps(ImageEncoder(Counted()).config.to_dict()))
    assert config["input_spec"] == {
        "size": [4, 6],
        "channels": 2,
        "mean": [0.0, 0.0],
        "std": [1.0, 1.0],
        "interpolation": "bilinear",
    }


def test_the_input_spec_cannot_be_changed_from_outside() -> None:
    encoder = kit.tiny_image_encoder("timm_vit")
    encoder.input_spec["size"] = [1, 1]
    assert encoder.input_spec["size"] == [32, 32]


def layouts_in(encoder: Any, values: Tensor) -> set[bool]:
    """Returns whether the channels are last in the inputs of the convolutions of a forward pass."""
    seen: list[bool] = []
    hooks = [
        module.register_forward_pre_hook(
            lambda _, inputs: seen.append(
                inputs[0].is_contiguous(memory_format=torch.channels_last)
            )
        )
        for module in encoder.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        encoder(values)
        encoder.embed(values)
    for hook in hooks:
        hook.remove()
    assert seen
    return set(seen)


@pytest.mark.parametrize("source", ["timm", "transformers"])
def test_all_convolutions_of_a_cnn_have_the_channels_last_on_a_cpu(source: str) -> None:
    cnn = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 2, 1])
    encoder: Any = ImageEncoder("resnet10t" if source == "timm" else cnn, pretrained=False).eval()
    values = pixels(64)
    assert layouts_in(encoder, values) == {True}
    with torch.no_grad():
        features = encoder.backbone(values)
        pooled = features if source == "timm" else features.pooler_output[:, :, 0, 0]
        torch.testing.assert_close(encoder(values).pooled, pooled, atol=1e-5, rtol=0)


def test_a_registered_module_gets_the_pixels_as_they_are() -> None:
    # It may call `view`, which needs the usual layout.
    assert layouts_in(ImageEncoder(Whole()), pixels()) == {False}


def test_an_exported_graph_holds_no_layout() -> None:
    encoder: Any = ImageEncoder("resnet10t", pretrained=False).eval()
    graph = torch.export.export(encoder, (pixels(64),)).graph
    assert not [node for node in graph.nodes if "memory_format" in node.kwargs]
