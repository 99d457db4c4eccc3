"""The shared attention: its errors, its mask, its residual structure."""

import peft
import pytest
import torch

from mmfusion.model.attention import Attention, AttentionBlock, FeedForward


@pytest.mark.parametrize("heads", [0, 3, 16])
def test_heads_must_divide_the_width(heads: int) -> None:
    with pytest.raises(
        ValueError,
        match=rf"num_heads must be a divisor of the width 8, got {heads}. "
        r"Choose one of \[1, 2, 4, 8\]",
    ):
        Attention(8, num_heads=heads)


def test_the_key_projection_has_no_bias() -> None:
    assert Attention(8, num_heads=2).key.bias is None


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e20])
def test_padding_changes_nothing(garbage: float) -> None:
    torch.manual_seed(0)
    attention = Attention(8, 6, num_heads=2)
    queries, context = torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    mask = torch.tensor([[True, True, True, False, False], [True, False, True, True, False]])
    dirty = torch.where(mask.unsqueeze(-1), context, garbage)
    torch.testing.assert_close(
        attention(queries, dirty, mask), attention(queries, context, mask), rtol=0, atol=1e-6
    )
    alone = attention(queries[:1], context[:1, :3], torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(attention(queries, dirty, mask)[:1], alone, rtol=0, atol=1e-6)


def test_one_by_one_it_is_what_it_is_with_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    # With padding a CPU attends sample by sample, and other devices use a mask. Both must give the
    # same values and gradients.
    torch.manual_seed(0)
    attention = Attention(8, 6, num_heads=2).double()
    mask = torch.tensor(
        [[True, True, True, False, False], [True, False, False, True, False], [False] * 4 + [True]]
    )
    found, calls = {}, []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        "mmfusion.model.attention.F.scaled_dot_product_attention",
        lambda q, *args, **kw: calls.append(len(q)) or real(q, *args, **kw),
    )
    for one_by_one in (True, False):
        monkeypatch.setattr(
            "mmfusion.model.attention.attends_one_by_one", lambda device, on=one_by_one: on
        )
        torch.manual_seed(1)
        queries, context = (
            torch.randn(3, n, d, dtype=torch.double, requires_grad=True)
            for n, d in ((4, 8), (5, 6))
        )
        answer = attention(queries, context, mask)
        answer.sin().sum().backward()
        found[one_by_one] = [answer, queries.grad, context.grad]
    assert calls == [1, 1, 1, 3]
    torch.testing.assert_close(found[True], found[False], rtol=0, atol=1e-12)
    assert not found[True][2][~mask].any()


def test_a_single_real_token_is_all_that_is_seen() -> None:
    torch.manual_seed(0)
    attention = Attention(4, num_heads=1)
    context = torch.randn(1, 3, 4)
    seen = attention(torch.randn(1, 2, 4), context, torch.tensor([[False, True, False]]))
    expected = attention.out(attention.value(context[:, 1]))
    torch.testing.assert_close(seen, expected.unsqueeze(1).expand(1, 2, 4))


def test_feed_forward_is_two_layers_with_gelu() -> None:
    torch.manual_seed(0)
    layer, x = FeedForward(3, 5), torch.randn(2, 3)
    first, last = layer[0], layer[3]
    inner = x @ first.weight.T + first.bias
    expected = (inner * 0.5 * (1 + torch.erf(inner / 2**0.5))) @ last.weight.T + last.bias
    torch.testing.assert_close(layer(x), expected)
    assert FeedForward(3)[0].out_features == 12


def test_a_block_whose_layers_end_in_zero_is_the_identity() -> None:
    block = AttentionBlock(8, num_heads=2)
    for last in (block.attention.out, block.feed_forward[3]):
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
    x = torch.randn(2, 3, 8)
    assert torch.equal(block(x, torch.ones(2, 3, dtype=torch.bool)), x)


def test_a_block_with_a_context_norms_it_and_attends_to_it() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(8, 6, num_heads=2, hidden_dim=5)
    x, context, mask = (
        torch.randn(2, 3, 8),
        torch.randn(2, 4, 6),
        torch.tensor([[True] * 4, [True, True, False, False]]),
    )
    assert block.norm_context is not None
    expected = x + block.attention(block.norm(x), block.norm_context(context), mask)
    expected = expected + block.feed_forward(block.norm_out(expected))
    torch.testing.assert_close(block(x, mask, context), expected)
    assert block.feed_forward[0].out_features == 5


def test_dropout_is_off_in_eval_and_on_in_training() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(8, num_heads=2, dropout=0.5)
    x, mask = torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool)
    assert not torch.equal(block(x, mask), block(x, mask))
    block.eval()
    assert torch.equal(block(x, mask), block(x, mask))
    attention = Attention(8, num_heads=2, dropout=0.5)
    assert not torch.equal(attention(x, x, mask), attention.eval()(x, x, mask))


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("training", [False, True])
def test_the_mean_that_is_asked_for_is_that_of_the_tokens(
    dropout: float, training: bool, adapted: bool
) -> None:
    torch.manual_seed(0)
    block = AttentionBlock(8, 6, num_heads=2, dropout=dropout).double()
    if adapted:
        config = peft.LoraConfig(
            target_modules=["3"], r=2, lora_dropout=0.5, init_lora_weights=False
        )
        peft.inject_adapter_in_model(config, block.feed_forward)
    block.double().train(training)
    tokens, context = torch.randn(3, 5, 8).double(), torch.randn(3, 4, 6).double()
    mask, over = torch.rand(3, 4) < 0.5, torch.rand(3, 5) < 0.5
    mask[:, 0] = over[:, 0] = True
    seen: list[int] = []
    block.feed_forward[3].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].ndim))
    torch.manual_seed(1)
    every = block(tokens, mask, context)
    expected = torch.stack([every[row, over[row]].mean(0) for row in range(3)])
    torch.manual_seed(1)
    torch.testing.assert_close(block(tokens, mask, context, over=over), expected)
    # The last layer runs on one vector a sample, unless dropout or an adapter acts on each token.
    assert seen == [3, 3 if adapted or (training and dropout) else 2]


@pytest.mark.parametrize(
    ("dim", "options", "inner", "hidden"),
    [
        (1024, {}, 1024, 4096),
        (1280, {}, 256, 512),
        (1280, {"num_heads": 5}, 255, 512),
        (1280, {"inner_dim": 1280, "hidden_dim": 64}, 1280, 64),
    ],
)
def test_attention_between_wide_embeddings_is_narrow(dim, options, inner, hidden):
    block = AttentionBlock(dim, **options)
    assert block.attention.query.out_features == inner
    assert block.feed_forward[0].out_features == hidden
    assert block.attention.out.out_features == dim
