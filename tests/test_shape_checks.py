"""The run-time check of shapes that tests/conftest.py installs for the models."""

import pytest
import torch
from jaxtyping import TypeCheckError

from mmfusion import testing as kit
from mmfusion.model.masking import masked_mean

TOKENS = torch.arange(12.0).reshape(2, 3, 2)
MASK = torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize("again", [False, True])
def test_the_first_calls_in_each_test_are_checked(again: bool) -> None:
    with pytest.raises(TypeCheckError, match="masked_mean"):
        masked_mean(TOKENS, MASK[:, :1])
    for _ in range(4):
        assert masked_mean(TOKENS, MASK).tolist() == [[2.0, 3.0], [8.0, 9.0]]
    # From now on it is torch that broadcasts the mask.
    assert masked_mean(TOKENS, MASK[:, :1]).shape == (2, 2)


def test_methods_are_checked_and_end_alone() -> None:
    image, text = (
        kit.tiny_classifier(image=image, text=text)
        for image, text in [("cnn", None), (None, "bert")]
    )
    encoder, batch = image.image_encoder, kit.tiny_batch(image)
    for _ in range(5):
        encoder(batch["pixel_values"])
    # The check of this method has ended, so the library refuses. Other methods are checked still.
    with pytest.raises(ValueError, match=r"got the shape \(3,"):
        encoder(batch["pixel_values"][0])
    with pytest.raises(TypeCheckError, match="forward"):
        text.text_encoder(torch.ones(2, 3), torch.ones(2, 3))
