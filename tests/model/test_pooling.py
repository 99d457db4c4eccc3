"""Poolings: the published one by default, and none that gives all texts the same vector."""

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, CLIPTextConfig, GPT2Config, SiglipVisionConfig

from mmfusion import ImageEncoder, TextEncoder
from mmfusion import testing as kit
from mmfusion.model.encoder_families import WITH_PADDING, WITHOUT_PADDING
from mmfusion.model.pooling import CAUSAL, TEXT_POOLING
from mmfusion.testing.families import tiny_family_config

SIZES = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 30, "n_positions": 20}


# An older transformers knows fewer families, and scripts parts of two of them, which torch's newer
# versions warn of.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "family", sorted((WITH_PADDING | WITHOUT_PADDING) & set(CONFIG_MAPPING.keys()))
)
def test_causal_families_are_those_whose_first_token_sees_no_other(family: str) -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(tiny_family_config(family)).eval()
    kit.redraw_parameters(encoder, 0)
    ids = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 5
    with torch.no_grad():
        first = encoder(ids).tokens[:, 0]
    is_blind = torch.allclose(first[0], first[1], rtol=0, atol=1e-6)
    assert is_blind == (family in CAUSAL)
    assert encoder.config.pooling == TEXT_POOLING.get(family, "mean")


def test_the_first_token_of_a_causal_model_is_refused() -> None:
    with pytest.raises(ValueError, match="pooling must be 'mean' for 'gpt2', got 'cls'. Its atten"):
        TextEncoder(GPT2Config(**SIZES), pooling="cls")
    with pytest.raises(ValueError, match="pooling must be 'mean' or 'eos' for 'clip_text_model'"):
        TextEncoder(tiny_family_config("clip_text_model"), pooling="cls")
    with pytest.raises(ValueError, match="for 'gpt2', got 'eos'. Choose one of"):
        TextEncoder(GPT2Config(**SIZES), pooling="eos")


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_configs_that_were_saved_before_load_unchanged(pooling: str) -> None:
    saved: dict[str, Any] = TextEncoder(GPT2Config(**SIZES)).config.to_dict()
    encoder = TextEncoder.from_config(saved | {"pooling": pooling}).eval()
    assert encoder.config.pooling == pooling
    with torch.no_grad():
        own = encoder(torch.tensor([[5, 6, 7]]))
    expected = own.tokens.mean(1) if pooling == "mean" else own.tokens[:, 0]
    torch.testing.assert_close(own.pooled, expected)


def test_the_config_keeps_the_name_of_the_published_pooling() -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = TextEncoder(CLIPTextConfig(**small, intermediate_size=16, vocab_size=30))
    assert encoder.config.to_dict()["pooling"] == "eos"
    assert TextEncoder.from_config(encoder.config).config.pooling == "eos"
    assert TextEncoder(encoder.backbone.config, pooling="mean").config.pooling == "mean"


def test_a_siglip_without_its_head_is_pooled_by_its_tokens() -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes = {"intermediate_size": 16, "image_size": 16, "patch_size": 8}
    config = SiglipVisionConfig(**small, **sizes, vision_use_head=False)
    encoder = ImageEncoder(config).eval()
    with torch.no_grad():
        own = encoder(torch.randn(2, 3, 16, 16))
        torch.testing.assert_close(own.pooled, own.tokens.mean(1))
        with pytest.raises(ValueError, match="pooling must be 'tokens' for SiglipVisionModel"):
            ImageEncoder(config, pooling="pooler")(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="pooling must be one of .*got 'poler'. Did you mean 'poo"):
        ImageEncoder(config, pooling="poler")
