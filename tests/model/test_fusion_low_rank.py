"""The strategy `low_rank`: what each modality says alone, and its options."""

import pytest
import torch

from mmfusion import testing as kit
from mmfusion.model.fusion_low_rank import LowRank


def test_an_absent_modality_counts_as_zeros() -> None:
    model = kit.tiny_classifier("low_rank", image="custom", text="custom")
    batch = kit.tiny_batch(model)
    with torch.no_grad():
        outputs = model(**batch, output_embeddings=True)
        of_image = model.fusion.image(outputs.image_embedding)
        of_text = model.fusion.text(outputs.text_embedding)
    dim = outputs.embedding.shape[1]
    for row in range(len(of_image)):
        image = of_image[row] if batch["image_present"][row] else model.fusion.image.bias
        text = of_text[row] if batch["text_present"][row] else model.fusion.text.bias
        expected = (image * text).reshape(4, dim).sum(0)
        torch.testing.assert_close(outputs.embedding[row], expected)
    assert not batch["image_present"].all() and not batch["text_present"].all()


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_that_is_none_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=r"rank must be a whole number of at least 1, got"):
        kit.tiny_classifier(LowRank(rank=rank))
