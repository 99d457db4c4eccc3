"""The projection of a tower: found in checkpoints of several kinds, or refused in words."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    SiglipConfig,
)

from mmfusion import ImageEncoder, TextEncoder

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
WORDS = SIZES | {"vocab_size": 64, "max_position_embeddings": 24}
PICTURES = SIZES | {"image_size": 32, "patch_size": 8}


def clip(width: int = 20) -> Any:
    torch.manual_seed(0)
    text, sight = (sizes | {"projection_dim": width} for sizes in (WORDS, PICTURES))
    return CLIPModel(CLIPConfig(text_config=text, vision_config=sight, projection_dim=width))


def test_the_weights_of_a_whole_model_a_tower_and_an_encoder_are_read(tmp_path: Path) -> None:
    model = clip()
    projections = {TextEncoder: model.text_projection, ImageEncoder: model.visual_projection}
    towers: dict[Any, Any] = {
        TextEncoder: CLIPTextModelWithProjection,
        ImageEncoder: CLIPVisionModelWithProjection,
    }
    for kind, projection in projections.items():
        encoder: Any = kind(model.config, projection=True, weights=model.state_dict())
        assert torch.equal(encoder.backbone.shared_projection.weight, projection.weight)
        again: Any = kind(
            model.config, projection=True, weights=dict(encoder.backbone.state_dict())
        )
        assert torch.equal(again.backbone.shared_projection.weight, projection.weight)
        model.save_pretrained(tmp_path / "whole")
        config = getattr(model.config, "text_config" if kind is TextEncoder else "vision_config")
        tower = towers[kind](config)
        folder = tmp_path / kind.__name__
        tower.save_pretrained(folder)
        read: Any = kind(str(folder), projection=True)
        own = getattr(tower, "text_projection", None) or tower.visual_projection
        assert torch.equal(read.backbone.shared_projection.weight, own.weight)
        assert kind(str(folder)).dim == 32 and read.dim == 20


def test_a_checkpoint_without_the_projection_is_refused(tmp_path: Path) -> None:
    model = clip()
    model.text_model.save_pretrained(tmp_path)
    message = r"must hold the projection text_projection.weight \(20, 32\), got none"
    with pytest.raises(ValueError, match=message):
        TextEncoder(str(tmp_path), projection=True)
    with pytest.raises(ValueError, match=message):
        TextEncoder(model.config, projection=True, weights=model.text_model.state_dict())
    twice = model.state_dict() | {"copy.text_projection.weight": torch.zeros(20, 32)}
    with pytest.raises(ValueError, match="weights must hold one projection, got"):
        TextEncoder(model.config, projection=True, weights=twice)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"\(24, 32\), got \(20, 32\)"):
        TextEncoder(str(tmp_path), projection=24)


def test_models_without_a_projection_refuse_it(bert: Any) -> None:
    siglip = SiglipConfig(text_config=WORDS, vision_config=PICTURES)
    for kind in (TextEncoder, ImageEncoder):
        with pytest.raises(ValueError, match="projection must be False for 'siglip_.*, got True"):
            kind(siglip, projection=True)
    with pytest.raises(ValueError, match="projection must be False for 'bert', got True"):
        TextEncoder(BertConfig(**WORDS), projection=True)
    with pytest.raises(ValueError, match="projection must be True, False or a width above 0"):
        TextEncoder(clip().config, projection=-1)
    with pytest.raises(ValueError, match="projection must be left out for this encoder, got True"):
        ImageEncoder("resnet18", pretrained=False, projection=True)
    with pytest.raises(ValueError, match="pooling must be left out for this encoder, got 'pooler'"):
        ImageEncoder("resnet18", pretrained=False, pooling="pooler")
