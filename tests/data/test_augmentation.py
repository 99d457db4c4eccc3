"""The recipes of augmentation: torchvision's transforms, decided by the generator alone."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from mmfusion import Augmentation
from mmfusion.data.augmentation import AUGMENTATIONS

RECIPES = list(AUGMENTATIONS)


def picture(mode: str = "L") -> Image.Image:
    """A picture of 48 x 32 whose left quarter is bright."""
    pixels = np.full((32, 48), 40, dtype=np.uint8)
    pixels[:, :12] = 200
    return Image.fromarray(pixels).convert(mode)


def left_is_bright(image: Image.Image) -> bool:
    pixels = np.asarray(image.convert("L"), dtype=float)
    return bool(pixels[:, :24].mean() > pixels[:, 24:].mean())


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("name", RECIPES)
def test_the_generator_alone_decides(name: str, mode: str) -> None:
    augment = pickle.loads(pickle.dumps(Augmentation(name)))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = (augment(picture(mode), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert (one.size, one.mode) == ((48, 32), mode)
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    # What torchvision makes of that seed.
    torch.manual_seed(int(np.random.default_rng(1).integers(2**63)))
    expected = v2.Compose(AUGMENTATIONS[name]())(picture(mode))
    assert np.array_equal(one, expected)


def test_an_x_ray_is_never_mirrored() -> None:
    draws = [np.random.default_rng(seed) for seed in range(300)]
    assert all(left_is_bright(Augmentation("xray")(picture(), rng)) for rng in draws)
    photo = [left_is_bright(Augmentation("photo")(picture(), rng)) for rng in draws]
    assert 0.4 < np.mean(photo) < 0.6


def test_an_x_ray_is_never_upside_down() -> None:
    corner = np.zeros((40, 40), dtype=np.uint8)
    corner[:10, :10] = 250
    for seed in range(200):
        augmented = Augmentation("xray")(Image.fromarray(corner), np.random.default_rng(seed))
        pixels = np.asarray(augmented, dtype=float)
        assert pixels[:20, :20].mean() > 5 * pixels[20:].mean()
        assert pixels[:20, :20].mean() > 5 * pixels[:, 20:].mean()


@pytest.mark.parametrize(("name", "degrees"), [("xray", 10), ("photo", 15)])
def test_pictures_are_turned_by_as_much_as_is_said(name: str, degrees: float) -> None:
    bar = np.zeros((121, 121), dtype=np.uint8)
    bar[58:63, 30:91] = 250
    angles = []
    for seed in range(300):
        augmented = Augmentation(name)(Image.fromarray(bar), np.random.default_rng(seed))
        # The direction of the bar, from its second moments.
        y, x = np.nonzero(np.asarray(augmented) > 60)
        (xx, xy), (_, yy) = np.cov(x, y)
        angles.append(np.degrees(np.arctan2(2 * xy, xx - yy) / 2))
    largest = np.abs(angles).max()
    assert 0.9 * degrees < largest < degrees + 1


def test_a_recipe_is_known_by_its_name() -> None:
    """A stopped training goes on with the same recipe alone, which `fit` tells by this name."""
    names = {Augmentation(name).__qualname__ for name in RECIPES}
    assert names == {"Augmentation('xray')", "Augmentation('photo')"}


@pytest.mark.parametrize("mode", ["1", "P", "I", "F"])
def test_other_modes_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"image must be in mode 'L' or 'RGB', got '{mode}'"):
        Augmentation("xray")(Image.new(mode, (8, 8)), np.random.default_rng(0))


def test_an_x_ray_keeps_most_of_its_place_and_brightness() -> None:
    """The bright quarter stays within what turning, shifting and scaling allow."""
    for seed in range(100):
        augmented = Augmentation("xray")(picture(), np.random.default_rng(seed))
        pixels = np.asarray(augmented, dtype=float)
        # Column 30 is right of the bright quarter by far more than all changes together.
        assert pixels[8:24, 30:].mean() < 0.6 * pixels[8:24, 4:7].mean()


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'xray'"):
        Augmentation("xrays")
