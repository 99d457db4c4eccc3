"""Families in tiny configurations: the checks pass what is right and catch what is not."""

from typing import Any

import pytest

from mmfusion import testing as kit
from mmfusion.model.adapter_bert import pool_by, text_runner
from mmfusion.testing.families import check_family, check_heads, families, tiny_family_config


def padded(encoder: Any) -> None:
    encoder.adapter.run = text_runner(pool_by("mean"))


@pytest.mark.parametrize(
    ("family", "kind"),
    [("fnet", "text"), ("gpt_neo", "text"), ("vit_mae", "image"), ("mobilenet_v2", "image")],
)
def test_families_keep_the_laws(family: str, kind: str) -> None:
    check_family(family, kind)


@pytest.mark.parametrize("family", ["fnet", "convbert", "mobilebert", "nystromformer"])
def test_padding_that_is_mixed_into_real_tokens_is_caught(family: str) -> None:
    encoder = kit.tiny_text_encoder("bert").__class__(tiny_family_config(family))
    padded(encoder)
    model = kit.tiny_classifier(image=None, text=encoder)
    with pytest.raises(AssertionError, match=r"padding law \(beside a longer text\)"):
        kit.check_padding_law(model, kit.tiny_batch(model))


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("distilbert", "text"),
        ("electra", "text"),
        ("albert", "text"),
        ("deberta-v2", "text"),
        ("roberta", "text"),
        ("llama", "text"),
        ("xlnet", "text"),
        ("deit", "image"),
        ("vit", "image"),
        ("swin", "image"),
        ("beit", "image"),
        ("vit_mae", "image"),
        ("vit_msn", "image"),
        ("resnet", "image"),
    ],
)
def test_checkpoints_with_any_head_give_the_base_model_to_the_bit(family: str, kind: str) -> None:
    read, refused = check_heads(family, kind)
    assert read and not refused


def test_towers_are_judged_by_their_own_families() -> None:
    text, image = families("text"), families("image")
    assert {"bert", "clip_text_model"} <= set(text) and {"vit", "clip_vision_model"} <= set(image)
    assert not {"clip", "blip", "layoutlmv3"} & {*text, *image}
