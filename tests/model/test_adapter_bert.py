"""The adapters of BERT-like models: a walk gives the backbone's own answer."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertModel,
    ElectraConfig,
    PreTrainedConfig,
)

from mmfusion import testing as kit
from mmfusion.model.adapter_bert import pool_by, position_offset
from mmfusion.model.encoder_text import TextEncoder
from mmfusion.model.masking import masked_mean
from mmfusion.model.packed_attention import PACKED_ATTENTION

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
WORDS = {"vocab_size": 30, "max_position_embeddings": 24, "pad_token_id": 1}

HF_TEXT: dict[str, tuple[PreTrainedConfig, int]] = {
    "bert": (kit.tiny_config("bert", **SMALL, **WORDS), 3),
    "roberta": (kit.tiny_config("roberta", **SMALL, **WORDS), 3),
    "distilbert": (kit.tiny_config("distilbert", **SMALL, **WORDS), 3),
    "mpnet": (kit.tiny_config("mpnet", **SMALL, **WORDS), 3),
    # The window of 4 tokens is shorter than the texts of up to 9, so the sliding layers get another
    # mask than the global ones.
    "modernbert": (
        kit.tiny_config(
            "modernbert",
            **SMALL,
            **WORDS,
            local_attention=4,
            global_attn_every_n_layers=2,
            bos_token_id=2,
            eos_token_id=3,
            cls_token_id=2,
            sep_token_id=3,
        ),
        3,
    ),
    "electra": (ElectraConfig(**SMALL, **WORDS, embedding_size=16), 1),
}


def words() -> tuple[Tensor, Tensor]:
    ids = torch.randint(4, 30, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:] = 0
    mask[2, :4] = 0
    return ids, mask


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", HF_TEXT)
def test_transformers_text_models(kind: str, pooling: str, check_walk: Any) -> None:
    config, blocks = HF_TEXT[kind]
    encoder = TextEncoder(config, pooling=pooling)
    own = check_walk(encoder, *words())
    assert encoder.num_blocks == blocks
    expected = masked_mean(own.tokens, own.mask) if pooling == "mean" else own.tokens[:, 0]
    torch.testing.assert_close(own.pooled, expected)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_the_walk_holds_under_either_attention(kind: str, attention: str, check_walk: Any) -> None:
    encoder = TextEncoder(HF_TEXT[kind][0])
    rebuilt = TextEncoder.from_config(encoder.config, attn_implementation=attention)
    expected = PACKED_ATTENTION if attention == "sdpa" else attention
    assert rebuilt.backbone.config._attn_implementation == expected
    check_walk(rebuilt, *words())


def test_a_backbone_without_sdpa_keeps_its_own_attention() -> None:
    encoder = TextEncoder(HF_TEXT["mpnet"][0])
    for asked in ("sdpa", "eager"):
        assert (
            TextEncoder.from_config(
                encoder.config, attn_implementation=asked
            ).backbone.config._attn_implementation
            == "eager"
        )


def test_pooling_kinds() -> None:
    tokens, mask = torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])
    assert pool_by("mean")(tokens, mask).item() == 2
    assert pool_by("cls")(tokens, mask).item() == 1
    with pytest.raises(
        ValueError, match="pooling must be 'mean' or 'cls', got 'men'. Did you mean 'mean'"
    ):
        pool_by("men")


def test_position_offsets_follow_the_family() -> None:
    assert position_offset(BertModel(kit.tiny_config("bert", **SMALL, **WORDS))) == 0
    assert position_offset(TextEncoder(HF_TEXT["roberta"][0]).backbone) == 2
    assert position_offset(nn.Linear(1, 1)) == 0
