"""A tiny model behind the HTTP application."""

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from mmfusion import FusionClassifier, FusionProcessor
from mmfusion.data.toy import word_tokenizer
from mmfusion.serving.app import make_app
from mmfusion.serving.engines import make_engine
from mmfusion.serving.limits import Limits
from mmfusion.testing import tiny_classifier

Parts = tuple[FusionClassifier, FusionProcessor]


@pytest.fixture(scope="session")
def parts() -> Parts:
    """Returns a model of image and text with its processor, which cuts texts at 12 tokens."""
    model = tiny_classifier("concat", "linear", "timm_vit", "bert").eval()
    assert model.image_encoder is not None
    processor = FusionProcessor(
        word_tokenizer(["clear lungs no effusion"]), model.image_encoder.input_spec, 12
    )
    return model, processor


@pytest.fixture(scope="session")
def ask() -> Iterator[Callable[..., TestClient]]:
    """Returns a function from a model and limits to a client of its server."""
    with ExitStack() as stack:

        def client(parts: Parts, engine: Any = None, **limits: Any) -> TestClient:
            made = partial(make_engine, parts[0], "eager") if engine is None else lambda: engine
            app = make_app(*parts, made, limits=Limits(**limits), threads=2)
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield client


@pytest.fixture(scope="session")
def client(parts: Parts, ask: Callable[..., TestClient]) -> TestClient:
    """Returns a client of the model's server."""
    return ask(parts)


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """Returns a function from a seed to the content of a file of noise."""

    def draw(seed: int = 0, kind: str = "PNG", size: tuple[int, int] = (30, 20)) -> bytes:
        file = io.BytesIO()
        noise = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(noise).save(file, kind)
        return file.getvalue()

    return draw
