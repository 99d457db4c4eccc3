"""The table of strategies: names, options, and strategies of the user's own."""

from typing import Any, Self

import pytest

from mmfusion.model.fusion import FUSIONS, make_fusion, name_of, register_fusion
from mmfusion.model.fusion_base import Fusion, Head, TowerShapes
from mmfusion.model.fusion_late import Late
from mmfusion.model.mapper import EmbeddingMapper
from mmfusion.model.tower import Tower
from mmfusion.model.types import Fused


@pytest.mark.parametrize("name", FUSIONS)
def test_every_name_makes_its_strategy_and_knows_it_again(name: str, shapes: Any) -> None:
    strategy = make_fusion(name)
    assert type(strategy) is FUSIONS[name] and name_of(strategy) == name
    built = strategy.build(shapes())
    assert (
        built is strategy and 0 <= built.first_image_block <= 8 and 0 <= built.first_text_block <= 4
    )
    again = make_fusion(name, **strategy.options).build(shapes())
    again.load_state_dict(strategy.state_dict())


def test_unknown_names_and_options() -> None:
    with pytest.raises(
        ValueError, match="fusion must be a known strategy, got 'jiont'. Did you mean 'joint'"
    ):
        make_fusion("jiont")
    with pytest.raises(
        ValueError, match=r"options of fusion 'joint' must be what Joint takes, got \{'att': 3\}"
    ):
        make_fusion("joint", att=3)
    with pytest.raises(
        ValueError, match="combine must be one of .* got 'products'. Did you mean 'product'"
    ):
        Late("products")


class Mine(Fusion):
    def __init__(self, scale: float = 1.0):
        super().__init__(scale=scale)

    def build(self, shapes: TowerShapes) -> Self:
        super().build(shapes)
        self.head = Head([shapes.image_dim], shapes.num_labels)
        return self

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        seen = image.encode().pooled
        return Fused(seen, self.head(seen), seen, mapper(text.encode()).pooled)


class Unregistered(Mine):
    pass


def test_a_strategy_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmfusion.model.fusion.FUSIONS", dict(FUSIONS))
    register_fusion("mine", Mine)
    register_fusion("mine", Mine)
    assert name_of(make_fusion("mine", scale=2.0)) == "mine"
    with pytest.raises(ValueError, match="name must be new, got 'mine', which Mine has"):
        register_fusion("mine", Unregistered)
    with pytest.raises(
        ValueError,
        match=r"registered class, got Unregistered\. "
        r"Call register_fusion\('a-name', Unregistered\)",
    ):
        name_of(Unregistered())


@pytest.mark.parametrize("strategy", [Mine(), int, "concat"])
def test_only_strategies_are_registered(strategy: Any) -> None:
    # The run-time check of the annotations may raise its own error first.
    with pytest.raises(
        TypeError, match=r"strategy must be a subclass of Fusion|parameter 'strategy'"
    ):
        register_fusion("odd", strategy)
