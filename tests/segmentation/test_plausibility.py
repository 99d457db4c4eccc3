"""The plausibility of masks: cleaning, features and the distance from the usual."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from mmfusion.segmentation.plausibility import FEATURES, Plausibility, features, two_largest


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)))
def test_two_parts_without_holes_remain(mask):
    kept = two_largest(mask)
    parts, count = ndimage.label(mask)
    sizes = sorted(((parts == number).sum() for number in range(1, count + 1)), reverse=True)[:2]
    assert ndimage.label(kept)[1] <= 2
    np.testing.assert_array_equal(kept, ndimage.binary_fill_holes(kept))
    assert (kept & mask).sum() >= sum(sizes)
    added = kept & ~mask
    np.testing.assert_array_equal(added, added & ndimage.binary_fill_holes(kept & mask))
    np.testing.assert_array_equal(two_largest(kept), kept)


def ellipses(*centres, radii=(60, 30)):
    rows, columns = np.mgrid[:256, :256]
    maps = [((rows - y) / radii[0]) ** 2 + ((columns - x) / radii[1]) ** 2 < 1 for y, x in centres]
    return np.any(maps, axis=0).astype(np.float32)


def test_the_features_measure_what_they_name():
    found = dict(zip(FEATURES, features(ellipses((120, 70), (130, 180))), strict=True))
    area = np.pi * 60 * 30 / 256**2
    assert found["area of the left-hand lung"] == pytest.approx(area, rel=0.02)
    assert found["area of the right-hand lung"] == pytest.approx(area, rel=0.02)
    assert found["distance of the lungs' centres across"] == pytest.approx(110 / 256, abs=1e-6)
    assert found["distance of the lungs' centres along"] == pytest.approx(10 / 256, abs=1e-6)
    assert found["height of the left-hand lung"] == pytest.approx(119 / 256, abs=0.01)
    assert found["share of the heights in common"] == pytest.approx(109 / 119, abs=0.01)
    assert found["how full the right-hand lung's box is"] == pytest.approx(
        np.pi * 60 * 30 / (119 * 59), rel=0.01
    )
    assert found["share of doubtful pixels"] == 0


@pytest.mark.parametrize("centres", [[], [(128, 128)]])
def test_one_part_or_none_has_no_features(centres):
    probability = ellipses(*centres) if centres else np.zeros((256, 256), np.float32)
    assert features(probability) is None


def test_shapes_far_from_the_usual_are_far():
    generator = np.random.default_rng(0)
    usual = [
        features(ellipses(*(np.array([(120, 70), (120, 185)]) + generator.normal(0, 4, (2, 2)))))
        for _ in range(200)
    ]
    judge = Plausibility.fitted(usual, 0.95)
    assert np.mean([judge.distance(shape) <= judge.limit for shape in usual]) == pytest.approx(
        0.95, abs=0.01
    )
    above_each_other = features(ellipses((60, 128), (190, 128)))
    assert judge.distance(above_each_other) > 3 * judge.limit
    again = Plausibility.from_json(judge.to_json())
    assert (
        again.distance(usual[0]) == pytest.approx(judge.distance(usual[0]))
        and again.limit == judge.limit
    )
