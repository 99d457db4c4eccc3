"""EmbeddingMapper: the results of each kind, and the input that it refuses."""

from typing import Any

import peft
import pytest
import torch

from mmfusion.model.attention import FeedForward
from mmfusion.model.mapper import EmbeddingMapper, make_mapper
from mmfusion.model.masking import masked_mean
from mmfusion.model.types import Encoded


def text(dim: int = 6) -> Encoded:
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    return Encoded(torch.randn(2, 4, dim), mask, torch.randn(2, dim))


def image(dim: int = 8) -> Encoded:
    mask = torch.tensor([[True] * 5, [True] + [False] * 4])
    return Encoded(torch.randn(2, 5, dim), mask, torch.randn(2, dim))


def test_linear_is_one_affine_map_per_token() -> None:
    mapper, given = EmbeddingMapper("linear", 6, 8), text()
    mapped = mapper(given)
    layer = mapper.map[0]
    torch.testing.assert_close(
        mapped.tokens[given.mask], given.tokens[given.mask] @ layer.weight.T + layer.bias
    )
    assert torch.equal(mapped.mask, given.mask)
    torch.testing.assert_close(mapped.pooled, masked_mean(mapped.tokens, given.mask))


@pytest.mark.parametrize(("hidden", "expected"), [(None, 16), (5, 5)])
def test_mlp_is_two_layers_with_gelu_per_token(hidden: int | None, expected: int) -> None:
    mapper, given = EmbeddingMapper("mlp", 6, 8, hidden_dim=hidden), text()
    mapped = mapper(given)
    first, last = mapper.map[0], mapper.map[3]
    assert first.out_features == expected
    torch.testing.assert_close(
        mapped.tokens[given.mask], last(torch.nn.functional.gelu(first(given.tokens[given.mask])))
    )
    torch.testing.assert_close(mapped.pooled, masked_mean(mapped.tokens, given.mask))


def test_learned_queries_attend_to_the_real_tokens() -> None:
    mapper, given = EmbeddingMapper("cross_attention", 6, 8, num_queries=3, num_heads=2), text()
    mapped = mapper(given)
    assert mapped.tokens.shape == (2, 3, 8) and bool(mapped.mask.all())
    expected = mapper.norm(mapper.block(mapper.queries.expand(2, -1, -1), given.mask, given.tokens))
    torch.testing.assert_close(mapped.tokens, expected)
    torch.testing.assert_close(mapped.pooled, expected.mean(1))


def test_the_images_tokens_as_queries() -> None:
    mapper, given, seen = (
        EmbeddingMapper("cross_attention", 6, 8, queries="image", num_heads=2),
        text(),
        image(),
    )
    mapped = mapper(given, seen)
    assert mapped.tokens.shape == seen.tokens.shape and torch.equal(mapped.mask, seen.mask)
    assert mapper.asks_image and not hasattr(mapper, "queries")
    torch.testing.assert_close(mapped.pooled, masked_mean(mapped.tokens, seen.mask))


def test_identity_leaves_the_text_as_it_is() -> None:
    mapper, given = EmbeddingMapper("identity", 6, 6), text()
    assert mapper(given) is given and not list(mapper.parameters())


@pytest.mark.parametrize("kind", ["linear", "mlp", "cross_attention", "identity"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_pooled_is_what_forward_gives_as_pooled(
    kind: str, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapper, given = EmbeddingMapper(kind, 6, 6, num_heads=2, dropout=dropout).double(), text()
    given = Encoded(given.tokens.double(), given.mask, given.pooled.double())
    torch.manual_seed(1)
    expected = mapper(given).pooled
    whole: list[Encoded] = []
    real = EmbeddingMapper.forward
    monkeypatch.setattr(
        EmbeddingMapper,
        "forward",
        lambda self, *inputs: whole.append(inputs[0]) or real(self, *inputs),
    )
    torch.manual_seed(1)
    torch.testing.assert_close(mapper.pooled(given), expected)
    # An affine map gets only the mean. With dropout it gets every token, because each token has a
    # dropout mask of its own.
    assert (
        mapper.maps_the_mean
        == (kind == "linear" and not dropout)
        == (whole[-1].tokens.shape[1] == 1)
    )


def test_a_text_without_a_token_has_no_mean_and_an_adapter_sees_every_token() -> None:
    mapper, given = EmbeddingMapper("linear", 6, 8), text()
    empty = given._replace(mask=torch.tensor([[True] * 4, [False] * 4]))
    torch.testing.assert_close(mapper.pooled(empty), mapper(empty).pooled)
    assert not mapper.pooled(empty)[1].any()
    peft.inject_adapter_in_model(
        peft.LoraConfig(target_modules=["map.0"], r=2, lora_dropout=0.5), mapper
    )
    assert not mapper.maps_the_mean


@pytest.mark.parametrize("kind", ["linear", "mlp", "cross_attention"])
def test_what_stands_in_the_padding_changes_nothing(kind: str) -> None:
    mapper, given = EmbeddingMapper(kind, 6, 8, num_heads=2), text()
    dirty = given._replace(tokens=torch.where(given.mask.unsqueeze(-1), given.tokens, 1e6))
    torch.testing.assert_close(mapper(dirty).pooled, mapper(given).pooled, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "mlp", "cross_attention"])
def test_dropout_acts_in_training_alone(kind: str) -> None:
    mapper, given = EmbeddingMapper(kind, 6, 8, num_heads=2, dropout=0.5), text()
    assert not torch.equal(mapper(given).pooled, mapper(given).pooled)
    mapper.eval()
    assert torch.equal(mapper(given).pooled, mapper(given).pooled)


def test_options_are_what_rebuilds_it() -> None:
    options: dict[str, Any] = {
        "num_queries": 3,
        "queries": "image",
        "num_heads": 2,
        "hidden_dim": 5,
    }
    mapper = EmbeddingMapper("cross_attention", 6, 8, **options)
    assert mapper.options.items() >= {"name": "cross_attention", **options}.items()
    again = make_mapper(mapper.options, 6, 8)
    again.load_state_dict(mapper.state_dict())


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("liner", 6, 8), {}, "got 'liner'. Did you mean 'linear'"),
        (("cross_attention", 6, 8), {"queries": "learnt"}, "got 'learnt'. Did you mean 'learned'"),
        (("linear", 6, 8), {"queries": "image"}, "queries must be 'learned' for kind 'linear'"),
        (("identity", 6, 8), {}, r"out_dim must be in_dim \(6\) for kind 'identity', got 8"),
        (("linear", 6, 8), {"num_queries": 0}, "num_queries must be at least 1, got 0"),
        (("linear", 6, 8), {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1"),
        (("linear", 6, 8), {"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
        (
            ("cross_attention", 6, 8),
            {"num_heads": 3},
            "num_heads must be a divisor of the width 8, got 3",
        ),
    ],
)
def test_refusals(arguments: tuple[str, int, int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmbeddingMapper(*arguments, **options)


def test_an_image_is_needed_where_it_asks() -> None:
    mapper = EmbeddingMapper("cross_attention", 6, 8, queries="image", num_heads=2)
    with pytest.raises(ValueError, match="image must be given where queries='image', got None"):
        mapper(text())


def test_the_same_seed_gives_the_same_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(EmbeddingMapper("cross_attention", 6, 8).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_the_mlps_layers_are_a_feed_forward() -> None:
    assert isinstance(EmbeddingMapper("mlp", 6, 8).map, FeedForward)
