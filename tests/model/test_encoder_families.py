"""Families of transformers: right alone and in a batch, or refused by name with the reason.

The right answer for a text is that of transformers' own model, which reads the text alone and
without padding.
"""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import BigBirdConfig, LayoutLMConfig, PreTrainedConfig, ViTMAEConfig, ViTModel

from mmfusion import FusionClassifier, ImageEncoder, TextEncoder
from mmfusion import testing as kit
from mmfusion.model.adapter_bert import WALKED_TEXT
from mmfusion.model.encoder_families import REFUSED, VISION, WITH_PADDING, WITHOUT_PADDING
from mmfusion.testing.families import families, tiny_family_config

TABLE = json.loads(
    (Path(__file__).parents[1] / "golden" / "transformers_families.json").read_text()
)
ROWS: dict[str, dict[str, Any]] = TABLE["families"]
LENGTHS = [3, 9, 4, 9, 6]


def texts() -> tuple[Tensor, Tensor]:
    ids = torch.randint(5, 60, (5, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor(LENGTHS)[:, None]
    return ids, mask.long()


@pytest.mark.parametrize("family", ["mobilebert", "convbert", "fnet", "yoso", "gpt2", "xlnet"])
def test_texts_in_a_batch_get_the_answers_of_transformers_for_each_alone(family: str) -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(tiny_family_config(family)).eval()
    kit.redraw_parameters(encoder, 0)
    ids, mask = texts()
    with torch.no_grad():
        together = encoder(ids, mask)
        for row, length in enumerate(LENGTHS):
            alone = encoder.backbone(input_ids=ids[row : row + 1, :length])[0]
            torch.testing.assert_close(together.tokens[row, :length], alone[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(together.pooled[row], alone[0].mean(0), rtol=0, atol=1e-5)


def test_a_graph_that_cannot_look_at_lengths_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = TextEncoder(tiny_family_config("fnet")).eval()
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    with pytest.raises(ValueError, match="FNetModel must run eagerly, because it computes texts"):
        encoder(*texts())


def test_vit_mae_sees_the_whole_picture_as_a_vit_of_its_weights_does() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTMAEConfig(**sizes, intermediate_size=24, image_size=32, patch_size=8)
    encoder = ImageEncoder(config).eval()
    assert config.mask_ratio == 0.75, "the caller's config stays as it is"
    vit = ViTModel(
        transformers.ViTConfig(**sizes, intermediate_size=24, image_size=32, patch_size=8),
        add_pooling_layer=False,
    ).eval()
    vit.load_state_dict(encoder.backbone.state_dict())
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own, expected = encoder(pixels), vit(pixels).last_hidden_state
    torch.testing.assert_close(own.tokens, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(own.pooled, expected[:, 0], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"mask_ratio must be 0\.0 for 'vit_mae', got 0\.5"):
        ImageEncoder(config, mask_ratio=0.5)


def test_a_long_text_gets_the_same_answer_before_and_after_a_short_one() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BigBirdConfig(
        **sizes, intermediate_size=16, vocab_size=60, block_size=4, num_random_blocks=1
    )
    encoder = TextEncoder(config).eval()
    ids = torch.randint(5, 60, (1, 80), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = encoder(ids).pooled
        encoder(ids[:, :5])
        assert torch.equal(encoder(ids).pooled, first)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (TextEncoder, LayoutLMConfig(), "takes input_ids alone, got 'layoutlm', which takes bbox"),
        (ImageEncoder, transformers.VideoMAEConfig(), "got 'videomae', which takes films"),
        (ImageEncoder, transformers.BertConfig(), "takes pixel_values alone, got 'bert'"),
        (TextEncoder, transformers.ViTConfig(), "takes input_ids alone, got 'vit'"),
        (TextEncoder, transformers.Wav2Vec2Config(), "got 'wav2vec2', which takes input_values"),
        (TextEncoder, transformers.ReformerConfig(), "'reformer', which hashes tokens at random"),
    ],
)
def test_other_families_are_refused_by_name_with_the_reason(
    kind: Any, config: PreTrainedConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(config)


def test_a_family_that_nobody_checked_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmfusion.model.encoder_families.WITH_PADDING", frozenset())
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        TextEncoder(tiny_family_config("gpt2"))
    finally:
        logger.removeHandler(caplog.handler)
    assert "'gpt2' has not been checked against the laws of the library" in caplog.text


def test_the_code_says_what_the_table_of_all_families_found() -> None:
    held = {family: row for family, row in ROWS.items() if row["verdict"] == "laws hold"}
    text = {family for family, row in held.items() if row["kind"] == "text"}
    assert {family for family in text if held[family]["padded"]} == WITH_PADDING
    assert {family for family in text if not held[family]["padded"]} == WITHOUT_PADDING
    assert held.keys() - text == VISION and WALKED_TEXT.keys() <= WITH_PADDING
    assert not any("broken" in row for row in ROWS.values())
    for family, row in ROWS.items():
        assert (family in REFUSED) <= (row["verdict"] == f"refused: {REFUSED.get(family)}"), family
        assert row["verdict"] == "laws hold" or row["verdict"].startswith("refused: "), family


def test_the_table_knows_every_family() -> None:
    if transformers.__version__ != TABLE["transformers"]:
        return
    assert sorted(ROWS) == sorted({*families("text"), *families("image")})


def test_a_decoder_keeps_no_cache() -> None:
    encoder = TextEncoder(tiny_family_config("llama"))
    assert encoder.backbone.config.use_cache is False
    model = FusionClassifier(text_encoder=encoder)
    assert model(input_ids=texts()[0]).logits.shape == (5, 2)
