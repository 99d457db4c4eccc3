"""The feature cache: the same logits as without it, and never an outdated entry."""

import datasets
import numpy as np
import pytest
import torch

from mmfusion import (
    FusionClassifier,
    FusionCollator,
    FusionProcessor,
    ImageEncoder,
    Joint,
    TextEncoder,
    load_manifest,
)
from mmfusion.data.toy import draw_shapes, word_tokenizer
from mmfusion.testing import tiny_config
from mmfusion.training.arguments import training_arguments
from mmfusion.training.evaluate import predict
from mmfusion.training.feature_cache import cache_features
from mmfusion.training.fit import fit

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
    "fusion",
    [
        "concat",
        Joint(at=2),
        Joint(shared_blocks=1),
        "cross_attention",
        "mmtm",
        {"name": "late", "combine": "learned"},
    ],
)
@pytest.mark.parametrize("mapper", ["linear", {"name": "cross_attention", "queries": "image"}])
def test_cached_is_uncached(fusion, mapper, rows, tmp_path):
    model, processor = compose(rows, fusion, mapper=mapper)
    plain, stored = both_ways(model, processor, rows, tmp_path)
    assert (plain.logits - stored.logits).abs().max() <= 1e-3
    assert torch.equal(plain.logits.argmax(1), stored.logits.argmax(1))
    assert abs(plain.loss - stored.loss) <= 1e-3


@pytest.mark.parametrize("mapper", ["linear", "identity", "mlp"])
def test_a_text_without_a_token_is_a_missing_one_from_the_cache_too(
    mapper, rows, tmp_path, monkeypatch
):
    model, processor = compose(rows, mapper=mapper)
    here = next(index for index in range(len(rows)) if rows[index]["text"] and rows[index]["image"])
    real = type(processor.tokenizer).__call__

    def without_tokens(self, texts, **options):
        encoded = real(self, texts, **options)
        for row, text in enumerate(texts):
            if text == "nothing":
                encoded["attention_mask"][row] = 0
        return encoded

    monkeypatch.setattr(type(processor.tokenizer), "__call__", without_tokens)
    changed = rows.select([here, *range(3)]).map(
        lambda row, index: row | ({"text": "nothing"} if index == 0 else {}), with_indices=True
    )
    plain, stored = both_ways(model, processor, changed, tmp_path)
    assert (plain.logits - stored.logits).abs().max() <= 1e-3


@pytest.mark.parametrize("fusion", ["concat", "mmtm", "joint"])
def test_cached_is_uncached_on_a_cnn(fusion, rows, tmp_path):
    model, processor = compose(rows, fusion, image="cnn")
    plain, stored = both_ways(model, processor, rows, tmp_path)
    assert (plain.logits - stored.logits).abs().max() <= 1e-3


def test_training_from_the_cache_ends_where_training_without_ends(rows, tmp_path):
    logits = []
    for name, cache in (("without", None), ("with", tmp_path / "cache")):
        model, processor = compose(rows, "cross_attention")
        arguments = training_arguments(
            tmp_path / name,
            num_train_epochs=2,
            per_device_train_batch_size=6,
            learning_rate=1e-3,
            disable_tqdm=True,
        )
        result = fit(model, processor, rows, rows, arguments=arguments, cache=cache)
        assert result.epochs == 2 and result.seconds_per_epoch > 0
        logits.append(predict(model, processor, rows, cache=cache))
    assert np.abs(logits[0] - logits[1]).max() <= 5e-3
    assert (logits[0].argmax(1) == logits[1].argmax(1)).all()


def test_augmentation_and_cache_exclude_each_other(rows, tmp_path):
    model, processor = compose(rows)
    with pytest.raises(ValueError, match="augment must be None with a cache, got both"):
        fit(
            model,
            processor,
            rows,
            arguments=training_arguments(tmp_path),
            augment=lambda image, rng: image,
            cache=tmp_path,
        )


def test_a_model_with_nothing_frozen_has_nothing_to_store(rows, tmp_path):
    model, processor = compose(rows)
    model.image_encoder.unfreeze()
    model.text_encoder.unfreeze()
    with pytest.raises(ValueError, match="must have a frozen tower"):
        cache_features(model, processor, rows, tmp_path)
