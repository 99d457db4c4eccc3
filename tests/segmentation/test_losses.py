"""The losses and metrics of segmentation: formulas, agreement with `dice`, and errors."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmfusion import dice
from mmfusion.segmentation.losses import (
    BCEDiceLoss,
    DiceLoss,
    DiceScore,
    IoUScore,
    segmentation_loss,
)

masks = st.integers(1, 4).flatmap(
    lambda count: st.tuples(*[arrays(np.bool_, (count, 3, 4)) for _ in range(2)])
)


def value(tensor):
    return float(keras.ops.convert_to_numpy(tensor))


def drawn(*shape):
    generator = np.random.default_rng(0)
    return (generator.random(shape) > 0.5).astype("float32"), generator.uniform(
        0.05, 0.95, shape
    ).astype("float32")


def test_dice_loss_is_its_formula():
    true, predicted = drawn(3, 4, 5, 2)
    losses = [
        1
        - (2 * (true[b, ..., c] * predicted[b, ..., c]).sum() + 1)
        / (true[b, ..., c].sum() + predicted[b, ..., c].sum() + 1)
        for b in range(3)
        for c in range(2)
    ]
    assert value(DiceLoss()(true, predicted)) == pytest.approx(np.mean(losses), abs=1e-6)


@given(masks)
def test_on_masks_dice_loss_is_one_minus_dice(pair):
    true, predicted = (mask[..., None].astype("float32") for mask in pair)
    assert value(DiceLoss(smooth=1e-6)(true, predicted)) == pytest.approx(1 - dice(*pair), abs=1e-5)


def test_an_empty_mask_pulls_the_prediction_down():
    empty = np.zeros((1, 4, 4, 1), "float32")
    high, low = (value(DiceLoss()(empty, np.full_like(empty, p))) for p in (0.9, 0.1))
    assert high > low > 0 and value(DiceLoss()(empty, empty)) == 0


def test_bce_dice_adds_the_cross_entropy():
    true, predicted = drawn(2, 4, 4, 1)
    entropy = -(true * np.log(predicted) + (1 - true) * np.log(1 - predicted)).mean()
    assert value(BCEDiceLoss()(true, predicted)) == pytest.approx(
        entropy + value(DiceLoss()(true, predicted)), abs=1e-5
    )


def test_bce_dice_of_several_classes_takes_the_categorical_cross_entropy():
    predicted = np.random.default_rng(0).dirichlet([1, 1, 1], (2, 4, 4)).astype("float32")
    true = np.eye(3, dtype="float32")[np.random.default_rng(1).integers(0, 3, (2, 4, 4))]
    entropy = -np.log((true * predicted).sum(-1)).mean()
    assert value(BCEDiceLoss()(true, predicted)) == pytest.approx(
        entropy + value(DiceLoss()(true, predicted)), abs=1e-5
    )


def test_focal_is_the_papers_formula():
    true, predicted = drawn(2, 4, 4, 1)
    right = np.where(true == 1, predicted, 1 - predicted)
    assert value(segmentation_loss("focal")(true, predicted)) == pytest.approx(
        (-((1 - right) ** 2) * np.log(right)).mean(), abs=1e-5
    )
    assert isinstance(segmentation_loss("focal", 3), keras.losses.CategoricalFocalCrossentropy)


@given(st.lists(masks, min_size=1, max_size=3))
def test_the_metrics_agree_with_the_librarys_dice_over_batches(batches):
    score, overlap = DiceScore(), IoUScore()
    for true, predicted in batches:
        for metric in (score, overlap):
            metric.update_state(true[..., None].astype("float32"), predicted[..., None] * 0.9)
    true, predicted = (np.concatenate([batch[side] for batch in batches]) for side in (0, 1))
    assert value(score.result()) == pytest.approx(dice(predicted, true), abs=1e-5)
    single = [dice(a, b) for a, b in zip(predicted, true, strict=True)]
    assert value(overlap.result()) == pytest.approx(
        np.mean([d / (2 - d) for d in single]), abs=1e-5
    )


def test_a_sample_of_no_weight_does_not_count():
    true, predicted = drawn(2, 4, 4, 1)
    metric = DiceScore()
    metric.update_state(true, predicted, sample_weight=np.array([1.0, 0.0]))
    assert value(metric.result()) == pytest.approx(
        dice(predicted[0, ..., 0] > 0.5, true[0, ..., 0]), abs=1e-6
    )


@pytest.mark.parametrize("made", [DiceLoss(0.5), BCEDiceLoss(2.0), DiceScore(0.3), IoUScore(0.7)])
def test_their_configurations_build_them_again(made):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert type(again) is type(made) and again.get_config() == made.get_config()


def test_what_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="one of .*'bce_dice'.*got 'dise'"):
        segmentation_loss("dise")
    with pytest.raises(ValueError, match="smooth must be above 0, got 0"):
        DiceLoss(smooth=0)
