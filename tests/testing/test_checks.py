"""The checks of mmfusion.testing: they pass plug-ins that obey the laws, and catch others."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmfusion import (
    FusionClassifier,
    ImageEncoder,
    Late,
    TextEncoder,
)
from mmfusion import testing as kit
from mmfusion.model.registry import register_backbone

SETUP = """
from torch import nn
from mmfusion import Concat, register_backbone, register_fusion
class Mine(Concat):
    pass
class Pixels(nn.Module):
    dim = 16
    input_spec = {
        "size": [8, 8],
        "channels": 3,
        "mean": [0] * 3,
        "std": [1] * 3,
        "interpolation": "bilinear",
    }
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
    def forward(self, pixel_values):
        return self.patches(pixel_values)
register_fusion("mine", Mine)
register_backbone("pixels", Pixels)
"""


def test_check_classifier_on_plug_ins_and_the_model_stays_as_it_is() -> None:
    space: dict[str, Any] = {}
    exec(SETUP, space)
    encoder = ImageEncoder(space["Pixels"]())
    model = kit.tiny_classifier(space["Mine"](), "linear", encoder, "custom").train()
    before = copy.deepcopy(model.state_dict())
    kit.check_classifier(model, setup=SETUP)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.fixture
def round_trips(monkeypatch: pytest.MonkeyPatch) -> list[FusionClassifier]:
    """Returns the list of models that a check would have sent through a new process.

    The check with a new process has tests of its own.
    """
    models: list[FusionClassifier] = []
    monkeypatch.setattr(
        "mmfusion.testing.checks.check_round_trip_law",
        lambda *cases, setup: models.extend(model for model, _ in cases),
    )
    return models


@pytest.mark.parametrize("kind", ["custom", "bert"])
def test_check_encoder_on_texts(kind: str, round_trips: list[FusionClassifier]) -> None:
    kit.check_encoder(kit.tiny_text_encoder(kind))
    assert len(round_trips) == 1


@pytest.mark.parametrize("kind", ["cnn", "opaque"])
def test_check_encoder_on_images(kind: str, round_trips: list[FusionClassifier]) -> None:
    kit.check_encoder(kit.tiny_image_encoder(kind))
    assert len(round_trips) == 1


def test_check_encoder_catches_a_wrong_width() -> None:
    class Wide(nn.Module):
        dim = 8

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return torch.nn.functional.one_hot(input_ids % 9, 9).float()

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 8)

    register_backbone("wide", Wide)
    with pytest.raises(AssertionError, match="shape law: "):
        kit.check_encoder(TextEncoder(Wide()))


class _FirstToken(nn.Module):
    """A wrong mapper: its pooled vector ignores the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(6, 8)

    def forward(self, text: Any, image: Any) -> Any:
        tokens = self.map(text.tokens)
        return text._replace(tokens=tokens, pooled=tokens.mean(1))


def test_check_mapper_catches_padding_that_is_read() -> None:
    with pytest.raises(AssertionError, match=r"padding law \(mapper\)"):
        kit.check_mapper(_FirstToken(), in_dim=6, out_dim=8)


def test_check_fusion_copies_the_strategy(round_trips: list[FusionClassifier]) -> None:
    strategy = Late("product")
    kit.check_fusion(strategy, image="custom", text="custom")
    assert not list(strategy.parameters())
    assert round_trips[0].fusion.combine == "product"
