"""The small configs, classifiers and checks that several tests of the model share."""

import itertools
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from mmfusion import testing as kit
from mmfusion.model.encoder_base import Encoder
from mmfusion.model.fusion_base import TowerShapes
from mmfusion.model.modeling import FusionClassifier
from mmfusion.model.types import Encoded

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


@pytest.fixture(scope="session")
def bert() -> Callable[..., PreTrainedConfig]:
    """Returns a function that makes the config of a BERT with 30 words and 24 places."""
    return partial(kit.tiny_config, "bert", **SMALL, vocab_size=30, max_position_embeddings=24)


@pytest.fixture(scope="session")
def vit() -> Callable[..., PreTrainedConfig]:
    """Returns a function that makes the config of a ViT of 16 x 16 pixels."""
    return partial(kit.tiny_config, "vit", **SMALL, image_size=16, patch_size=8)


@pytest.fixture(scope="session")
def classifier() -> Callable[..., FusionClassifier]:
    """Returns a function that makes a small classifier, always of the same weights."""

    def made(**options: Any) -> FusionClassifier:
        torch.manual_seed(0)
        words = {"vocab_size": 30, "max_position_embeddings": 20}
        parts = {
            "image_encoder": kit.tiny_config("vit", **SMALL, image_size=16, patch_size=8),
            "text_encoder": kit.tiny_config("bert", **SMALL, **words),
        }
        return FusionClassifier(**(parts | options)).eval()

    return made


@pytest.fixture(scope="session")
def batch() -> Callable[..., dict[str, Tensor]]:
    """Returns a function that makes inputs for `classifier`; the second text is the shortest."""

    def made(rows: int = 4, size: int = 16) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        mask = torch.ones(rows, 5, dtype=torch.long)
        mask[1, 3:] = 0
        return {
            "pixel_values": torch.randn(rows, 3, size, size, generator=generator),
            "input_ids": torch.randint(1, 30, (rows, 5), generator=generator),
            "attention_mask": mask,
        }

    return made


@pytest.fixture(scope="session")
def shapes() -> Callable[..., TowerShapes]:
    """Returns a function that makes the shapes of towers of 8 image and 4 text blocks."""

    def made(**options: Any) -> TowerShapes:
        usual: dict[str, Any] = {
            "image_dim": 16,
            "text_dim": 12,
            "mapped_dim": 16,
            "image_block_dims": [16] * 8,
            "text_block_dims": [12] * 4,
            "image_blocks": 8,
            "text_blocks": 4,
            "takes_tokens": True,
            "num_labels": 3,
        }
        return TowerShapes(**(usual | options))

    return made


def _walked(encoder: Encoder, *inputs: Tensor) -> Encoded:
    hidden = encoder.embed(*inputs)  # type: ignore[operator]
    for index in range(encoder.num_blocks):
        hidden = encoder.block(index, hidden)
    return encoder.pool(hidden)


def _assert_same(walk: Encoded, own: Encoded, mask: Tensor) -> None:
    assert torch.equal(walk.mask, own.mask)
    shown = mask.unsqueeze(-1)
    torch.testing.assert_close(
        torch.where(shown, walk.tokens, 0), torch.where(shown, own.tokens, 0), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(walk.pooled, own.pooled, rtol=0, atol=1e-5)


def _check_walk(encoder: Encoder, *inputs: Tensor) -> Encoded:
    encoder.eval()
    with torch.no_grad():
        own = encoder(*inputs)
        _assert_same(_walked(encoder, *inputs), own, own.mask)
        hidden = encoder.embed(*inputs)  # type: ignore[operator]
        for index, width in enumerate(encoder.block_dims):
            assert hidden.values.shape[1 if hidden.values.ndim == 4 else -1] == width
            hidden = encoder.block(index, hidden)
    assert own.tokens.shape == (*own.mask.shape, encoder.dim) and own.pooled.shape == (
        own.mask.shape[0],
        encoder.dim,
    )
    assert bool(own.mask.any(1).all()) and bool(own.pooled.isfinite().all())
    blocks, tail = encoder.adapter.parts()
    assert len(blocks) == encoder.num_blocks
    held = [id(p) for module in [*itertools.chain(*blocks), *tail] for p in module.parameters()]
    assert len(held) == len(set(held)) and set(held) <= {
        id(p) for p in encoder.backbone.parameters()
    }
    return own


@pytest.fixture(scope="session")
def walked() -> Callable[..., Encoded]:
    """Returns a function that encodes inputs block by block."""
    return _walked


@pytest.fixture(scope="session")
def check_walk() -> Callable[..., Encoded]:
    """Returns a function that compares the walk of an encoder with the backbone's own forward pass.

    It returns the answer of the forward pass. The declared widths must be those of the hidden
    states.
    """
    return _check_walk


@pytest.fixture
def log(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[pytest.LogCaptureFixture]:
    """Yields the log of the library's module that the test module names as LOGGER."""
    logger = logging.getLogger(request.module.LOGGER)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
