"""Tests of the lung segmenters: data, augmentation, training, masks and summaries."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from segment import app, dice_of, masks_of, summary
from segment_data import Augmentation, LungSample, load_pairs, read_montgomery, read_shenzhen
from segment_training import Recipe, train
from typer.testing import CliRunner

from mmfusion import NotAChestXrayWarning

TINY = Recipe(width=4, depth=2, epochs=3, batch_size=4, bf16=False, dropout=0.2)


def grey(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


def lungs(seed=0, size=64):
    """A picture with two dark ellipses, and one mask for each."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    masks = [
        ((columns - x) / 0.12) ** 2 + ((rows - 0.5) / 0.3) ** 2 < 1
        for x in (0.3 + draw.uniform(-0.05, 0.05), 0.7)
    ]
    return np.where(masks[0] | masks[1], 60, 190) + draw.normal(0, 8, (size, size)), masks


@pytest.fixture
def montgomery(tmp_path):
    for number in range(2):
        picture, masks = lungs(number)
        grey(tmp_path / "MontgomerySet/CXR_png" / f"MCUCXR_000{number}_0.png", picture)
        for side, mask in zip(("left", "right"), masks, strict=True):
            grey(
                tmp_path / f"MontgomerySet/ManualMask/{side}Mask" / f"MCUCXR_000{number}_0.png",
                mask * 255,
            )
    return tmp_path


@pytest.fixture
def shenzhen(tmp_path):
    for number in range(10):
        picture, masks = lungs(number)
        grey(tmp_path / "CXR_png" / f"CHNCXR_{number:04d}_0.png", picture)
        grey(tmp_path / "mask" / f"CHNCXR_{number:04d}_0_mask.png", (masks[0] | masks[1]) * 255)
    return tmp_path


def test_montgomerys_lungs_are_the_union_of_two_masks(montgomery):
    samples = read_montgomery(montgomery)
    assert [sample.uid for sample in samples] == ["MCUCXR_0000_0", "MCUCXR_0001_0"]
    assert samples == read_montgomery(montgomery / "MontgomerySet")
    pixels, masks = load_pairs(samples, 64)
    assert pixels.shape == masks.shape == (2, 64, 64, 1) and pixels.dtype == np.float32
    left, right = lungs(1)[1]
    np.testing.assert_array_equal(masks[1, ..., 0], left | right)


def test_a_mask_that_is_missing_is_named(montgomery):
    (montgomery / "MontgomerySet/ManualMask/rightMask/MCUCXR_0001_0.png").unlink()
    with pytest.raises(ValueError, match=r"ManualMask/rightMask/MCUCXR_0001_0\.png"):
        read_montgomery(montgomery)


def test_a_mask_of_another_shape_is_named(montgomery):
    grey(montgomery / "MontgomerySet/ManualMask/leftMask/MCUCXR_0000_0.png", np.zeros((64, 32)))
    with pytest.raises(
        ValueError, match=r"must have the shape of its X-ray, \(64, 64\), got \(32, 64\)"
    ):
        load_pairs(read_montgomery(montgomery), 64)


def test_x_rays_without_masks_are_an_error(shenzhen):
    for mask in (shenzhen / "mask").iterdir():
        mask.unlink()
    with pytest.raises(ValueError, match="folder must hold X-rays with lung masks, got none"):
        read_shenzhen(shenzhen)


def test_augmentation_follows_seed_epoch_and_number_alone():
    picture, masks = lungs()
    pixels, mask = (picture / 255).astype(np.float32)[..., None], (masks[0] | masks[1])[..., None]
    first = Augmentation(3)(pixels, mask, 1, 2)
    for one, other in zip(first, Augmentation(3)(pixels, mask, 1, 2), strict=True):
        np.testing.assert_array_equal(one, other)
    for seed, epoch, index in ((4, 1, 2), (3, 2, 2), (3, 1, 3)):
        assert not np.array_equal(Augmentation(seed)(pixels, mask, epoch, index)[0], first[0])


def test_strength_says_how_far_an_x_ray_is_changed():
    picture, masks = lungs()
    pixels, mask = (picture / 255).astype(np.float32)[..., None], (masks[0] | masks[1])[..., None]

    def moved(strength):
        seen = [Augmentation(0, strength)(pixels, mask, 0, index)[1] for index in range(100)]
        return np.mean([min((one != mask).mean(), (one[:, ::-1] != mask).mean()) for one in seen])

    assert moved(0) == 0 < moved(0.3) < 0.6 * moved(1)
    with pytest.raises(ValueError, match=r"augmentation must be within \[0, 1\], got 2"):
        Augmentation(0, 2)


def test_negatives_are_no_x_rays_and_have_empty_masks():
    picture, masks = lungs()
    pixels, mask = (picture / 255).astype(np.float32)[..., None], (masks[0] | masks[1])[..., None]
    for share, count in ((0.0, 0), (1.0, 40)):
        seen = [Augmentation(0, 0.0, share)(pixels, mask, 0, index) for index in range(40)]
        assert sum(not empty.any() for _, empty in seen) == count
    # Every negative sample must differ from the X-ray and from its mirror image.
    for made, _ in seen:
        assert all(
            np.abs(np.corrcoef(made.ravel(), other.ravel())[0, 1]) < 0.9
            for other in (pixels, pixels[:, ::-1])
        )
    with pytest.raises(ValueError, match=r"negatives must be within \[0, 1\], got -1"):
        Augmentation(0, 1.0, -1)


def test_the_mask_goes_where_the_x_ray_goes():
    mask = np.zeros((64, 64, 1), bool)
    mask[20:44, 12:26] = mask[20:50, 40:56] = True
    gaps = []
    for index in range(60):
        pixels, moved = Augmentation()(mask.astype(np.float32), mask, 0, index)
        if moved.any() and not moved.all():
            gaps.append(abs(pixels[moved > 0].mean() - pixels[moved == 0].mean()))
    assert len(gaps) > 40
    # If mask and picture were moved differently, the two mean brightnesses would be similar.
    assert np.median(gaps) > 0.4


def pairs(count=10):
    made = [lungs(number) for number in range(count)]
    pixels = np.stack([picture / 255 for picture, _ in made]).astype(np.float32)
    return pixels[..., None], np.stack([a | b for _, (a, b) in made])[..., None]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop_at", [1, 2])
def test_a_stopped_training_ends_with_the_same_weights(tmp_path, monkeypatch, stop_at):
    whole, _ = train(TINY, pairs(), None, tmp_path / "whole", verbose=0)

    def stop(self, epoch, logs=None):
        if epoch == stop_at:
            self.csv_file.close()
            raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(keras.callbacks.CSVLogger, "on_epoch_begin", stop)
        with pytest.raises(Stopped):
            train(TINY, pairs(), None, tmp_path / "stopped", verbose=0)
    resumed, curves = train(TINY, pairs(), None, tmp_path / "stopped", verbose=0)
    assert len(curves["loss"]) == 3
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_recipe_is_another_training(tmp_path):
    first, _ = train(TINY, pairs(), None, tmp_path, verbose=0)
    again, _ = train(TINY, pairs(), None, tmp_path, verbose=0)
    other, curves = train(replace(TINY, epochs=1), pairs(), None, tmp_path, verbose=0)
    np.testing.assert_array_equal(again.get_weights()[0], first.get_weights()[0])
    assert len(curves["loss"]) == 1 and not np.array_equal(
        other.get_weights()[0], first.get_weights()[0]
    )


def test_a_mask_is_the_two_largest_parts_without_holes():
    maps = np.zeros((1, 9, 9), np.float32)
    maps[0, 1:6, 1:4], maps[0, 1:4, 5:8], maps[0, 8, 8] = 0.9, 0.6, 0.8
    maps[0, 3, 2] = 0.1
    expected = np.zeros((1, 9, 9), np.float32)
    expected[0, 1:6, 1:4], expected[0, 1:4, 5:8] = 1, 1
    np.testing.assert_array_equal(masks_of(maps), expected)


def test_scores_are_summed_up():
    masks = np.ones((20, 2, 2, 1), bool)
    maps = np.ones((20, 2, 2), np.float32)
    maps[0], maps[1, 0] = 0, 0
    scores = dice_of(maps, masks)
    assert scores[:3].tolist() == [0, pytest.approx(2 / 3), 1]
    samples = [LungSample(str(i), Path("x"), (), "shenzhen", str(i)) for i in range(20)]
    found = summary(scores, samples)
    assert (
        found["count"] == 20
        and found["least"] == 0
        and found["worst_tenth"] == pytest.approx(1 / 3, abs=1e-4)
    )
    assert (
        found["mean"] == pytest.approx((18 + 2 / 3) / 20, abs=1e-4)
        and found["low"] < found["mean"] < found["high"]
    )


def test_a_patient_with_many_x_rays_counts_once_in_the_interval():
    draw = np.random.default_rng(0)
    level = draw.uniform(0.6, 1, 20)
    scores = np.repeat(level, 10)
    alone = [LungSample(str(i), Path("x"), (), "covid", str(i)) for i in range(200)]
    together = [LungSample(str(i), Path("x"), (), "covid", str(i // 10)) for i in range(200)]
    narrow, wide = summary(scores, alone), summary(scores, together)
    assert narrow["mean"] == wide["mean"] == pytest.approx(level.mean(), abs=1e-4)
    # Ten equal X-rays of one patient count as one value. The interval is that of twenty values, and
    # so it is sqrt(10) times as wide.
    assert (wide["high"] - wide["low"]) / (narrow["high"] - narrow["low"]) == pytest.approx(
        10**0.5, rel=0.1
    )


def test_what_is_shipped_is_measured(shenzhen, montgomery, tmp_path):
    folders = [
        "--shenzhen",
        str(shenzhen),
        "--montgomery",
        str(montgomery / "MontgomerySet"),
        "--output",
        str(tmp_path / "out"),
        "--shipped",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotAChestXrayWarning)
        done = CliRunner().invoke(app, folders)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out/shipped.json").read_text())["shipped"]
    assert found["shenzhen"]["count"] == 10 and found["montgomery"]["count"] == 2
    assert 0 <= found["montgomery"]["least"] <= found["montgomery"]["mean"] <= 1


@pytest.mark.xdist_group("processes")
def test_the_whole_run_small(shenzhen, montgomery, tmp_path):
    options = [
        "--folds",
        "2",
        "--epochs",
        "1",
        "--width",
        "4",
        "--no-bf16",
        "--output",
        str(tmp_path / "out"),
    ]
    folders = [
        "--shenzhen",
        str(shenzhen),
        "--montgomery",
        str(montgomery / "MontgomerySet"),
        "--ship",
        str(tmp_path / "shipped"),
    ]
    done = CliRunner().invoke(app, folders + options)
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert (
        results["models"]["model 2 (shenzhen)"]["cross_validated_dice"]["shenzhen"]["count"] == 10
    )
    assert (
        results["models"]["model 1 (shenzhen + montgomery)"]["cross_validated_dice"]["montgomery"][
            "count"
        ]
        == 2
    )
    assert results["another_hospital"]["measured_on"] == "montgomery"
    for name in ("model-1-curves", "model-2-worst", "masks", "montgomery-worst"):
        with Image.open(tmp_path / "out" / f"{name}.png") as drawn:
            assert drawn.width > 400
    assert (tmp_path / "shipped/lungs.weights.h5").exists()
