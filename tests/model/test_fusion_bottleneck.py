"""The strategy `bottleneck`: where it acts, and its options."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mmfusion import testing as kit
from mmfusion.model.fusion_base import TowerShapes
from mmfusion.model.fusion_bottleneck import Bottleneck


@pytest.mark.parametrize(
    ("image", "text", "blocks"), [(12, 12, 4), (24, 12, 4), (7, 6, 2), (4, 12, 1), (2, 2, 1)]
)
def test_by_itself_it_acts_in_the_last_third_of_the_shorter_tower(
    image: int, text: int, blocks: int, shapes: Callable[..., TowerShapes]
) -> None:
    fusion = Bottleneck().build(
        shapes(
            image_blocks=image,
            text_blocks=text,
            image_block_dims=[16] * image,
            text_block_dims=[12] * text,
        )
    )
    assert fusion.first_image_block == image - blocks
    assert fusion.first_text_block == text - blocks


def test_the_tokens_are_as_wide_as_the_text_and_are_projected_into_a_wider_image(
    shapes: Callable[..., TowerShapes],
) -> None:
    fusion = Bottleneck(num_tokens=3).build(shapes(text_takes_tokens=True))
    assert fusion.start.shape == (3, 12)
    assert fusion.image_side.enter.weight.shape == (16, 12)
    assert isinstance(fusion.text_side.enter, nn.Identity)


def test_a_tower_whose_blocks_take_no_tokens_has_units_of_its_own() -> None:
    model = kit.tiny_classifier({"name": "bottleneck", "layers": 2}, image="cnn", text="modernbert")
    assert not model.image_encoder.takes_tokens and not model.text_encoder.takes_tokens
    assert len(model.fusion.image_side.units) == len(model.fusion.text_side.units) == 2
    walked = kit.tiny_classifier("bottleneck", image="timm_vit", text="bert")
    assert not [name for name, _ in walked.fusion.named_parameters() if "units" in name]


def test_the_towers_speak_through_the_tokens_alone() -> None:
    model = kit.tiny_classifier({"name": "bottleneck", "layers": 2}, image="timm_vit", text="bert")
    batch = kit.tiny_batch(model, missing=False)
    other = {**batch, "input_ids": batch["input_ids"].flip(0)}
    with torch.no_grad():
        seen = [model(**b, output_embeddings=True).image_embedding for b in (batch, other)]
        assert not torch.equal(*seen)
        # Without what the text changes in the tokens, the image knows nothing of the text.
        model.fusion.text_side.forward = lambda tower, tokens, layer: torch.zeros_like(tokens)
        alone = [model(**b, output_embeddings=True).image_embedding for b in (batch, other)]
    assert torch.equal(*alone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 5}, r"layers must be in 1 .. 4 \(the shorter tower's blocks\), got 5"),
        ({"layers": 0}, "layers must be a whole number of at least 1, got 0"),
        ({"num_tokens": 0}, "num_tokens must be a whole number of at least 1, got 0"),
        ({"dim": -1}, "dim must be a whole number of at least 1, got -1"),
        ({"num_heads": 0}, "num_heads must be a whole number of at least 1, got 0"),
        ({"gate": 0.0}, r"gate must be other than 0, got 0\.0"),
        ({"gate": float("nan")}, "gate must be a finite number, got nan"),
    ],
)
def test_an_option_out_of_range_is_refused(
    options: dict[str, float], message: str, shapes: Callable[..., TowerShapes]
) -> None:
    with pytest.raises(ValueError, match=message):
        Bottleneck(**options).build(shapes())  # type: ignore[arg-type]
