"""The rows, the small model and the arguments that the tests of training share."""

import os
import subprocess

import datasets
import pytest
import torch

from mmfusion import (
    FusionClassifier,
    FusionCollator,
    FusionProcessor,
    ImageEncoder,
    TextEncoder,
    load_manifest,
)
from mmfusion.data.toy import draw_shapes, word_tokenizer
from mmfusion.testing import tiny_config
from mmfusion.training.arguments import training_arguments
from mmfusion.training.feature_cache import cache_features

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return load_manifest(draw_shapes(tmp_path_factory.mktemp("shapes"), 40, size=32))


@pytest.fixture(scope="session")
def compose():
    """Returns a function that builds a small classifier, always of the same weights."""

    def composed(rows, **options):
        torch.manual_seed(0)
        tokenizer = word_tokenizer(text for text in rows["text"] if text)
        image = ImageEncoder(tiny_config("vit", **SMALL, image_size=32, patch_size=8))
        text = TextEncoder(tiny_config("bert", **SMALL, vocab_size=len(tokenizer)))
        model = FusionClassifier(image_encoder=image, text_encoder=text, num_labels=4, **options)
        return model, FusionProcessor.from_encoders(image, text, tokenizer=tokenizer)

    return composed


@pytest.fixture(scope="session")
def quiet():
    """Returns a function that makes the arguments of a short training without a progress bar."""

    def arguments(folder, **options):
        defaults = {
            "num_train_epochs": 1,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "disable_tqdm": True,
        }
        return training_arguments(folder, **(defaults | options))

    return arguments


@pytest.fixture(scope="session")
def run():
    """Returns a function that runs a command, which must succeed, and returns its output."""

    def output_of(*command: str, timeout: int = 300) -> str:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return output_of


FROZEN = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


@pytest.fixture(scope="module")
def few_rows(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    """Returns 24 rows, some of which lack their image or their text."""
    return load_manifest(draw_shapes(tmp_path_factory.mktemp("shapes"), 24, missing=0.15, size=32))


@pytest.fixture(scope="session")
def compose_frozen():
    """Returns a function that builds a small classifier with both towers frozen."""
    return _compose_frozen


@pytest.fixture(scope="session")
def both_ways():
    """Returns a function that gives the answers of a model without and with the cache."""
    return _both_ways


def _compose_frozen(
    rows: datasets.Dataset,
    fusion: object = "concat",
    image: str = "vit",
    seed: int = 0,
    **options: object,
):
    torch.manual_seed(seed)
    tokenizer = word_tokenizer(text for text in rows["text"] if text)
    vit = tiny_config("vit", **FROZEN, image_size=32, patch_size=8)
    encoder = ImageEncoder(vit) if image == "vit" else ImageEncoder("resnet10t", pretrained=False)
    text = TextEncoder(tiny_config("bert", **FROZEN, vocab_size=len(tokenizer)))
    model = FusionClassifier(
        image_encoder=encoder.freeze(),
        text_encoder=text.freeze(),
        fusion=fusion,
        num_labels=4,
        **options,
    )
    return model.eval(), FusionProcessor.from_encoders(encoder, text, tokenizer=tokenizer)


@torch.no_grad()
def _both_ways(model, processor, rows, folder):
    plain = FusionCollator(processor)([rows[i] for i in range(len(rows))])
    cached, collate = cache_features(model, processor, rows, folder, batch_size=5)
    stored = collate([cached[i] for i in range(len(rows))])
    assert "pixel_values" not in stored or "image" not in collate.modalities
    assert torch.equal(plain["labels"], stored["labels"])
    return model(**plain), model(**stored)
