"""The backbone families: a walk gives the backbone's own answer, and all others are one block."""

import itertools
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPVisionConfig,
    ConvNextConfig,
    DeiTConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    RobertaConfig,
    ViTConfig,
)

from mmfusion.model.adapter_base import OneBlock, features_to_encoded
from mmfusion.model.adapter_bert import pool_by, position_offset
from mmfusion.model.adapter_timm import TimmStages, TimmViT, timm_adapter
from mmfusion.model.adapter_vit import transformers_image_adapter
from mmfusion.model.encoder_base import Encoder
from mmfusion.model.encoder_image import ImageEncoder
from mmfusion.model.encoder_text import TextEncoder
from mmfusion.model.load_transformers import backbone_width
from mmfusion.model.masking import masked_mean
from mmfusion.model.packed_attention import PACKED_ATTENTION
from mmfusion.model.registry import custom_backbone, register_backbone, registered_name
from mmfusion.model.types import Encoded, Hidden

VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 2}
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
WORDS = {"vocab_size": 30, "max_position_embeddings": 24, "pad_token_id": 1}
PICTURE = {"image_size": 16, "patch_size": 8}

# One model for each kind of prefix, norm and pooling that timm's VisionTransformer supports.
TIMM_VITS: dict[str, tuple[str, dict[str, Any], int]] = {
    "class token": ("vit_tiny_patch16_224", VIT, 1),
    "mean of patches": ("vit_tiny_patch16_224", {**VIT, "global_pool": "avg"}, 1),
    "pre-norm": ("vit_base_patch32_clip_224", {**VIT, "patch_size": 16}, 1),
    "registers": ("vit_small_patch14_reg4_dinov2", {**VIT, "patch_size": 16}, 5),
    "attention pooling": ("vit_base_patch16_siglip_224", VIT, 0),
    "two prefix tokens": ("deit_tiny_distilled_patch16_224", VIT, 2),
}
# The number of blocks into which timm groups each model.
TIMM_STAGES = {
    "resnet10t": 4,
    "lcnet_050": 6,
    "test_efficientnet": 5,
    "test_convnext": 4,
    "regnety_002": 4,
    "densenet121": 4,
    "vgg11": 5,
}
HF_IMAGE: dict[str, tuple[PreTrainedConfig, int, int]] = {
    "vit": (ViTConfig(**SMALL, **PICTURE), 3, 1),
    "deit": (DeiTConfig(**SMALL, **PICTURE), 3, 2),
    "clip": (CLIPVisionConfig(**SMALL, **PICTURE), 1, 0),
    "dinov2": (Dinov2Config(**SMALL, **PICTURE), 1, 0),
    "registers": (Dinov2WithRegistersConfig(**SMALL, **PICTURE, num_register_tokens=2), 1, 0),
    "convnext": (ConvNextConfig(hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1]), 1, 0),
}
HF_TEXT: dict[str, tuple[PreTrainedConfig, int]] = {
    "bert": (BertConfig(**SMALL, **WORDS), 3),
    "roberta": (RobertaConfig(**SMALL, **WORDS), 3),
    "distilbert": (
        DistilBertConfig(
            dim=16,
            n_layers=3,
            n_heads=2,
            hidden_dim=16,
            vocab_size=30,
            max_position_embeddings=24,
            pad_token_id=1,
        ),
        3,
    ),
    "mpnet": (MPNetConfig(**SMALL, **WORDS), 3),
    # The window of 4 tokens is shorter than the texts of up to 9, so the sliding layers get another
    # mask than the global ones.
    "modernbert": (
        ModernBertConfig(
            **SMALL,
            **WORDS,
            local_attention=4,
            global_attn_every_n_layers=2,
            bos_token_id=2,
            eos_token_id=3,
            cls_token_id=2,
            sep_token_id=3,
        ),
        3,
    ),
    "electra": (ElectraConfig(**SMALL, **WORDS, embedding_size=16), 1),
}


def pixels(size: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def words() -> tuple[Tensor, Tensor]:
    ids = torch.randint(4, 30, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:] = 0
    mask[2, :4] = 0
    return ids, mask


def walked(encoder: Encoder, *inputs: Tensor) -> Encoded:
    hidden = encoder.embed(*inputs)  # type: ignore[operator]
    for index in range(encoder.num_blocks):
        hidden = encoder.block(index, hidden)
    return encoder.pool(hidden)


def assert_same(walk: Encoded, own: Encoded, mask: Tensor) -> None:
    assert torch.equal(walk.mask, own.mask)
    shown = mask.unsqueeze(-1)
    torch.testing.assert_close(
        torch.where(shown, walk.tokens, 0), torch.where(shown, own.tokens, 0), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(walk.pooled, own.pooled, rtol=0, atol=1e-5)


def check_walk(encoder: Encoder, *inputs: Tensor) -> Encoded:
    """Checks the walk against the backbone's own forward pass, and returns the latter's answer.

    The declared widths must be those of the hidden states.
    """
    encoder.eval()
    with torch.no_grad():
        own = encoder(*inputs)
        assert_same(walked(encoder, *inputs), own, own.mask)
        hidden = encoder.embed(*inputs)  # type: ignore[operator]
        for index, width in enumerate(encoder.block_dims):
            assert hidden.values.shape[1 if hidden.values.ndim == 4 else -1] == width
            hidden = encoder.block(index, hidden)
    assert own.tokens.shape == (*own.mask.shape, encoder.dim) and own.pooled.shape == (
        own.mask.shape[0],
        encoder.dim,
    )
    assert bool(own.mask.any(1).all()) and bool(own.pooled.isfinite().all())
    blocks, tail = encoder.adapter.parts()
    assert len(blocks) == encoder.num_blocks
    held = [id(p) for module in [*itertools.chain(*blocks), *tail] for p in module.parameters()]
    assert len(held) == len(set(held)) and set(held) <= {
        id(p) for p in encoder.backbone.parameters()
    }
    return own


@pytest.mark.parametrize("kind", TIMM_VITS)
def test_timm_vits_are_walked(kind: str) -> None:
    name, options, prefix = TIMM_VITS[kind]
    encoder = ImageEncoder(name, pretrained=False, **options)
    assert isinstance(encoder.adapter, TimmViT) and encoder.num_blocks == 3 and encoder.takes_tokens
    own = check_walk(encoder, pixels())
    assert encoder.num_prefix == prefix and own.tokens.shape[1] == 4 + prefix


@pytest.mark.parametrize("name", TIMM_STAGES)
def test_timm_cnns_are_walked_by_stage(name: str) -> None:
    encoder = ImageEncoder(name, pretrained=False)
    assert isinstance(encoder.adapter, TimmStages) and not encoder.takes_tokens
    check_walk(encoder, pixels(64))
    assert encoder.num_blocks == TIMM_STAGES[name] == len(encoder.block_dims)


@pytest.mark.parametrize("kind", HF_IMAGE)
def test_transformers_vision_models(kind: str) -> None:
    config, blocks, prefix = HF_IMAGE[kind]
    encoder = ImageEncoder(config)
    own = check_walk(encoder, pixels(32 if kind == "convnext" else 16))
    assert encoder.num_blocks == blocks and encoder.takes_tokens == (blocks > 1)
    if blocks > 1:
        assert encoder.num_prefix == prefix and own.tokens.shape[1] == 4 + prefix
    else:
        assert encoder.block_dims == []


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", HF_TEXT)
def test_transformers_text_models(kind: str, pooling: str) -> None:
    config, blocks = HF_TEXT[kind]
    encoder = TextEncoder(config, pooling=pooling)
    own = check_walk(encoder, *words())
    assert encoder.num_blocks == blocks
    expected = masked_mean(own.tokens, own.mask) if pooling == "mean" else own.tokens[:, 0]
    torch.testing.assert_close(own.pooled, expected)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_the_walk_holds_under_either_attention(kind: str, attention: str) -> None:
    encoder = TextEncoder(HF_TEXT[kind][0])
    rebuilt = TextEncoder.from_config(encoder.config, attn_implementation=attention)
    expected = PACKED_ATTENTION if attention == "sdpa" else attention
    assert rebuilt.backbone.config._attn_implementation == expected
    check_walk(rebuilt, *words())


def test_a_backbone_without_sdpa_keeps_its_own_attention() -> None:
    encoder = TextEncoder(HF_TEXT["mpnet"][0])
    for asked in ("sdpa", "eager"):
        assert (
            TextEncoder.from_config(
                encoder.config, attn_implementation=asked
            ).backbone.config._attn_implementation
            == "eager"
        )


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_recomputed_activations_change_nothing(name: str) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(name, pretrained=False, **(VIT if "vit" in name else {}))
    gradients = []
    for recompute in (False, True):
        encoder.gradient_checkpointing = recompute
        assert encoder.gradient_checkpointing == recompute
        encoder.zero_grad()
        # Eval mode: a second dropout mask would change the gradients.
        walked(encoder.eval(), pixels()).pooled.square().sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


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


def test_nhwc_features_become_tokens_in_reading_order() -> None:
    encoder = ImageEncoder(
        "swin_tiny_patch4_window7_224",
        pretrained=False,
        img_size=64,
        window_size=2,
        depths=(1, 1, 1, 1),
    ).eval()
    assert isinstance(encoder.adapter, OneBlock)
    with torch.no_grad():
        own = check_walk(encoder, pixels(64))
        features = encoder.backbone.forward_features(pixels(64))
    torch.testing.assert_close(own.tokens.reshape(features.shape), features)


def test_a_widening_head_leaves_the_mean() -> None:
    encoder = ImageEncoder("lcnet_050", pretrained=False).eval()
    own = encoder(pixels(64))
    torch.testing.assert_close(own.pooled, own.tokens.mean(1))


def test_block_dims_leaves_the_mode_as_it_was() -> None:
    encoder = ImageEncoder("resnet10t", pretrained=False).train()
    encoder.backbone.layer1.eval()
    before = {name: module.training for name, module in encoder.named_modules()}
    assert encoder.block_dims == [64, 64, 128, 256]
    assert {name: module.training for name, module in encoder.named_modules()} == before


def test_lists_of_features_are_refused_by_name() -> None:
    class Pyramid(nn.Module):
        num_features = 4

        def forward_features(self, x: Tensor) -> list[Tensor]:
            return [x]

    with pytest.raises(
        ValueError, match=r"Pyramid must be a backbone whose features are .* got list\. Wrap it"
    ):
        timm_adapter(Pyramid()).forward(pixels())


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features must be 5 wide, got \(2, 3, 4, 4\)"):
        features_to_encoded(torch.zeros(2, 3, 4, 4), 5)


def test_features_of_a_map_are_read_row_by_row() -> None:
    features = torch.arange(8.0).reshape(1, 2, 2, 2)
    encoded = features_to_encoded(features, 2)
    assert encoded.tokens.tolist() == [[[0, 4], [1, 5], [2, 6], [3, 7]]]
    assert encoded.pooled.tolist() == [[1.5, 5.5]] and bool(encoded.mask.all())


def test_pooling_kinds() -> None:
    tokens, mask = torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])
    assert pool_by("mean")(tokens, mask).item() == 2
    assert pool_by("cls")(tokens, mask).item() == 1
    with pytest.raises(
        ValueError, match="pooling must be 'mean' or 'cls', got 'men'. Did you mean 'mean'"
    ):
        pool_by("men")


def test_position_offsets_follow_the_family() -> None:
    assert position_offset(BertModel(BertConfig(**SMALL, **WORDS))) == 0
    assert position_offset(TextEncoder(HF_TEXT["roberta"][0]).backbone) == 2
    assert position_offset(nn.Linear(1, 1)) == 0


class Wordless(PreTrainedConfig):
    model_type = "wordless"


def test_a_config_without_a_width_is_refused() -> None:
    module = ImageEncoder(HF_IMAGE["vit"][0]).backbone
    module.config = Wordless()
    with pytest.raises(
        ValueError,
        match=r"ViTModel must be a backbone whose config tells its width .* got Wordless",
    ):
        backbone_width(module)
    with pytest.raises(ValueError, match="whose config tells its width"):
        transformers_image_adapter(module)


class Registered(nn.Module):
    dim = 4

    def __init__(self, stride: int = 8):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(3, 4, stride, stride=stride)

    def get_config(self) -> dict[str, int]:
        return {"stride": self.stride}

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.conv(pixel_values)


def test_registering_a_backbone() -> None:
    register_backbone("test-registered", Registered)
    register_backbone("test-registered", Registered)
    assert registered_name(Registered()) == "test-registered"
    assert custom_backbone("test-registered", stride=4).stride == 4
    with pytest.raises(ValueError, match="name must be new, got 'test-registered'"):
        register_backbone("test-registered", nn.Identity)
    with pytest.raises(
        ValueError, match=r"name must be a registered backbone, got 'test-registred'. Did you mean"
    ):
        custom_backbone("test-registred")
    with pytest.raises(
        ValueError,
        match=r"registered class, got Flatten\. Call register_backbone\('a-name', Flatten\) first",
    ):
        registered_name(nn.Flatten())


def test_the_families_are_told_from_the_forward_not_the_class_name() -> None:
    class Mine(timm.models.resnet.ResNet):
        def forward_features(self, x: Tensor) -> Tensor:
            return super().forward_features(x)

    assert isinstance(timm_adapter(Mine(timm.models.resnet.BasicBlock, (1, 1, 1, 1))), OneBlock)
