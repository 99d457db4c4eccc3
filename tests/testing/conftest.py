"""A classifier whose strategy is one's own, for tests that break a law on purpose."""

from collections.abc import Callable
from typing import Any, Self

import pytest
import torch
from torch import nn

from mmfusion import (
    EmbeddingMapper,
    Fused,
    Fusion,
    FusionClassifier,
)
from mmfusion import testing as kit
from mmfusion.model.fusion import register_fusion
from mmfusion.model.fusion_base import TowerShapes
from mmfusion.model.tower import Tower

Act = Callable[[Any, Tower, Tower, EmbeddingMapper], Fused]

PlugIn = Callable[..., FusionClassifier]


@pytest.fixture(scope="session")
def plug_in() -> PlugIn:
    """Returns a function (name, forward, spare=False) that makes such a classifier."""
    return _plug_in


def _plug_in(name: str, act: Act, *, spare: bool = False) -> FusionClassifier:
    """Returns a classifier whose strategy is `concat` with another forward pass.

    `spare` adds a parameter that nothing uses.
    """

    class PlugIn(Fusion):
        def build(self, shapes: TowerShapes) -> Self:
            super().build(shapes)
            if spare:
                self.spare = nn.Parameter(torch.zeros(3))
            return self

        def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
            return act(self, image, text, mapper)

    register_fusion(name, PlugIn)
    return kit.tiny_classifier(name, image="custom", text="custom")
