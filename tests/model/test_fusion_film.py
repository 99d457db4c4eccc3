"""The strategy `film`: where it acts, and that it starts as the image tower."""

import pytest
import torch

from mmfusion import FusionClassifier
from mmfusion import testing as kit
from mmfusion.model.fusion_film import FiLM


@pytest.mark.parametrize("image", kit.IMAGE_KINDS)
def test_by_itself_it_acts_before_the_last_block_or_after_an_unknown_tower(image: str) -> None:
    model = kit.tiny_classifier("film", image=image).freeze("text")
    depth = model.image_encoder.num_blocks
    walks = bool(model.image_encoder.block_dims)
    assert model.fusion.first_image_block == (depth - 1 if walks else depth)
    assert model.cache_point("text").pooled


@pytest.mark.parametrize("with_image", [False, True])
@pytest.mark.parametrize("at", [0, 2, 4])
def test_it_starts_as_the_image_tower_and_without_a_text_it_stays_so(
    at: int, with_image: bool
) -> None:
    model = kit.tiny_classifier({"name": "film", "at": at, "with_image": with_image})
    batch = kit.tiny_batch(model)
    with torch.no_grad():
        moved = model(**batch, output_embeddings=True).image_embedding
        torch.nn.init.zeros_(model.fusion.change.weight)
        torch.nn.init.zeros_(model.fusion.change.bias)
        still = model(**batch, output_embeddings=True).image_embedding
        alone = torch.nn.functional.layer_norm(
            model.image_encoder(batch["pixel_values"]).pooled, still.shape[1:]
        )
    for row, (image, text) in enumerate(
        zip(batch["image_present"].tolist(), batch["text_present"].tolist(), strict=True)
    ):
        if image:
            torch.testing.assert_close(still[row], alone[row])
            assert torch.equal(moved[row], still[row]) == (not text)
    fresh = FusionClassifier(model.config)
    assert not fresh.fusion.change.weight.any() and not fresh.fusion.change.bias.any()


@pytest.mark.parametrize(
    ("image", "at", "allowed"),
    [("timm_vit", 5, "0 .. 4"), ("timm_vit", -1, "0 .. 4"), ("opaque", 0, "1 .. 1")],
)
def test_a_block_that_is_not_there_is_refused(image: str, at: int, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"at must be in {allowed} .*got {at}"):
        kit.tiny_classifier(FiLM(at=at), image=image)


def test_a_width_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden_dim must be a whole number of at least 1, got 0"):
        kit.tiny_classifier(FiLM(hidden_dim=0))
