"""The strategies: their options, the input that they refuse, and the table of names."""

from typing import Any, Self

import pytest
import torch

from mmfusion import testing as kit
from mmfusion.model import fusion_cross_attention, fusion_joint
from mmfusion.model.fusion import FUSIONS, make_fusion, name_of, register_fusion
from mmfusion.model.fusion_base import Fusion, Head, TowerShapes
from mmfusion.model.fusion_concat import Concat
from mmfusion.model.fusion_cross_attention import CrossAttention
from mmfusion.model.fusion_joint import Joint
from mmfusion.model.fusion_late import Late
from mmfusion.model.fusion_mmtm import MMTM, MMTMUnit
from mmfusion.model.mapper import EmbeddingMapper
from mmfusion.model.packing import ungrouped
from mmfusion.model.tower import Tower
from mmfusion.model.types import Fused


def shapes(**options: Any) -> TowerShapes:
    usual: dict[str, Any] = {
        "image_dim": 16,
        "mapped_dim": 16,
        "image_block_dims": [16] * 8,
        "text_block_dims": [12] * 4,
        "image_blocks": 8,
        "text_blocks": 4,
        "takes_tokens": True,
        "num_labels": 3,
    }
    return TowerShapes(**(usual | options))


@pytest.mark.parametrize("name", FUSIONS)
def test_every_name_makes_its_strategy_and_knows_it_again(name: str) -> None:
    strategy = make_fusion(name)
    assert type(strategy) is FUSIONS[name] and name_of(strategy) == name
    built = strategy.build(shapes())
    assert (
        built is strategy and 0 <= built.first_image_block <= 8 and 0 <= built.first_text_block <= 4
    )
    again = make_fusion(name, **strategy.options).build(shapes())
    again.load_state_dict(strategy.state_dict())


@pytest.mark.parametrize(
    ("strategy", "first"),
    [
        (Concat(), (8, 4)),
        (CrossAttention(), (8, 4)),
        (Late(), (8, 4)),
        (Joint(), (6, 4)),
        (Joint(at=0), (0, 4)),
        (Joint(at=8), (8, 4)),
        (MMTM(), (6, 2)),
        (MMTM(pairs=4), (4, 0)),
        (MMTM(blocks=[(1, 3)]), (1, 3)),
    ],
)
def test_the_first_blocks_it_acts_in(strategy: Fusion, first: tuple[int, int]) -> None:
    built = strategy.build(shapes())
    assert (built.first_image_block, built.first_text_block) == first


@pytest.mark.parametrize(
    ("options", "shape", "at", "shared"),
    [
        ({}, {}, 6, 0),
        ({}, {"image_blocks": 3}, 2, 0),
        ({}, {"takes_tokens": False}, 8, 1),
        ({"at": 8}, {}, 8, 1),
        ({"at": 2, "shared_blocks": 2}, {}, 2, 2),
        ({"at": 8, "shared_blocks": 3}, {"takes_tokens": False}, 8, 3),
    ],
)
def test_where_joint_joins(
    options: dict[str, Any], shape: dict[str, Any], at: int, shared: int
) -> None:
    built = Joint(**options).build(shapes(**shape))
    assert (built.at, len(built.blocks)) == (at, shared)


@pytest.mark.parametrize(
    ("strategy", "shape", "message"),
    [
        (Joint(at=9), {}, r"at must be in 0 \.\. 8 .* got 9"),
        (Joint(at=-1), {}, r"at must be in 0 \.\. 8 .* got -1"),
        (
            Joint(at=3),
            {"takes_tokens": False},
            "at must be 8 for an image tower that takes no foreign tokens, got 3",
        ),
        (Joint(at=8, shared_blocks=0), {}, "shared_blocks must be at least 1 with at=8, got 0"),
        (Joint(at=3, shared_blocks=-1), {}, "shared_blocks must be at least 0 with at=3, got -1"),
        (
            Joint(),
            {"mapped_dim": 12},
            r"mapper must be one that maps into the image's width \(16\) for 'joint', got width 12",
        ),
        (Joint(at=8, num_heads=3), {}, "num_heads must be a divisor of the width 16, got 3"),
        (CrossAttention(gate=0.0), {}, "gate must be other than 0, got 0"),
        (MMTM(pairs=0), {}, r"pairs must be in 1 \.\. 4 .* got 0"),
        (MMTM(pairs=5), {}, r"pairs must be in 1 \.\. 4 .* got 5"),
        (MMTM(blocks=[]), {}, r"blocks must be rising pairs .* got \[\]"),
        (MMTM(blocks=[[0, 0], [0, 1]]), {}, "blocks must be rising pairs"),
        (MMTM(blocks=[[2, 2], [1, 3]]), {}, "blocks must be rising pairs"),
        (MMTM(blocks=[[8, 0]]), {}, "an image block below 8 and a text block below 4"),
        (MMTM(blocks=[[0, 4]]), {}, "an image block below 8 and a text block below 4"),
        (MMTM(blocks=[[1]]), {}, "blocks must be rising pairs"),
        (
            MMTM(),
            {"image_block_dims": []},
            "image_encoder must be a backbone that can be walked .* for 'mmtm'",
        ),
        (
            MMTM(),
            {"text_block_dims": []},
            "text_encoder must be a backbone that can be walked .* for 'mmtm'",
        ),
    ],
)
def test_what_does_not_fit_the_towers_is_refused(
    strategy: Fusion, shape: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        strategy.build(shapes(**shape))


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


def test_a_strategy_keeps_its_options() -> None:
    assert (
        Joint(at=3, num_heads=4).options.items()
        >= {"at": 3, "shared_blocks": None, "num_heads": 4}.items()
    )
    assert MMTM(blocks=[(1, 2)]).options == {"pairs": 2, "blocks": [[1, 2]], "ratio": 4}
    options = {"num_heads": 2, "inner_dim": 4, "hidden_dim": 5, "gate": 0.5, "dropout": 0.1}
    assert CrossAttention(**options).options == options


class Mine(Fusion):
    def __init__(self, scale: float = 1.0):
        super().__init__(scale=scale)

    def build(self, shapes: TowerShapes) -> Self:
        self._act_after_the_towers(shapes)
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


@pytest.mark.parametrize("mapper", ["linear", "mlp"])
@pytest.mark.parametrize(
    ("fusion", "image", "one_by_one", "groups"),
    [
        ("joint", "timm_vit", True, 3),
        ({"name": "joint", "at": 0, "shared_blocks": 1}, "transformers_vit", True, 3),
        ("joint", "transformers_vit", True, 1),
        ("joint", "cnn", True, 3),
        ("cross_attention", "transformers_vit", True, 1),
        ("cross_attention", "transformers_vit", False, 3),
        ("cross_attention", "cnn", True, 1),
        ("cross_attention", "cnn", False, 3),
    ],
)
def test_a_large_batch_of_unlike_texts_is_each_sample_alone(
    fusion: Any,
    image: str,
    one_by_one: bool,
    groups: int,
    mapper: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A batch of eight or more samples passes the strategy in groups of similar length, packed, or
    # one by one. A sample alone does not, and must still get the same answer.
    # False takes the way of other devices than a CPU.
    monkeypatch.setattr(
        "mmfusion.model.fusion_cross_attention.attends_one_by_one", lambda device: one_by_one
    )
    monkeypatch.setattr("mmfusion.model.attention.attends_one_by_one", lambda device: one_by_one)
    model = kit.tiny_classifier(fusion, mapper, image).double()
    inputs = kit.tiny_batch(model, 14)
    inputs["image_present"][[0, 5]] = False
    inputs["text_present"][[1, 6]] = False
    inputs["attention_mask"][8:, 1:] = 0
    inputs["pixel_values"] = inputs["pixel_values"].double()
    del inputs["labels"]
    together: list[int] = []
    for module in (fusion_cross_attention, fusion_joint):
        monkeypatch.setattr(
            module,
            "ungrouped",
            lambda groups, values: together.append(len(groups)) or ungrouped(groups, values),
        )
    found = model(**inputs).logits
    found.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    alone = torch.cat(
        [
            model(**{name: value[row : row + 1] for name, value in inputs.items()}).logits
            for row in range(14)
        ]
    )
    alone.square().sum().backward()
    assert together == [groups] + [1] * 14
    torch.testing.assert_close(found, alone, atol=1e-10, rtol=0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("training", [False, True])
def test_a_joint_sequence_passes_a_transformers_tower_without_its_padding(training: bool) -> None:
    model = kit.tiny_classifier("joint", "linear", "transformers_vit").train(training)
    inputs = kit.tiny_batch(model, 6, missing=False)
    inputs["attention_mask"][3:, 1:] = 0
    seen: list[tuple[int, ...]] = []
    for block in model.image_encoder.backbone.layers[model.fusion.at :]:
        block.mlp.register_forward_hook(lambda _, given, __: seen.append(tuple(given[0].shape[:2])))
    model(**inputs).loss.backward()
    places = model.image_encoder.embed(inputs["pixel_values"]).values.shape[1]
    real = 6 * places + int(inputs["attention_mask"].sum())
    assert seen and set(seen) == {(1, real)}


def test_the_head_norms_each_vector_by_itself() -> None:
    torch.manual_seed(0)
    head = Head([3, 2], 4, dropout=0.5).eval()
    a, b = torch.randn(5, 3), torch.randn(5, 2)
    torch.testing.assert_close(head(a, b), head(a * 1000 + 7, b * 0.5 - 2), rtol=1e-3, atol=1e-3)
    assert not torch.equal(head.train()(a, b), head(a, b))


def test_the_units_width_is_never_zero() -> None:
    unit = MMTMUnit(1, 1, ratio=16)
    image, text = unit(torch.zeros(2, 1), torch.zeros(2, 1))
    assert unit.squeeze.out_features == 1 and image.shape == text.shape == (2, 1)
    assert bool(((image > 0) & (image < 2)).all())
