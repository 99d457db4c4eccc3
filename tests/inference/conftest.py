"""A processor and a sample for tiny classifiers, shared by the tests of explanations."""

import functools
import types
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from mmfusion import FusionClassifier, FusionProcessor
from mmfusion.data.toy import word_tokenizer
from mmfusion.testing import tiny_classifier

TEXT = "no pleural effusion or mass, in the left lung."


@pytest.fixture(scope="session")
def processor_of() -> Callable[..., FusionProcessor]:
    """Returns a function that makes the processor of a tiny classifier."""

    def make(model: FusionClassifier, **options: object) -> FusionProcessor:
        image, has_text = model.image_encoder, model.text_encoder is not None
        return FusionProcessor(
            word_tokenizer([TEXT]) if has_text else None,
            None if image is None else image.input_spec,
            **options,
        )

    return make


@pytest.fixture(scope="session")
def sample() -> tuple[Image.Image, str]:
    """Returns a picture of 40 x 30 pixels and a text."""
    values = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    return Image.fromarray(values), TEXT


SPOT = 8
"""The side of the bright spot in the pictures of `trained`, which is a cell of their encoders."""


def spotted(generator: np.random.Generator, place: tuple[int, int] | None) -> Image.Image:
    """Returns a dark picture of 32 x 32 pixels with a bright spot in one of 16 cells, or none."""
    values = generator.integers(0, 90, (32, 32), dtype=np.uint8)
    if place is not None:
        down, across = (SPOT * one for one in place)
        values[down : down + SPOT, across : across + SPOT] += 140
    return Image.fromarray(values)


WORDS = ["fever", "the", "patient", "has", "since", "days", "and", "at", "night"]


def written(generator: np.random.Generator, has_fever: bool) -> str:
    """Returns a text of eight words, one of which may be "fever"."""
    words = list(generator.choice(WORDS[1:], 8))
    if has_fever:
        words[generator.integers(8)] = "fever"
    return " ".join(words)


@pytest.fixture(scope="session")
def trained() -> Callable[..., tuple[FusionClassifier, FusionProcessor]]:
    """Returns a function that trains a tiny classifier to see a spot and to read a word.

    Its four classes are the answers to both questions: "spot fever", "spot", "fever" and "none".
    """

    @functools.cache
    def make(fusion: str, image: str) -> tuple[FusionClassifier, FusionProcessor]:
        model = tiny_classifier(fusion, "linear", image, "custom", num_labels=4)
        model.config.id2label = dict(enumerate(["none", "fever", "spot", "spot fever"]))
        processor = FusionProcessor(word_tokenizer(WORDS), model.image_encoder.input_spec)
        draw = np.random.default_rng(0)
        # A Swin drops paths while it trains.
        with torch.random.fork_rng():
            torch.manual_seed(0)
            final = learn(model, processor, draw)
        assert final < 0.3, f"{fusion} with {image} must learn the task, got loss {final}"
        return model.eval(), processor

    return make


def learn(model: FusionClassifier, processor: FusionProcessor, draw: np.random.Generator) -> float:
    """Trains a classifier of `trained`, and returns its last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(150):
        labels = draw.integers(0, 4, 32)
        places = [tuple(draw.integers(0, 4, 2)) if one >= 2 else None for one in labels]
        inputs = processor(
            images=[spotted(draw, place) for place in places],
            text=[written(draw, bool(one % 2)) for one in labels],
        )
        loss = model(**inputs, labels=torch.tensor(labels)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.fixture(scope="session")
def shapes() -> types.SimpleNamespace:
    """Returns the functions that draw and write the samples of `trained`."""
    return types.SimpleNamespace(spotted=spotted, written=written)
