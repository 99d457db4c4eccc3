"""Tests of raw, masked and cropped pictures: their pixels, and the notes about them."""

import datasets
import numpy as np
import pytest
from PIL import Image
from segmenting import lungs_of, segmented

from mmfusion import LungMask, load_image


def found(mask, plausible=True):
    return LungMask(mask, 0.9, plausible, () if plausible else ("odd",))


class Segmenter:
    """A segmenter that finds the bright half of a picture, and nothing in a dark picture."""

    threshold = 100
    calls = 0

    def segment(self, paths):
        for path in paths:
            type(self).calls += 1
            mask = np.asarray(load_image(path).convert("L")) > self.threshold
            yield found(mask, plausible=bool(mask.mean() < 0.6))


@pytest.fixture
def samples(tmp_path, monkeypatch):
    monkeypatch.setattr("mmfusion.LungSegmenter", Segmenter, raising=False)
    monkeypatch.setattr(Segmenter, "calls", 0)
    half = np.full((40, 60), 50, np.uint8)
    half[10:20, 20:50] = 200
    for name, picture in {
        "half": half,
        "dark": np.full((40, 60), 9, np.uint8),
        "full": np.full((40, 60), 180, np.uint8),
    }.items():
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    images = [
        str(tmp_path / "half.png"),
        None,
        str(tmp_path / "dark.png"),
        str(tmp_path / "full.png"),
        str(tmp_path / "half.png"),
    ]
    features = datasets.Features(
        {"image": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    return datasets.Dataset.from_dict(
        {"image": images, "label": [0, 1, 0, 1, 0]}, features=features
    )


def pixels(path):
    return np.asarray(load_image(path).convert("L"))


def test_none_leaves_the_samples_alone(samples, tmp_path):
    same, notes = segmented(samples, "none", tmp_path / "lungs")
    assert same is samples and notes == [] and Segmenter.calls == 0


def test_each_picture_is_masked_once_and_counted(samples, tmp_path):
    masked, notes = segmented(samples, "mask", tmp_path / "lungs")
    assert masked.features == samples.features and masked["label"] == samples["label"]
    assert (
        masked["image"][1] is None
        and masked["image"][0] == masked["image"][4]
        and Segmenter.calls == 3
    )
    original = pixels(samples["image"][0])
    np.testing.assert_array_equal(pixels(masked["image"][0]), np.where(original > 100, original, 0))
    # Nothing was found in the dark picture, so it stays unchanged.
    assert masked["image"][2] == samples["image"][2]
    assert (
        "3 pictures segmented (mask); 1 do not look like" in notes[0]
        and "1 show no lungs" in notes[0]
    )
    assert not list((tmp_path / "lungs").glob("*.part"))


def test_a_crop_is_the_box_with_its_margin(samples, tmp_path):
    cropped, _ = segmented(samples, "crop", tmp_path / "lungs")
    # The box has 30 x 10 pixels. The margin is a twentieth of each side, rounded: 2 and 0 pixels.
    np.testing.assert_array_equal(
        pixels(cropped["image"][0]), pixels(samples["image"][0])[10:20, 18:52]
    )


def test_another_segmenter_makes_other_pictures(samples, tmp_path, monkeypatch):
    first, _ = segmented(samples, "mask", tmp_path / "lungs")
    again, _ = segmented(samples, "mask", tmp_path / "lungs")
    assert again["image"] == first["image"]
    monkeypatch.setattr(Segmenter, "threshold", 20)
    other, _ = segmented(samples, "mask", tmp_path / "lungs")
    assert other["image"][0] != first["image"][0]


def test_colour_becomes_grey_in_both_ways():
    picture = Image.fromarray(np.full((8, 8, 3), (10, 100, 200), np.uint8))
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    assert (
        lungs_of(picture, found(mask), "mask").mode
        == lungs_of(picture, found(mask), "crop").mode
        == "L"
    )


def test_an_unknown_way_is_answered(samples, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"segment must be one of 'none', 'mask', 'crop', got 'msk'. Did you mean 'mask'",
    ):
        segmented(samples, "msk", tmp_path)
