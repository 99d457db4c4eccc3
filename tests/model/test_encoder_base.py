"""What both encoders share: frozen blocks, LoRA, and buffers that are not saved."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    ConvNextConfig,
    ElectraConfig,
)

from mmfusion import testing as kit
from mmfusion.model.encoder_image import ImageEncoder
from mmfusion.model.encoder_text import TextEncoder

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
WORDS = {"vocab_size": 30, "max_position_embeddings": 24}
VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 2}

ENCODERS = {
    "timm vit": lambda: ImageEncoder("vit_tiny_patch16_224", pretrained=False, **VIT),
    "cnn": lambda: ImageEncoder("resnet10t", pretrained=False),
    "transformers vit": lambda: ImageEncoder(
        kit.tiny_config("vit", **SMALL, image_size=16, patch_size=8)
    ),
    "opaque": lambda: ImageEncoder(ConvNextConfig(hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1])),
    "bert": lambda: TextEncoder(kit.tiny_config("bert", **SMALL, **WORDS)),
    "opaque text": lambda: TextEncoder(ElectraConfig(**SMALL, **WORDS, embedding_size=16)),
}


def ids() -> Tensor:
    return torch.randint(4, 30, (2, 7), generator=torch.Generator().manual_seed(0))


def pixels(size: int = 16) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def trainable(encoder: nn.Module) -> set[str]:
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("kind", ENCODERS)
def test_frozen_means_no_gradient_and_eval(kind: str) -> None:
    encoder = ENCODERS[kind]().train().freeze()
    assert not trainable(encoder) and not any(
        module.training for module in encoder.backbone.modules()
    )
    assert encoder.training and encoder.is_frozen and encoder.config.trainable == "frozen"
    encoder.train()
    assert not any(module.training for module in encoder.backbone.modules())
    assert encoder.num_frozen_blocks == encoder.num_blocks
    encoder.unfreeze().train()
    assert len(trainable(encoder)) == len(list(encoder.parameters())) and all(
        m.training for m in encoder.modules()
    )
    assert (
        encoder.config.trainable == "all"
        and encoder.num_frozen_blocks == 0
        and not encoder.is_frozen
    )


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_last_blocks_may_train(kind: str) -> None:
    encoder = ENCODERS[kind]().freeze(keep_last=1)
    blocks, tail = encoder.adapter.parts()
    kept = {id(p) for module in [*blocks[-1], *tail] for p in module.parameters()}
    assert kept and {id(p) for p in encoder.parameters() if p.requires_grad} == kept
    assert encoder.num_frozen_blocks == encoder.num_blocks - 1 and encoder.config.trainable == 1
    encoder.train()
    inside = {id(m) for module in [*blocks[-1], *tail] for m in module.modules()}
    for module in encoder.backbone.modules():
        if id(module) in inside:
            assert module.training
        elif not list(module.children()):
            assert not module.training
    encoder.eval()
    assert not any(module.training for module in encoder.modules())


def test_there_must_be_that_many_blocks(bert: Any) -> None:
    with pytest.raises(ValueError, match=r"keep_last must be in 0 \.\. 3 \(the blocks\), got 4"):
        TextEncoder(bert()).freeze(keep_last=4)
    with pytest.raises(ValueError, match=r"keep_last must be in 0 \.\. 3 \(the blocks\), got -1"):
        TextEncoder(bert()).freeze(keep_last=-1)


def test_batch_statistics_of_a_frozen_cnn_stay() -> None:
    encoder = ImageEncoder("resnet10t", pretrained=False).freeze(keep_last=1).train()
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    encoder(torch.randn(4, 3, 64, 64))
    changed = {
        name for name, buffer in encoder.named_buffers() if not torch.equal(buffer, before[name])
    }
    assert changed and all("layer4" in name for name in changed)


@pytest.mark.parametrize("kind", ENCODERS)
def test_lora_starts_at_the_frozen_encoder_and_trains_the_adapters_alone(kind: str) -> None:
    torch.manual_seed(0)
    encoder = ENCODERS[kind]().eval()
    inputs = (
        (ids(),)
        if "text" in kind or kind == "bert"
        else (pixels(16 if kind == "transformers vit" else 32),)
    )
    with torch.no_grad():
        before = encoder(*inputs).pooled
    encoder.add_lora(r=2, alpha=4, dropout=0.5)
    with torch.no_grad():
        torch.testing.assert_close(encoder(*inputs).pooled, before, rtol=0, atol=1e-6)
    assert trainable(encoder) and all("lora_" in name for name in trainable(encoder))
    assert encoder.config.lora == {"r": 2, "alpha": 4, "dropout": 0.5, "target_modules": None}
    assert not encoder.is_frozen and encoder.num_frozen_blocks == 0
    training = {
        name for name, module in encoder.train().backbone.named_modules() if module.training
    }
    assert training and all("lora_dropout" in name for name in training)
    encoder.eval()
    assert not any(module.training for module in encoder.modules())
    with pytest.raises(ValueError, match="add_lora must be called once"):
        encoder.add_lora()


def test_lora_computes_what_the_paper_says(bert: Any) -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(bert()).eval().add_lora(r=2, alpha=6, target_modules=["query"])
    layers = [
        m for name, m in encoder.backbone.named_modules() if name.endswith("attention.self.query")
    ]
    assert len(layers) == 3 and sum(p.requires_grad for p in encoder.parameters()) == 6
    layer = layers[0]
    nn.init.normal_(layer.lora_B["default"].weight)
    x = torch.randn(3, 16)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.testing.assert_close(layer(x), layer.base_layer(x) + 6 / 2 * x @ down.T @ up.T)


@pytest.mark.parametrize("change", ["freeze", "keep", "lora", "none"])
@pytest.mark.parametrize("kind", ["timm vit", "bert"])
def test_what_trains_is_rebuilt_from_the_config(kind: str, change: str) -> None:
    encoder = ENCODERS[kind]()
    changes: dict[str, Any] = {
        "freeze": encoder.freeze,
        "keep": lambda: encoder.freeze(keep_last=2),
        "lora": lambda: encoder.add_lora(r=2),
        "none": lambda: encoder,
    }
    changes[change]()
    rebuilt = type(encoder).from_config(json.loads(json.dumps(encoder.config.to_dict())))
    assert trainable(rebuilt) == trainable(encoder)
    assert {n for n, m in rebuilt.train().named_modules() if m.training} == {
        n for n, m in encoder.train().named_modules() if m.training
    }
    for parameter in rebuilt.parameters():
        parameter.requires_grad_(True)
    rebuilt.restore_gradient_flags()
    assert trainable(rebuilt) == trainable(encoder)
    assert rebuilt.config == encoder.config


def test_buffers_that_are_not_saved_are_restored() -> None:
    encoder = ImageEncoder(
        "swin_tiny_patch4_window7_224",
        pretrained=False,
        img_size=64,
        window_size=2,
        depths=(1, 1, 1, 1),
    )
    saved = set(encoder.backbone.state_dict())
    unsaved = {
        name: buffer.clone()
        for name, buffer in encoder.backbone.named_buffers()
        if name not in saved
    }
    assert unsaved
    for name, buffer in encoder.backbone.named_buffers():
        if name in unsaved:
            buffer.fill_(7)
    encoder.restore_unsaved_buffers()
    restored = dict(encoder.backbone.named_buffers())
    assert all(torch.equal(restored[name], value) for name, value in unsaved.items())


def test_unfreezing_leaves_the_weights_beside_lora_frozen() -> None:
    encoder = kit.tiny_text_encoder("bert").add_lora(r=2)
    before = {name for name, value in encoder.named_parameters() if value.requires_grad}
    encoder.unfreeze()
    after = {name for name, value in encoder.named_parameters() if value.requires_grad}
    assert after == before and all("lora_" in name for name in after)
