"""The strategy `mmtm`: the squeeze and excitation of one pair of blocks."""

import pytest
import torch

from mmfusion import testing as kit
from mmfusion.model.fusion_mmtm import MMTMUnit


def test_the_units_width_is_never_zero() -> None:
    unit = MMTMUnit(1, 1, ratio=16)
    image, text = unit(torch.zeros(2, 1), torch.zeros(2, 1))
    assert unit.squeeze.out_features == 1 and image.shape == text.shape == (2, 1)
    assert bool(((image > 0) & (image < 2)).all())


def test_an_excitation_of_zero_leaves_the_features_as_they_are() -> None:
    unit = MMTMUnit(3, 2, ratio=1)
    for layer in (unit.excite_image, unit.excite_text):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    image, text = unit(torch.randn(4, 3), torch.randn(4, 2))
    assert torch.equal(image, torch.ones(4, 3)) and torch.equal(text, torch.ones(4, 2))


@pytest.mark.parametrize("ratio", [0, -4])
def test_a_ratio_that_is_none_is_refused(ratio: int) -> None:
    with pytest.raises(ValueError, match="ratio must be a whole number of at least 1, got"):
        kit.tiny_classifier({"name": "mmtm", "ratio": ratio})
