"""Heat by hidden parts of a picture, against sums over masks and at known places."""

import numpy as np
import pytest
import torch

from mmfusion.inference.explain_gradients import Scorer, image_heat
from mmfusion.inference.explain_occlusion import _blurred, _masks, occlusion_heat
from mmfusion.testing import tiny_batch, tiny_classifier


def one_picture(seed=0, side=28, views=None):
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 3, side, side) if views is None else (1, views, 3, side, side)
    flags = torch.ones((1,) if views is None else (1, views), dtype=torch.bool)
    return {"pixel_values": torch.randn(shape, generator=generator), "image_present": flags}


def bright_at(*boxes, views=None, side=28):
    """Returns a dark picture with bright boxes, and how bright each box is, as a function."""
    inputs = one_picture(views=views, side=side)
    inputs["pixel_values"].zero_()
    for *view, top, left in boxes:
        inputs["pixel_values"][(0, *view)][:, top : top + 4, left : left + 4] = 1.0

    def brightness(rows):
        found = [
            rows["pixel_values"][(slice(None), *view)][:, :, top : top + 4, left : left + 4].mean(
                (1, 2, 3)
            )
            for *view, top, left in boxes
        ]
        return torch.stack(found)

    return inputs, brightness


def test_it_is_the_mean_difference_of_shown_and_hidden():
    # The sum of the docstring, mask by mask, with a score that is not linear.
    inputs = one_picture()
    picture = inputs["pixel_values"][0]
    weights = torch.randn(3, 28, 28, generator=torch.Generator().manual_seed(1))

    def score(rows):
        return (rows["pixel_values"] * weights).sum((1, 2, 3)).tanh()

    (heat,) = occlusion_heat(score, inputs, masks=48, seed=3)
    generator, total, left = torch.Generator().manual_seed(3), np.zeros((28, 28)), 24
    blurred = _blurred(picture[None])[0]
    while left:
        count = min(8, left)
        for (mask,) in _masks(count, (1, 28, 28), generator):
            pair = [m * picture + (1 - m) * blurred for m in (mask, 1 - mask)]
            shown, hidden = (float(score({"pixel_values": one[None]})) for one in pair)
            total += (shown - hidden) * (2 * mask.numpy() - 1) / 24
        left -= count
    means = total.reshape(14, 2, 14, 2).mean((1, 3)).clip(min=0)
    np.testing.assert_allclose(heat.numpy(), means, atol=1e-5)


def test_the_blur_is_the_one_of_scipy():
    from scipy.ndimage import gaussian_filter

    picture = one_picture(side=40)["pixel_values"]
    theirs = gaussian_filter(
        picture.numpy(), sigma=(0, 0, 4.0, 4.0), mode="constant", truncate=20
    ) / gaussian_filter(
        np.ones((1, 1, 40, 40)), sigma=(0, 0, 4.0, 4.0), mode="constant", truncate=20
    )
    np.testing.assert_allclose(_blurred(picture).numpy(), theirs, atol=1e-5)


def test_masks_show_half_of_each_picture_with_soft_edges():
    masks = _masks(400, (2, 30, 45), torch.Generator().manual_seed(0))
    assert masks.shape == (400, 2, 30, 45)
    assert masks.min() >= 0 and masks.max() <= 1 + 1e-6
    # 400 draws: the standard error of a mean is below 0.025.
    assert (masks.mean(0) - 0.5).abs().max() < 0.1
    assert np.corrcoef(masks[:, 0, 10, 10], masks[:, 1, 10, 10])[0, 1] < 0.2


def test_one_place_and_two_places_that_each_suffice_are_found():
    inputs, brightness = bright_at((4, 4), (20, 12))
    (heat,) = occlusion_heat(lambda rows: brightness(rows)[0], inputs)
    assert divmod(int(heat.argmax()), 14) in [(2, 2), (2, 3), (3, 2), (3, 3)]
    (heat,) = occlusion_heat(lambda rows: brightness(rows).amax(0), inputs)
    # Each alone is enough, so hiding one of them and nothing else would change nothing.
    for down, across in ((2, 2), (10, 6)):
        assert heat[down : down + 2, across : across + 2].mean() > 4 * heat.mean()
    (heat,) = occlusion_heat(lambda rows: -brightness(rows)[0], inputs)
    assert heat[2:4, 2:4].max() == 0


def test_what_has_no_influence_has_no_heat():
    (heat,) = occlusion_heat(
        lambda rows: torch.full((len(rows["pixel_values"]),), 3.0), one_picture()
    )
    assert not heat.any()


def test_each_view_has_its_own_map_and_an_absent_one_has_none():
    inputs, brightness = bright_at((0, 4, 4), (2, 20, 12), views=3)
    inputs["image_present"][0, 1] = False
    inputs["pixel_values"][0, 1] = float("nan")
    first, second = occlusion_heat(lambda rows: brightness(rows).sum(0), inputs)
    assert first[2:4, 2:4].mean() > 4 * first.mean()
    assert second[10:12, 6:8].mean() > 4 * second.mean()


@pytest.mark.parametrize("fusion", ["concat", "joint", "cross_attention", "mmtm", "late"])
def test_the_random_state_and_the_order_of_calls_do_not_matter(fusion):
    model = tiny_classifier(fusion, "linear", "cnn", "bert")
    batch = tiny_batch(model, 1, missing=False)
    batch.pop("labels")
    before = torch.get_rng_state()
    (heat,), used = image_heat(Scorer(model, 0), batch, "occlusion")
    assert used == "occlusion" and heat.max() > 0
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    (again,), _ = image_heat(Scorer(model, 0), batch, "occlusion")
    assert torch.equal(heat, again)
