"""The round trip law reports what goes wrong in the new process."""

from collections.abc import Callable
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn

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


def _fused(fusion: Any, image: Tensor, text: Tensor) -> Fused:
    return Fused(torch.cat([image, text], dim=-1), fusion.head(image, text), image, text)


def _plain(fusion: Any, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
    return _fused(fusion, image.encode().pooled, mapper(text.encode()).pooled)


def test_the_round_trip_law_reports_what_the_new_process_says() -> None:
    model = _plug_in("known-here-alone", _plain)
    with pytest.raises(
        AssertionError, match=r"(?s)the new process failed:.*got 'known-here-alone'"
    ):
        kit.check_round_trip_law((model, kit.tiny_batch(model)))
