"""What a frozen tower leaves on disk, and when an entry is read again."""

import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from mmfusion import (
    FusionClassifier,
    FusionCollator,
    FusionProcessor,
    ImageEncoder,
    Joint,
    TextEncoder,
    load_manifest,
)
from mmfusion import testing as kit
from mmfusion.data.toy import draw_shapes, word_tokenizer
from mmfusion.model.tower import CachePoint
from mmfusion.testing import tiny_config
from mmfusion.training.feature_cache import cache_features
from mmfusion.training.feature_store import TowerCache

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    return load_manifest(draw_shapes(tmp_path_factory.mktemp("shapes"), 24, missing=0.15, size=32))


def compose(
    rows: datasets.Dataset,
    fusion: object = "concat",
    image: str = "vit",
    seed: int = 0,
    **options: object,
):
    torch.manual_seed(seed)
    tokenizer = word_tokenizer(text for text in rows["text"] if text)
    vit = tiny_config("vit", **SMALL, image_size=32, patch_size=8)
    encoder = ImageEncoder(vit) if image == "vit" else ImageEncoder("resnet10t", pretrained=False)
    text = TextEncoder(tiny_config("bert", **SMALL, vocab_size=len(tokenizer)))
    model = FusionClassifier(
        image_encoder=encoder.freeze(),
        text_encoder=text.freeze(),
        fusion=fusion,
        num_labels=4,
        **options,
    )
    return model.eval(), FusionProcessor.from_encoders(encoder, text, tokenizer=tokenizer)


@torch.no_grad()
def both_ways(model, processor, rows, folder):
    plain = FusionCollator(processor)([rows[i] for i in range(len(rows))])
    cached, collate = cache_features(model, processor, rows, folder, batch_size=5)
    stored = collate([cached[i] for i in range(len(rows))])
    assert "pixel_values" not in stored or "image" not in collate.modalities
    assert torch.equal(plain["labels"], stored["labels"])
    return model(**plain), model(**stored)


@pytest.mark.parametrize(
    ("fusion", "mapper", "one"),
    [
        ("concat", "linear", True),
        ("late", "identity", True),
        ("concat", "mlp", False),
        ("concat", {"name": "linear", "dropout": 0.1}, False),
        ("cross_attention", "linear", False),
        ("cross_attention", "identity", False),
    ],
)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_of_a_text_no_more_is_stored_than_is_looked_at(
    fusion, mapper, one, pooling, rows, tmp_path
):
    model, processor = compose(rows, fusion, mapper=mapper)
    model.text_encoder.config.pooling = pooling
    model.text_encoder._adapter = model.text_encoder._make_adapter()
    plain, stored = both_ways(model, processor, rows, tmp_path)
    assert (plain.logits - stored.logits).abs().max() <= 1e-3
    cached, _ = cache_features(model, processor, rows, tmp_path)
    lengths = {len(row["text_cached"][0]) for row in cached if row["text_cached"] is not None}
    assert (lengths == {1}) == one


def test_a_partly_frozen_tower_is_stored_up_to_its_first_training_block(rows, tmp_path):
    model, processor = compose(rows)
    model.freeze("image", keep_last=1)
    assert (model.cache_point("image"), model.cache_point("text")) == (
        CachePoint(2),
        CachePoint(3, pooled=True),
    )
    plain, stored = both_ways(model, processor, rows, tmp_path)
    assert (plain.logits - stored.logits).abs().max() <= 1e-3
    cached, collate = cache_features(model, processor, rows, tmp_path)
    model(**collate([cached[i] for i in range(6)])).loss.backward()
    assert model.image_encoder.adapter.layers[2].mlp.fc1.weight.grad.abs().sum() > 0
    assert model.image_encoder.adapter.layers[1].mlp.fc1.weight.grad is None


def test_what_is_stored_is_not_encoded_again(rows, tmp_path, monkeypatch):
    model, processor = compose(rows)
    cache_features(model, processor, rows, tmp_path)
    monkeypatch.setattr(
        model.image_encoder, "forward", lambda *_: pytest.fail("the image tower ran")
    )
    monkeypatch.setattr(model.text_encoder, "forward", lambda *_: pytest.fail("the text tower ran"))
    cached, collate = cache_features(model, processor, rows, tmp_path)
    model(**collate([cached[0], cached[1]]))


def test_only_what_is_new_is_encoded(rows, tmp_path, monkeypatch):
    model, processor = compose(rows)
    cache_features(model, processor, rows.select(range(10)), tmp_path)
    counted = []
    own = model.image_encoder.forward
    monkeypatch.setattr(
        model.image_encoder, "forward", lambda pixels: counted.append(len(pixels)) or own(pixels)
    )
    cache_features(model, processor, rows.select(range(14)), tmp_path)
    new = {rows[i]["image"] for i in range(10, 14)} - {None}
    assert sum(counted) == len(new)


@pytest.mark.parametrize("change", ["weights", "preprocessing", "content", "strategy"])
def test_a_stale_entry_cannot_be_read(change, rows, tmp_path):
    folder = Path(
        shutil.copytree(Path(next(x for x in rows["image"] if x)).parent, tmp_path / "copy")
    )
    own = load_manifest(folder / "manifest.csv")
    model, processor = compose(own, "cross_attention")
    both_ways(model, processor, own, tmp_path / "cache")
    if change == "weights":
        with torch.no_grad():
            model.image_encoder.adapter.layers[0].mlp.fc1.weight.mul_(1.5)
    elif change == "preprocessing":
        processor.fit = "crop"
        processor.input_spec["mean"] = [0.1, 0.2, 0.3]
    elif change == "content":
        for path in folder.glob("*.png"):
            Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    else:
        model, processor = compose(own, Joint(at=1))
    plain, stored = both_ways(model, processor, own, tmp_path / "cache")
    assert (plain.logits - stored.logits).abs().max() <= 1e-3


def test_an_unfinished_file_is_not_read(rows, tmp_path):
    model, processor = compose(rows)
    cached, _ = cache_features(model, processor, rows, tmp_path)
    folder = cached.caches["image"].folder
    (file,) = folder.glob("*.arrow")
    (folder / "killed.part").write_bytes(file.read_bytes()[:100])
    again, _ = cache_features(model, processor, rows, tmp_path)
    first = next(i for i, image in enumerate(rows["image"]) if image is not None)
    assert torch.equal(again[first]["image_cached"][0], cached[first]["image_cached"][0])
    assert len(list(folder.glob("*.arrow"))) == 1


def test_features_beyond_half_precision_are_an_error(rows, tmp_path):
    model, processor = compose(rows)
    with torch.no_grad():
        model.image_encoder.backbone.layernorm.weight.mul_(1e7)
    with pytest.raises(ValueError, match="features must fit half precision"):
        cache_features(model, processor, rows, tmp_path)


@pytest.mark.parametrize("name", ["pos_embed", "cls_token"])
def test_a_parameter_beside_the_blocks_is_part_of_the_key(name, rows, tmp_path):
    """A partly frozen ViT holds them in the module that also holds the training blocks."""
    keys = []
    for change in (0.0, 1.0):
        model = kit.tiny_classifier("late", image="timm_vit").freeze("image", keep_last=1)
        with torch.no_grad():
            getattr(model.image_encoder.backbone, name).add_(change)
        processor = FusionProcessor(
            word_tokenizer(rows["text"][:1]), model.image_encoder.input_spec
        )
        keys.append(TowerCache(model, processor, "image", tmp_path).folder.name)
    assert keys[0] != keys[1]


def test_a_training_block_is_no_part_of_the_key(rows, tmp_path):
    keys = []
    for change in (0.0, 1.0):
        model = kit.tiny_classifier("late", image="cnn").freeze("image", keep_last=1)
        last = model.image_encoder.adapter.parts()[0][-1][0]
        with torch.no_grad():
            for value in (*last.parameters(), *last.buffers()):
                value.add_(change) if value.is_floating_point() else None
        processor = FusionProcessor(
            word_tokenizer(rows["text"][:1]), model.image_encoder.input_spec
        )
        keys.append(TowerCache(model, processor, "image", tmp_path).folder.name)
    assert keys[0] == keys[1]
