"""TextEncoder: the order of tokens, the limits of texts, padding and pooling."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmfusion import testing as kit
from mmfusion.model.encoder_text import TextEncoder
from mmfusion.model.registry import register_backbone

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
WORDS = {"vocab_size": 30, "max_position_embeddings": 24}


def ids() -> Tensor:
    return torch.randint(4, 30, (2, 7), generator=torch.Generator().manual_seed(0))


class Bag(nn.Module):
    dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.table(input_ids)


register_backbone("test-bag", Bag)


def test_a_text_module_of_ones_own() -> None:
    encoder = TextEncoder(Bag())
    assert (encoder.dim, encoder.max_length, encoder.vocab_size) == (5, None, None)
    mask = torch.tensor([[1] * 7, [0, 0, 1, 1, 0, 0, 0]])
    encoded = encoder(ids(), mask)
    torch.testing.assert_close(encoded.pooled[1], encoder.backbone.table(ids()[1, 2:4]).mean(0))


def test_real_tokens_come_first_and_padding_is_neutral(bert: Any) -> None:
    encoder = TextEncoder(bert(pad_token_id=3))
    given = torch.tensor([[9, 8, 7, 6], [9, 8, 7, 6]])
    mask = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 0]])
    first, real = encoder.real_tokens_first(given, mask)
    assert first.tolist() == [[8, 6], [7, 3]] and real.tolist() == [[True, True], [True, False]]
    whole, real = encoder.real_tokens_first(given)
    assert torch.equal(whole, given) and bool(real.all())


def test_texts_beyond_the_backbones_limits_are_refused(bert: Any) -> None:
    encoder = TextEncoder(bert())
    assert encoder.max_length == 24 and encoder.vocab_size == 30
    with pytest.raises(ValueError, match="input_ids must be at most 24 tokens per text, got 25"):
        encoder(torch.ones(1, 25, dtype=torch.long))
    padded = torch.zeros(1, 30, dtype=torch.long)
    padded[:, :24] = 1
    assert encoder(torch.ones(1, 30, dtype=torch.long), padded).tokens.shape[1] == 24
    with pytest.raises(
        ValueError, match=r"input_ids must be in 0 \.\. 29 \(the vocabulary\), got 30"
    ):
        encoder(torch.tensor([[30]]))
    # A RoBERTa uses two positions before its first token.
    assert (
        TextEncoder(kit.tiny_config("roberta", **SMALL, **WORDS, pad_token_id=1)).max_length == 22
    )


def test_negative_token_ids_are_refused(bert: Any) -> None:
    with pytest.raises(ValueError, match=r"input_ids must be .*, got -1"):
        TextEncoder(bert())(torch.tensor([[1, -1]]))


def test_padding_may_be_reassigned(bert: Any) -> None:
    encoder = TextEncoder(bert(), padding="padded")
    encoder.padding = "auto"
    assert encoder.config.padding == "auto"
    with pytest.raises(ValueError, match="padding must be .*got 'pad'. Did you mean 'padded'"):
        encoder.padding = "pad"
    with pytest.raises(
        ValueError, match="pooling must be 'mean', 'cls' or 'pooler' for 'bert', got 'max'"
    ):
        TextEncoder(bert(), pooling="max")
