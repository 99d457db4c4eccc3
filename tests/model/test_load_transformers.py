"""Transformers backbones: read strictly from checkpoints, with their widths and preprocessing."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertForSequenceClassification,
    BertModel,
    CLIPConfig,
    CLIPModel,
    ConvNextConfig,
    PreTrainedConfig,
    T5Config,
    ViTImageProcessor,
)

from mmfusion import testing as kit
from mmfusion.model.adapter_vit import transformers_image_adapter
from mmfusion.model.encoder_image import ImageEncoder
from mmfusion.model.encoder_text import TextEncoder
from mmfusion.model.load_transformers import backbone_width

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
WORDS = {"vocab_size": 30, "max_position_embeddings": 24}


def ids() -> Tensor:
    return torch.randint(4, 30, (2, 7), generator=torch.Generator().manual_seed(0))


def pixels(size: int = 16) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Yields the log records of the library, from INFO on."""
    names = ("mmfusion.model.load_weights", "mmfusion.model.encoder_image", "transformers")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(caplog.handler)
        logger.setLevel(logging.INFO)
    yield caplog
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(caplog.handler)
        logger.setLevel(level)


def same(module: nn.Module, expected: dict[str, Tensor]) -> bool:
    own = module.state_dict()
    return bool(own) and all(torch.equal(value, expected[key]) for key, value in own.items())


def test_a_text_classifiers_checkpoint_is_read_without_its_head(
    tmp_path: Path, log: pytest.LogCaptureFixture, bert: Any
) -> None:
    whole = BertForSequenceClassification(bert())
    whole.save_pretrained(tmp_path)
    encoder = TextEncoder(str(tmp_path))
    assert (
        same(encoder.backbone, whole.bert.state_dict()) and encoder.config.source == "transformers"
    )
    assert "Left out of checkpoint" in log.text and "classifier.weight" in log.text
    rebuilt = TextEncoder.from_config(json.loads(json.dumps(encoder.config.to_dict())))
    rebuilt.load_state_dict(encoder.state_dict())
    assert torch.equal(rebuilt.eval()(ids()).pooled, encoder.eval()(ids()).pooled)


def test_of_a_dual_encoder_each_side_takes_its_tower(tmp_path: Path) -> None:
    text = {**SMALL, **WORDS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = CLIPConfig(
        text_config=text,
        vision_config={**SMALL, "image_size": 16, "patch_size": 8},
        projection_dim=16,
    )
    whole = CLIPModel(config)
    whole.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    image = ImageEncoder(str(tmp_path))
    words = TextEncoder(str(tmp_path))
    for encoder, tower in ((image, whole.vision_model), (words, whole.text_model)):
        expected = tower.state_dict()
        own = {
            key.split("model.", 1)[-1]: value
            for key, value in encoder.backbone.state_dict().items()
        }
        assert own.keys() == expected.keys() and all(
            torch.equal(own[key], value) for key, value in expected.items()
        )
    assert image(pixels()).pooled.shape == (2, 16) and words(ids()).pooled.shape == (2, 16)


def test_a_checkpoint_that_does_not_fit_is_listed(tmp_path: Path, bert: Any) -> None:
    BertModel(bert(num_hidden_layers=2)).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(
        ValueError,
        match=r"checkpoint '.*' must fit the model key by key, got missing: encoder\.layer\.2\.",
    ):
        TextEncoder(str(tmp_path))


def test_a_checkpoint_of_other_shapes_is_listed(tmp_path: Path, bert: Any) -> None:
    BertModel(bert()).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"vocab_size": 31}))
    with pytest.raises(
        ValueError, match=r"must fit the model key by key, .*embeddings\.word_embeddings\.weight"
    ):
        TextEncoder(str(tmp_path))


def test_a_damaged_checkpoint_is_named(tmp_path: Path, bert: Any) -> None:
    BertModel(bert()).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"'{tmp_path}'"):
        TextEncoder(str(tmp_path))


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=rf"name must be a transformers checkpoint .* got '{tmp_path}', "
        "which could not be read",
    ):
        TextEncoder(str(tmp_path))


def test_encoder_decoders_are_refused() -> None:
    with pytest.raises(ValueError, match="name must be an encoder, got 't5', an encoder-decoder"):
        TextEncoder(T5Config(d_model=8, num_layers=1, d_ff=8, num_heads=1, vocab_size=9))


def test_poolers_are_not_built(bert: Any, vit: Any) -> None:
    for encoder in (TextEncoder(bert()), ImageEncoder(vit())):
        assert not any("pooler" in name for name, _ in encoder.named_parameters())


def test_weights_for_a_text_encoder_with_a_prefix_and_a_head(bert: Any) -> None:
    whole = BertForSequenceClassification(bert())
    assert same(TextEncoder(bert(), weights=whole.state_dict()).backbone, whole.bert.state_dict())


class Wordless(PreTrainedConfig):
    model_type = "wordless"


def test_a_config_without_a_width_is_refused(vit: Any) -> None:
    module = ImageEncoder(vit()).backbone
    module.config = Wordless()
    with pytest.raises(
        ValueError,
        match=r"ViTModel must be a backbone whose config tells its width .* got Wordless",
    ):
        backbone_width(module)
    with pytest.raises(ValueError, match="whose config tells its width"):
        transformers_image_adapter(module)


def test_the_width_is_that_of_the_last_hidden_states() -> None:
    for kind in ("vit", "bert", "distilbert"):
        module = nn.Module()
        module.config = kit.tiny_config(kind, hidden_size=20, intermediate_size=28)  # type: ignore[assignment]
        assert backbone_width(module) == 20
    # A backbone of stages is as wide as its last stage.
    module.config = ConvNextConfig(hidden_sizes=[4, 8, 12, 24], depths=[1] * 4)  # type: ignore[assignment]
    assert backbone_width(module) == 24


def test_a_checkpoint_in_shards_and_one_without_weights(tmp_path: Path, bert: Any) -> None:
    model = BertModel(bert())
    model.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    found = TextEncoder(str(tmp_path / "shards")).backbone.state_dict()
    for key, value in found.items():
        assert torch.equal(value, model.state_dict()[key]), key
    next((tmp_path / "shards").glob("model-*")).unlink()
    with pytest.raises(ValueError, match="must hold undamaged weights: .*every file"):
        TextEncoder(str(tmp_path / "shards"))
    bert().save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"must hold weights \(model.safetensors\), got none"):
        TextEncoder(str(tmp_path / "bare"))
