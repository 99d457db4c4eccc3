"""The shared attention, compared with torch's own layers of the same weights.

These layers are MultiheadAttention and TransformerEncoderLayer.
"""

import pytest
import torch
from torch import nn

from mmfusion.model.attention import Attention, AttentionBlock


def copied(ours: Attention, dim: int, context_dim: int, heads: int) -> nn.MultiheadAttention:
    """Returns torch's attention with the weights of ours.

    Ours has no key bias, so that bias is zero.
    """
    theirs = nn.MultiheadAttention(dim, heads, kdim=context_dim, vdim=context_dim, batch_first=True)
    weights = [ours.query.weight, ours.key.weight, ours.value.weight]
    with torch.no_grad():
        if theirs.in_proj_weight is not None:
            theirs.in_proj_weight.copy_(torch.cat(weights))
        else:
            projections = (theirs.q_proj_weight, theirs.k_proj_weight, theirs.v_proj_weight)
            for projection, weight in zip(projections, weights, strict=True):
                projection.copy_(weight)
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.zeros(dim), ours.value.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    return theirs


@pytest.mark.parametrize(
    ("dim", "context_dim", "heads"), [(8, 8, 2), (12, 5, 3), (6, 9, 1), (16, 16, 16)]
)
def test_equals_multihead_attention_under_a_mask(dim: int, context_dim: int, heads: int) -> None:
    torch.manual_seed(dim)
    ours = Attention(dim, context_dim, num_heads=heads)
    theirs = copied(ours, dim, context_dim, heads)
    queries, context = torch.randn(3, 4, dim), torch.randn(3, 7, context_dim)
    mask = torch.tensor([[True] * 7, [True] * 3 + [False] * 4, [False, True] * 3 + [False]])
    expected, _ = theirs(queries, context, context, key_padding_mask=~mask, need_weights=False)
    torch.testing.assert_close(ours(queries, context, mask), expected, rtol=0, atol=1e-6)


def test_gradients_equal_those_of_multihead_attention() -> None:
    torch.manual_seed(0)
    ours = Attention(8, num_heads=2)
    theirs = copied(ours, 8, 8, 2)
    x, mask = torch.randn(2, 5, 8), torch.tensor([[True] * 5, [True, True, False, True, False]])
    ours(x, x, mask).square().sum().backward()
    theirs(x, x, x, key_padding_mask=~mask, need_weights=False)[0].square().sum().backward()
    gradients = [layer.weight.grad for layer in (ours.query, ours.key, ours.value)]
    assert theirs.in_proj_weight.grad is not None
    torch.testing.assert_close(
        torch.cat([g for g in gradients if g is not None]), theirs.in_proj_weight.grad
    )


def test_a_block_of_self_attention_equals_a_pre_norm_encoder_layer() -> None:
    torch.manual_seed(0)
    ours = AttentionBlock(8, num_heads=4, hidden_dim=20).eval()
    theirs = nn.TransformerEncoderLayer(
        8, 4, 20, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    for norm in (ours.norm, ours.norm_out):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    theirs.self_attn.load_state_dict(copied(ours.attention, 8, 8, 4).state_dict())
    for theirs_layer, our_layer in (
        (theirs.norm1, ours.norm),
        (theirs.norm2, ours.norm_out),
        (theirs.linear1, ours.feed_forward[0]),
        (theirs.linear2, ours.feed_forward[3]),
    ):
        theirs_layer.load_state_dict(our_layer.state_dict())
    x, mask = torch.randn(3, 6, 8), torch.rand(3, 6) < 0.6
    mask[:, 0] = True
    # Gradients stay on: without them torch's fused inference path gives zeros at masked queries.
    expected = theirs(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, mask), expected, rtol=0, atol=1e-5)
