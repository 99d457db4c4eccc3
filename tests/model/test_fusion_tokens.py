"""The strategy `tokens`: absent modalities, and its options."""

import pytest
import torch

from mmfusion import testing as kit
from mmfusion.model.fusion_tokens import TokenTransformer


@pytest.mark.parametrize("modality", ["image", "text"])
def test_one_learned_token_stands_in_for_an_absent_modality(modality: str) -> None:
    model = kit.tiny_classifier("tokens", image="timm_vit", text="bert")
    batch = kit.tiny_batch(model, missing=False)
    batch[f"{modality}_present"][1] = False
    seen = []
    model.fusion.blocks[0].register_forward_hook(lambda _, inputs, output: seen.append(inputs[1]))
    with torch.no_grad():
        before = model(**batch, output_embeddings=True).embedding
        stand_in = getattr(model, f"absent_{modality}")
        stand_in += 1 + torch.arange(len(stand_in))
        after = model(**batch, output_embeddings=True).embedding
    assert (before != after).any(1).tolist() == [False, True, False, False]
    places = model.image_encoder(batch["pixel_values"]).tokens.shape[1] + 1
    counts = (seen[0][:, 1:places] if modality == "image" else seen[0][:, places:]).sum(1)
    assert counts[1] == 1 and (counts[[0, 2, 3]] > 1).all()


@pytest.mark.parametrize("option", ["dim", "layers"])
def test_a_size_that_is_none_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=rf"{option} must be a whole number of at least 1, got 0"):
        kit.tiny_classifier(TokenTransformer(**{option: 0}))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="num_heads must be a divisor of the width 10, got 4"):
        kit.tiny_classifier(TokenTransformer(dim=10))
