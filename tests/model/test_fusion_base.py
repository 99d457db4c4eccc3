"""What all strategies share: the head, the default build, and what the towers' shapes allow."""

from typing import Any

import pytest
import torch

from mmfusion.model.fusion_base import Fusion, Head
from mmfusion.model.fusion_concat import Concat
from mmfusion.model.fusion_cross_attention import CrossAttention
from mmfusion.model.fusion_joint import Joint
from mmfusion.model.fusion_late import Late
from mmfusion.model.fusion_mmtm import MMTM
from mmfusion.model.mapper import EmbeddingMapper
from mmfusion.model.tower import Tower
from mmfusion.model.types import Fused


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
def test_the_first_blocks_it_acts_in(strategy: Fusion, first: tuple[int, int], shapes: Any) -> None:
    built = strategy.build(shapes())
    assert (built.first_image_block, built.first_text_block) == first


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
    strategy: Fusion, shape: dict[str, Any], message: str, shapes: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        strategy.build(shapes(**shape))


def test_a_strategy_keeps_its_options() -> None:
    assert (
        Joint(at=3, num_heads=4).options.items()
        >= {"at": 3, "shared_blocks": None, "num_heads": 4}.items()
    )
    assert MMTM(blocks=[(1, 2)]).options == {"pairs": 2, "blocks": [[1, 2]], "ratio": 4}
    options = {"num_heads": 2, "inner_dim": 4, "hidden_dim": 5, "gate": 0.5, "dropout": 0.1}
    assert CrossAttention(**options).options == options


def test_the_head_norms_each_vector_by_itself() -> None:
    torch.manual_seed(0)
    head = Head([3, 2], 4, dropout=0.5).eval()
    a, b = torch.randn(5, 3), torch.randn(5, 2)
    torch.testing.assert_close(head(a, b), head(a * 1000 + 7, b * 0.5 - 2), rtol=1e-3, atol=1e-3)
    assert not torch.equal(head.train()(a, b), head(a, b))


class Plain(Fusion):
    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        raise NotImplementedError


def test_a_strategy_acts_behind_both_towers_by_default(shapes: Any) -> None:
    built = Plain(scale=2).build(shapes(mapped_dim=12, head_dropout=0.25))
    assert (built.first_image_block, built.first_text_block) == (8, 4)
    assert built.options == {"scale": 2}
    assert [norm.normalized_shape for norm in built.head.norms] == [(16,), (12,)]
    assert (built.head.out.in_features, built.head.out.out_features) == (28, 3)
    assert built.head.dropout.p == 0.25
