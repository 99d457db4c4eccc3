"""The strategy `gated`: where a modality is absent, and the width of the common space."""

import pytest
import torch

from mmfusion import testing as kit
from mmfusion.model.fusion_gated import Gated


def test_without_a_modality_the_other_one_passes_as_it_is() -> None:
    model = kit.tiny_classifier("gated", image="custom", text="custom")
    batch = kit.tiny_batch(model)
    with torch.no_grad():
        outputs = model(**batch, output_embeddings=True)
    image_alone = torch.tanh(model.fusion.image(outputs.image_embedding))
    text_alone = torch.tanh(model.fusion.text(outputs.text_embedding))
    present = torch.stack([batch["image_present"], batch["text_present"]])
    assert present.any(0).all() and not present.all(1).any()
    for row, (image, text) in enumerate(present.T.tolist()):
        if not text:
            torch.testing.assert_close(outputs.embedding[row], image_alone[row])
        elif not image:
            torch.testing.assert_close(outputs.embedding[row], text_alone[row])
        else:
            low, high = (
                f(image_alone[row], text_alone[row]) for f in (torch.minimum, torch.maximum)
            )
            assert ((low < outputs.embedding[row]) & (outputs.embedding[row] < high)).all()
    assert not hasattr(model, "absent_image")


@pytest.mark.parametrize("dim", [0, -1, True])
def test_a_width_that_is_none_is_refused(dim: int) -> None:
    with pytest.raises(ValueError, match=r"dim must be a whole number of at least 1, got"):
        kit.tiny_classifier(Gated(dim=dim))
