"""Towers that were changed after they were built, that tie weights, or are in half precision."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mmfusion import FusionClassifier, TextEncoder
from mmfusion import testing as kit
from mmfusion.model.registry import register_backbone


@pytest.mark.parametrize("through", ["classifier", "encoder", "backbone"])
def test_resized_embeddings_are_saved_with_the_config_that_they_have(
    tmp_path: Path, through: str
) -> None:
    model = kit.tiny_classifier()
    assert model.text_encoder is not None
    parts = {
        "classifier": model,
        "encoder": model.text_encoder,
        "backbone": model.text_encoder.backbone,
    }
    parts[through].resize_token_embeddings(50)
    inputs = kit.tiny_batch(model, missing=False)
    inputs["input_ids"] = torch.where(inputs["attention_mask"].bool(), 49, 0)
    model.save_pretrained(tmp_path)
    again = FusionClassifier.from_pretrained(tmp_path)
    assert again.text_encoder.vocab_size == 50
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_only_a_text_tower_of_transformers_is_resized() -> None:
    with pytest.raises(ValueError, match=r"modality must be one of \('image',\)|\['image'\]"):
        kit.tiny_classifier(text=None).resize_token_embeddings(50)
    with pytest.raises(ValueError, match="got TinyTextBackbone. Build it with the other size"):
        kit.tiny_classifier(text="custom").resize_token_embeddings(50)


class Tied(nn.Module):
    dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 8)
        self.back = nn.Linear(8, 40, bias=False)
        self.back.weight = self.table.weight

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.back(self.table(input_ids))) @ self.table.weight


def test_tied_weights_of_a_backbone_of_ones_own_stay_tied(tmp_path: Path) -> None:
    register_backbone("test-tied", Tied)
    model = kit.tiny_classifier(image=None, text=TextEncoder(Tied()))
    model.save_pretrained(tmp_path)
    again = FusionClassifier.from_pretrained(tmp_path)
    backbone = again.text_encoder.backbone
    assert backbone.back.weight is backbone.table.weight
    inputs = kit.tiny_batch(model)
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_a_model_in_half_precision_takes_float_pixels_and_class_weights() -> None:
    parts = {
        "image_encoder": kit.tiny_image_encoder("cnn"),
        "text_encoder": kit.tiny_text_encoder("bert"),
    }
    model = FusionClassifier(**parts, num_labels=3, class_weights=[1.0, 2.0, 3.0]).eval()
    inputs = kit.tiny_batch(model)
    expected = model(**inputs).loss
    half = model.to(torch.bfloat16)
    assert half(**inputs).logits.dtype == torch.bfloat16
    torch.testing.assert_close(half(**inputs).loss, expected, rtol=0.05, atol=0.05)
    half.train()(**inputs).loss.backward()
