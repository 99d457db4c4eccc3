"""The segmenter of lungs: masks, confidence, warnings, and real X-rays."""

import warnings

import numpy as np
import pytest
from PIL import Image

from mmfusion import LungSegmenter, NotAChestXrayWarning, UNetSegmenter, dice


@pytest.fixture(scope="module")
def shipped():
    return LungSegmenter()


def chest(height=256, width=256):
    """Returns a drawing of a bright body with two dark parts. The network finds no lungs in it."""
    rows, columns = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    picture = np.where((abs(columns - 0.5) < 0.42) & (rows > 0.12), 170, 10).astype(np.float64)
    for centre in (0.3, 0.7):
        inside = ((columns - centre) / 0.13) ** 2 + ((rows - 0.5) / 0.3) ** 2 < 1
        picture[inside] = 60
    return picture.astype(np.uint8)


class Fixed:
    """The replacement of the network by a fixed map, to test only the steps after the network."""

    def __init__(self, segmenter, probability):
        self.segmenter, self.probability = segmenter, probability

    def __enter__(self):
        self.before = self.segmenter.probabilities
        self.segmenter.probabilities = lambda pictures: np.stack([self.probability] * len(pictures))
        return self.segmenter

    def __exit__(self, *_):
        self.segmenter.probabilities = self.before


def two_lungs(value=0.9):
    probability = np.full((256, 256), 0.02, np.float32)
    probability[60:200, 40:105] = value
    probability[60:200, 150:215] = value
    return probability


def quiet(call, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotAChestXrayWarning)
        return call(*arguments)


@pytest.mark.parametrize("size", [(256, 256), (100, 300), (517, 389), (64, 64)])
def test_the_mask_has_the_pictures_size(shipped, size):
    found = quiet(shipped, chest(*size))
    assert found.mask.shape == size and found.mask.dtype == np.bool_
    assert 0 <= found.confidence <= 1


def test_kinds_of_sources_agree(shipped, tmp_path):
    Image.fromarray(chest()).save(tmp_path / "x.png")
    first = quiet(shipped, chest()).mask
    for source in (
        tmp_path / "x.png",
        str(tmp_path / "x.png"),
        Image.open(tmp_path / "x.png"),
        chest()[..., None],
    ):
        np.testing.assert_array_equal(quiet(shipped, source).mask, first)
    sixteen = chest().astype(np.uint16) * 257
    assert dice(quiet(shipped, sixteen).mask, first) > 0.98


def test_the_parts_are_cleaned(shipped):
    probability = two_lungs()
    probability[100:110, 60:70] = 0.1
    probability[230:236, 10:16] = 0.9
    with Fixed(shipped, probability):
        mask = quiet(shipped, np.zeros((256, 256), np.uint8)).mask
    assert mask[105, 65] and not mask[232, 12]
    assert mask.sum() == 2 * 140 * 65


def test_confidence_is_the_expected_dice(shipped):
    probability = two_lungs(0.8)
    inside, outside = 2 * 140 * 65, 256 * 256 - 2 * 140 * 65
    with Fixed(shipped, probability):
        confidence = quiet(shipped, np.zeros((256, 256), np.uint8)).confidence
    assert confidence == pytest.approx(
        2 * 0.8 * inside / (inside + 0.8 * inside + 0.02 * outside), rel=1e-4
    )
    with Fixed(shipped, np.zeros((256, 256), np.float32)):
        assert quiet(shipped, np.zeros((256, 256), np.uint8)).confidence == 0


def test_masked_and_cropped(shipped):
    picture = chest(200, 300)
    with Fixed(shipped, two_lungs()):
        found = quiet(shipped, picture)
        masked, cropped = quiet(shipped.masked, picture), quiet(shipped.cropped, picture)
        exact = quiet(lambda: shipped.cropped(picture, margin=0))
    np.testing.assert_array_equal(np.asarray(masked), np.where(found.mask, picture, 0))
    left, top, right, bottom = found.box()
    rows, columns = np.nonzero(found.mask)
    assert (left, top, right, bottom) == (
        columns.min(),
        rows.min(),
        columns.max() + 1,
        rows.max() + 1,
    )
    np.testing.assert_array_equal(np.asarray(exact), picture[top:bottom, left:right])
    assert cropped.width == right - left + 2 * round(0.05 * (right - left))
    assert found.box(margin=9) == (0, 0, 300, 200)
    with pytest.raises(ValueError, match="margin must be at least 0, got -1"):
        found.box(-1)


@pytest.mark.parametrize("name", ["masked", "cropped"])
def test_a_picture_in_colour_is_flagged_on_every_road(shipped, name):
    picture = np.stack([chest(), chest() // 2, chest() // 4], axis=-1)
    with Fixed(shipped, two_lungs()), pytest.warns(NotAChestXrayWarning, match="it is in colour"):
        getattr(shipped, name)(picture)


def test_without_lungs_there_is_nothing_to_cut(shipped):
    with Fixed(shipped, np.zeros((256, 256), np.float32)):
        for call in (shipped.masked, shipped.cropped):
            with pytest.raises(ValueError, match="must show lungs, got an empty mask"):
                quiet(call, chest())


def test_a_mirrored_picture_has_the_mirrored_mask(shipped):
    pictures = [Image.fromarray(chest(200, 300)), Image.fromarray(chest(200, 300)[:, ::-1])]
    straight, mirrored = shipped.probabilities(pictures)
    np.testing.assert_allclose(mirrored, straight[:, ::-1], atol=1e-6)


def test_many_come_in_order_whatever_the_batches(shipped):
    pictures = [chest(), chest()[:, ::-1].copy(), chest(300, 200)]
    alone = [quiet(shipped, picture) for picture in pictures]
    together = quiet(lambda: list(shipped.segment(iter(pictures), batch_size=2)))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
    with pytest.raises(ValueError, match="batch_size must be an int of at least 1, got 0"):
        next(shipped.segment([chest()], batch_size=0))


@pytest.mark.parametrize("kind", ["noise", "blank", "black", "gradient", "text"])
def test_what_is_no_x_ray_is_flagged(shipped, kind):
    rows, columns = np.mgrid[:300, :300]
    pictures = {
        "noise": np.random.default_rng(0).integers(0, 256, (300, 300)),
        "blank": np.full((300, 300), 255),
        "black": np.zeros((300, 300)),
        "gradient": rows * 255 / 299,
        "text": ((rows // 6) % 2) * ((columns // 4) % 3 > 0) * 255,
    }
    with pytest.warns(NotAChestXrayWarning, match="does not look like a frontal chest X-ray"):
        found = shipped(pictures[kind].astype(np.uint8))
    assert not found.is_chest_xray and found.reasons


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_a_photograph_is_flagged(shipped, name, grey):
    from sklearn.datasets import load_sample_image

    photograph = Image.fromarray(load_sample_image(name)).convert("L" if grey else "RGB")
    with pytest.warns(NotAChestXrayWarning):
        found = shipped(photograph)
    assert not found.is_chest_xray
    assert ("it is in colour" in found.reasons) != grey


def test_a_model_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="model must take 1 channel and give 1 class, got 3 and 1"):
        LungSegmenter(UNetSegmenter(4, 2, input_channels=3))
    with pytest.raises(ValueError, match="size must be a multiple of 8, got 100"):
        LungSegmenter(UNetSegmenter(4, 2, patch_size=2), size=100)


def test_a_model_of_ones_own(shipped):
    found = quiet(LungSegmenter(UNetSegmenter(4, 2), size=64), chest())
    assert found.mask.shape == (256, 256)


class TestRealXrays:
    def masks(self, folder):
        import pandas as pd

        table = pd.read_csv(folder / "labels.csv").dropna(subset="mask")
        return [
            (folder / row.image, np.asarray(Image.open(folder / row.mask).convert("L")) > 127)
            for row in table.itertuples()
        ]

    def test_shenzhen_is_found_again(self, shipped, real_data):
        scores = [
            dice(quiet(shipped, image).mask, mask)
            for image, mask in self.masks(real_data / "shenzhen")[::12]
        ]
        assert np.mean(scores) > 0.95

    def test_another_hospitals_x_rays_are_taken_for_what_they_are(self, shipped, real_data):
        found = [quiet(shipped, image) for image, _ in self.masks(real_data / "covid_cxr")[::4]]
        assert np.mean([one.is_chest_xray for one in found]) >= 0.9

    def test_half_a_chest_or_one_on_its_side_is_flagged(self, shipped, real_data):
        for image, _ in self.masks(real_data / "shenzhen")[::60]:
            picture = Image.open(image).convert("L")
            half = picture.crop((0, 0, picture.width // 2, picture.height))
            assert quiet(shipped, picture).is_chest_xray
            assert (
                not quiet(shipped, half).is_chest_xray
                and not quiet(shipped, picture.rotate(90)).is_chest_xray
            )

    def test_inverted_it_finds_the_same_lungs(self, shipped, real_data):
        for image, _ in self.masks(real_data / "shenzhen")[::80]:
            picture = np.asarray(Image.open(image).convert("L"))
            assert dice(quiet(shipped, 255 - picture).mask, quiet(shipped, picture).mask) > 0.9
