"""The feature cache: the same logits as without it, and never an outdated entry."""

import numpy as np
import pytest
import torch

from mmfusion import (
    Joint,
)
from mmfusion.training.arguments import training_arguments
from mmfusion.training.evaluate import predict
from mmfusion.training.feature_cache import cache_features
from mmfusion.training.fit import fit


@pytest.mark.parametrize(
    "fusion",
    [
        "concat",
        Joint(at=2),
        Joint(shared_blocks=1),
        "cross_attention",
        "mmtm",
        "bottleneck",
        "film",
        "tokens",
        {"name": "late", "combine": "learned"},
    ],
)
@pytest.mark.parametrize("mapper", ["linear", {"name": "cross_attention", "queries": "image"}])
def test_cached_is_uncached(both_ways, compose_frozen, fusion, mapper, few_rows, tmp_path):
    model, processor = compose_frozen(few_rows, fusion, mapper=mapper)
    plain, stored = both_ways(model, processor, few_rows, tmp_path)
    assert (plain.logits - stored.logits).abs().max() <= 1e-3
    assert torch.equal(plain.logits.argmax(1), stored.logits.argmax(1))
    assert abs(plain.loss - stored.loss) <= 1e-3


@pytest.mark.parametrize("mapper", ["linear", "identity", "mlp"])
def test_a_text_without_a_token_is_a_missing_one_from_the_cache_too(
    both_ways, compose_frozen, mapper, few_rows, tmp_path, monkeypatch
):
    model, processor = compose_frozen(few_rows, mapper=mapper)
    here = next(
        index
        for index in range(len(few_rows))
        if few_rows[index]["text"] and few_rows[index]["image"]
    )
    real = type(processor.tokenizer).__call__

    def without_tokens(self, texts, **options):
        encoded = real(self, texts, **options)
        for row, text in enumerate(texts):
            if text == "nothing":
                encoded["attention_mask"][row] = 0
        return encoded

    monkeypatch.setattr(type(processor.tokenizer), "__call__", without_tokens)
    changed = few_rows.select([here, *range(3)]).map(
        lambda row, index: row | ({"text": "nothing"} if index == 0 else {}), with_indices=True
    )
    plain, stored = both_ways(model, processor, changed, tmp_path)
    assert (plain.logits - stored.logits).abs().max() <= 1e-3


@pytest.mark.parametrize(
    "fusion", ["concat", "mmtm", "bottleneck", "joint", "film", "gated", "low_rank", "tokens"]
)
def test_cached_is_uncached_on_a_cnn(both_ways, compose_frozen, fusion, few_rows, tmp_path):
    model, processor = compose_frozen(few_rows, fusion, image="cnn")
    plain, stored = both_ways(model, processor, few_rows, tmp_path)
    assert (plain.logits - stored.logits).abs().max() <= 1e-3


def test_training_from_the_cache_ends_where_training_without_ends(
    compose_frozen, few_rows, tmp_path
):
    logits = []
    for name, cache in (("without", None), ("with", tmp_path / "cache")):
        model, processor = compose_frozen(few_rows, "cross_attention")
        arguments = training_arguments(
            tmp_path / name,
            num_train_epochs=2,
            per_device_train_batch_size=6,
            learning_rate=1e-3,
            disable_tqdm=True,
        )
        # A temperature would multiply the differences, up to 20 times on so few rows.
        result = fit(
            model,
            processor,
            few_rows,
            few_rows,
            arguments=arguments,
            cache=cache,
            calibrate=False,
        )
        assert result.epochs == 2 and result.seconds_per_epoch > 0
        logits.append(predict(model, processor, few_rows, cache=cache))
    assert np.abs(logits[0] - logits[1]).max() <= 5e-3
    assert (logits[0].argmax(1) == logits[1].argmax(1)).all()


def test_augmentation_and_cache_exclude_each_other(compose_frozen, few_rows, tmp_path):
    model, processor = compose_frozen(few_rows)
    with pytest.raises(ValueError, match="augment must be None with a cache, got both"):
        fit(
            model,
            processor,
            few_rows,
            arguments=training_arguments(tmp_path),
            augment=lambda image, rng: image,
            cache=tmp_path,
        )


def test_a_model_with_nothing_frozen_has_nothing_to_store(compose_frozen, few_rows, tmp_path):
    model, processor = compose_frozen(few_rows)
    model.image_encoder.unfreeze()
    model.text_encoder.unfreeze()
    with pytest.raises(ValueError, match="must have a frozen tower"):
        cache_features(model, processor, few_rows, tmp_path)
