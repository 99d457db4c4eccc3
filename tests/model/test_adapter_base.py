"""What all adapters share: backbones of one block, features as tokens, and prefix tokens."""

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    DeiTConfig,
)

from mmfusion import testing as kit
from mmfusion.model.adapter_base import OneBlock, features_to_encoded, prefix_tokens
from mmfusion.model.encoder_image import ImageEncoder
from mmfusion.model.packing import Packing
from mmfusion.model.types import Encoded


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features must be \[B, N, 5\], .* got \(2, 3, 4, 4\)"):
        features_to_encoded(torch.zeros(2, 3, 4, 4), 5)


def test_features_of_a_map_are_read_row_by_row() -> None:
    features = torch.arange(8.0).reshape(1, 2, 2, 2)
    encoded = features_to_encoded(features, 2)
    assert encoded.tokens.tolist() == [[[0, 4], [1, 5], [2, 6], [3, 7]]]
    assert encoded.pooled.tolist() == [[1.5, 5.5]] and bool(encoded.mask.all())


class Declared(nn.Module):
    num_prefix_tokens = 3


def test_prefix_tokens_are_read_from_the_backbone() -> None:
    assert prefix_tokens(Declared()) == (3, False)
    assert prefix_tokens(nn.Linear(1, 1)) == (0, False)
    for kind, expected in (
        ("timm_vit", (1, True)),
        ("transformers_vit", (1, True)),
        ("cnn", (0, False)),
    ):
        assert prefix_tokens(kit.tiny_image_encoder(kind).backbone) == expected
    # DeiT has a distillation token behind its class token.
    deit = DeiTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        image_size=16,
        patch_size=8,
    )
    assert prefix_tokens(ImageEncoder(deit).backbone) == (2, True)


def test_a_backbone_of_one_block_hands_mask_and_lengths_on() -> None:
    def run(module: nn.Module, values: Tensor, mask: Tensor) -> Encoded:
        tokens = module(values)
        return Encoded(tokens, mask, tokens[:, 0])

    layer = nn.Linear(2, 3)
    values, mask = torch.randn(2, 4, 2), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    adapter = OneBlock(layer, 3, run)
    entering = adapter.embed(values, mask)
    assert entering.mask is not None and entering.mask.dtype == torch.bool
    leaving = adapter.block(0, entering._replace(lengths=[2, 3]))
    assert leaving.lengths == [2, 3] and torch.equal(leaving.values, layer(values))
    encoded = adapter.pool(leaving)
    assert torch.equal(encoded.mask, mask.bool())
    assert torch.equal(encoded.pooled, layer(values[:, 0]))
    assert (adapter.num_blocks, adapter.block_dims(), adapter.parts()) == (1, [], ([[layer]], []))
    # A module that may return a mask of its own makes the lengths unknown.
    own = OneBlock(layer, 3, run, keeps_mask=False)
    assert own.block(0, entering._replace(lengths=[2, 3])).lengths is None
    packing = Packing(mask.bool())
    with pytest.raises(NotImplementedError, match="OneBlock does not pack inputs"):
        adapter.forward_packed(values, mask, packing)
    with pytest.raises(NotImplementedError, match="OneBlock does not pack hidden states"):
        adapter.walk_packed(0, 1, entering, packing)
