"""What a frozen tower leaves on disk, and when an entry is read again."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmfusion import (
    FusionProcessor,
    Joint,
    load_manifest,
)
from mmfusion import testing as kit
from mmfusion.data.toy import word_tokenizer
from mmfusion.model.types import CachePoint
from mmfusion.training.feature_cache import cache_features
from mmfusion.training.feature_store import TowerCache


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
    both_ways, compose_frozen, fusion, mapper, one, pooling, few_rows, tmp_path
):
    model, processor = compose_frozen(few_rows, fusion, mapper=mapper)
    model.text_encoder.config.pooling = pooling
    model.text_encoder._adapter = model.text_encoder._make_adapter()
    plain, stored = both_ways(model, processor, few_rows, tmp_path)
    assert (plain.logits - stored.logits).abs().max() <= 1e-3
    cached, _ = cache_features(model, processor, few_rows, tmp_path)
    lengths = {len(row["text_cached"][0]) for row in cached if row["text_cached"] is not None}
    assert (lengths == {1}) == one


def test_a_partly_frozen_tower_is_stored_up_to_its_first_training_block(
    both_ways, compose_frozen, few_rows, tmp_path
):
    model, processor = compose_frozen(few_rows)
    model.freeze("image", keep_last=1)
    assert (model.cache_point("image"), model.cache_point("text")) == (
        CachePoint(2),
        CachePoint(3, pooled=True),
    )
    plain, stored = both_ways(model, processor, few_rows, tmp_path)
    assert (plain.logits - stored.logits).abs().max() <= 1e-3
    cached, collate = cache_features(model, processor, few_rows, tmp_path)
    model(**collate([cached[i] for i in range(6)])).loss.backward()
    assert model.image_encoder.adapter.layers[2].mlp.fc1.weight.grad.abs().sum() > 0
    assert model.image_encoder.adapter.layers[1].mlp.fc1.weight.grad is None


def test_what_is_stored_is_not_encoded_again(compose_frozen, few_rows, tmp_path, monkeypatch):
    model, processor = compose_frozen(few_rows)
    cache_features(model, processor, few_rows, tmp_path)
    monkeypatch.setattr(
        model.image_encoder, "forward", lambda *_: pytest.fail("the image tower ran")
    )
    monkeypatch.setattr(model.text_encoder, "forward", lambda *_: pytest.fail("the text tower ran"))
    cached, collate = cache_features(model, processor, few_rows, tmp_path)
    model(**collate([cached[0], cached[1]]))


def test_only_what_is_new_is_encoded(compose_frozen, few_rows, tmp_path, monkeypatch):
    model, processor = compose_frozen(few_rows)
    cache_features(model, processor, few_rows.select(range(10)), tmp_path)
    counted = []
    own = model.image_encoder.forward
    monkeypatch.setattr(
        model.image_encoder, "forward", lambda pixels: counted.append(len(pixels)) or own(pixels)
    )
    cache_features(model, processor, few_rows.select(range(14)), tmp_path)
    new = {few_rows[i]["image"] for i in range(10, 14)} - {None}
    assert sum(counted) == len(new)


@pytest.mark.parametrize("change", ["weights", "preprocessing", "content", "strategy"])
def test_a_stale_entry_cannot_be_read(both_ways, compose_frozen, change, few_rows, tmp_path):
    folder = Path(
        shutil.copytree(Path(next(x for x in few_rows["image"] if x)).parent, tmp_path / "copy")
    )
    own = load_manifest(folder / "manifest.csv")
    model, processor = compose_frozen(own, "cross_attention")
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
        model, processor = compose_frozen(own, Joint(at=1))
    plain, stored = both_ways(model, processor, own, tmp_path / "cache")
    assert (plain.logits - stored.logits).abs().max() <= 1e-3


def test_an_unfinished_file_is_not_read(compose_frozen, few_rows, tmp_path):
    model, processor = compose_frozen(few_rows)
    cached, _ = cache_features(model, processor, few_rows, tmp_path)
    folder = cached.caches["image"].folder
    (file,) = folder.glob("*.arrow")
    (folder / "killed.part").write_bytes(file.read_bytes()[:100])
    again, _ = cache_features(model, processor, few_rows, tmp_path)
    first = next(i for i, image in enumerate(few_rows["image"]) if image is not None)
    assert torch.equal(again[first]["image_cached"][0], cached[first]["image_cached"][0])
    assert len(list(folder.glob("*.arrow"))) == 1


@pytest.mark.parametrize("place", [0.01, 0.3, 0.5, 0.7, 0.99])
def test_a_damaged_file_is_made_anew(place, compose_frozen, few_rows, tmp_path, caplog):
    """A changed byte in the numbers would be read as other numbers or NaN."""
    model, processor = compose_frozen(few_rows)
    cached, _ = cache_features(model, processor, few_rows, tmp_path)
    expected = [cached[row]["image_cached"] for row in range(len(few_rows))]
    (file,) = cached.caches["image"].folder.glob("*.arrow")
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 0x40
    # Written beside and renamed, because the file is mapped into the memory.
    (tmp_path / "damaged").write_bytes(content)
    os.replace(tmp_path / "damaged", file)
    again, _ = cache_features(model, processor, few_rows, tmp_path)
    for row, entry in enumerate(expected):
        found = again[row]["image_cached"]
        assert (entry is None) == (found is None)
        assert entry is None or all(map(torch.equal, entry, found))
    assert f"{file} is damaged" in caplog.text


def test_a_full_disk_leaves_no_unfinished_file(compose_frozen, few_rows, tmp_path, monkeypatch):
    model, processor = compose_frozen(few_rows)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmfusion.training.feature_store.ArrowWriter.finalize", full)
    with pytest.raises(OSError, match="No space left"):
        cache_features(model, processor, few_rows, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_features_beyond_half_precision_are_an_error(compose_frozen, few_rows, tmp_path):
    model, processor = compose_frozen(few_rows)
    # Normalised embeddings are never that large.
    model.config.normalize_embeddings = False
    with torch.no_grad():
        model.image_encoder.backbone.layernorm.weight.mul_(1e7)
    with pytest.raises(ValueError, match="features must fit half precision"):
        cache_features(model, processor, few_rows, tmp_path)


@pytest.mark.parametrize("name", ["pos_embed", "cls_token"])
def test_a_parameter_beside_the_blocks_is_part_of_the_key(name, few_rows, tmp_path):
    """A partly frozen ViT holds them in the module that also holds the training blocks."""
    keys = []
    for change in (0.0, 1.0):
        model = kit.tiny_classifier("late", image="timm_vit").freeze("image", keep_last=1)
        with torch.no_grad():
            getattr(model.image_encoder.backbone, name).add_(change)
        processor = FusionProcessor(
            word_tokenizer(few_rows["text"][:1]), model.image_encoder.input_spec
        )
        keys.append(TowerCache(model, processor, "image", tmp_path).folder.name)
    assert keys[0] != keys[1]


def test_a_training_block_is_no_part_of_the_key(few_rows, tmp_path):
    keys = []
    for change in (0.0, 1.0):
        model = kit.tiny_classifier("late", image="cnn").freeze("image", keep_last=1)
        last = model.image_encoder.adapter.parts()[0][-1][0]
        with torch.no_grad():
            for value in (*last.parameters(), *last.buffers()):
                value.add_(change) if value.is_floating_point() else None
        processor = FusionProcessor(
            word_tokenizer(few_rows["text"][:1]), model.image_encoder.input_spec
        )
        keys.append(TowerCache(model, processor, "image", tmp_path).folder.name)
    assert keys[0] == keys[1]
