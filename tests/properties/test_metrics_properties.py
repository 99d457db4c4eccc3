"""The guarantees of the metrics for every input: bounds, invariances, and sample weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mmfusion.metrics.functional import (
    accuracy,
    auroc,
    balanced_accuracy,
    cross_entropy,
    dice,
    expected_calibration_error,
    weighted_form,
)
from mmfusion.metrics.streaming import Accuracy, CrossEntropy, Dice

# No deadline, because torch's threads can be a hundred times slower on a busy machine.
quick = settings(max_examples=50, deadline=None)

METRICS = [accuracy, balanced_accuracy, cross_entropy, auroc, expected_calibration_error]


@st.composite
def problems(draw) -> tuple[np.ndarray, np.ndarray]:
    """Draws scores of few values, so that ties are common, and single- or multi-label labels."""
    samples, classes = draw(st.integers(1, 12)), draw(st.integers(2, 4))
    scores = draw(arrays.arrays(float, (samples, classes), elements=st.integers(-3, 3).map(float)))
    if draw(st.booleans()):
        return scores, draw(arrays.arrays(int, samples, elements=st.integers(0, classes - 1)))
    values = st.sampled_from([0.0, 1.0, float("nan")])
    return scores, draw(arrays.arrays(float, (samples, classes), elements=values))


def fit_for(metric, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the scores, as probabilities if the metric takes these."""
    if metric is not expected_calibration_error:
        return scores
    odds = np.exp(scores)
    return odds / odds.sum(1, keepdims=True) if labels.ndim == 1 else odds / (1 + odds)


@st.composite
def mask_pairs(draw) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(arrays.array_shapes(min_dims=3, max_dims=3, max_side=4))
    return draw(arrays.arrays(bool, shape)), draw(arrays.arrays(bool, shape))


@pytest.mark.parametrize("metric", METRICS)
@quick
@given(problem=problems(), data=st.data())
def test_a_weight_is_a_number_of_repetitions(metric, problem, data):
    scores, labels = fit_for(metric, *problem), problem[1]
    times = data.draw(arrays.arrays(int, len(labels), elements=st.integers(0, 3)).filter(np.any))
    form = weighted_form(metric, scores, labels)
    repeated = metric(np.repeat(scores, times, 0), np.repeat(labels, times, 0))
    assert form(times[None].astype(float))[0] == pytest.approx(repeated, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("metric", METRICS)
@quick
@given(problem=problems(), data=st.data())
def test_the_order_of_samples_does_not_matter(metric, problem, data):
    scores, labels = fit_for(metric, *problem), problem[1]
    order = data.draw(st.permutations(range(len(labels))))
    assert metric(scores[order], labels[order]) == pytest.approx(
        metric(scores, labels), abs=1e-9, nan_ok=True
    )


@pytest.mark.parametrize("metric", METRICS)
@quick
@given(problem=problems())
def test_bounds(metric, problem):
    value = metric(fit_for(metric, *problem), problem[1])
    assert np.isnan(value) or 0 <= value <= (np.inf if metric is cross_entropy else 1 + 1e-12)


@pytest.mark.parametrize("metric", METRICS)
@quick
@given(problem=problems(), junk=st.integers(-3, 3))
def test_the_score_of_an_unknown_label_does_not_matter(metric, problem, junk):
    scores, labels = problem
    changed = np.where(np.isnan(labels), float(junk), scores) if labels.ndim == 2 else scores
    before, after = (
        metric(fit_for(metric, values, labels), labels) for values in (scores, changed)
    )
    assert after == pytest.approx(before, abs=1e-9, nan_ok=True)


@quick
@given(problem=problems())
def test_auroc_of_reversed_scores_is_the_complement(problem):
    scores, labels = (
        problem[0][:, 0],
        (problem[1] if problem[1].ndim == 1 else problem[1][:, 0]) == 1,
    )
    assert auroc(-scores, labels) == pytest.approx(
        1 - auroc(scores, labels), abs=1e-12, nan_ok=True
    )
    assert auroc(np.exp(scores) - 7, labels) == pytest.approx(
        auroc(scores, labels), abs=1e-12, nan_ok=True
    )


@quick
@given(pair=mask_pairs())
def test_dice_is_symmetric_and_one_only_where_equal(pair):
    prediction, target = pair
    value = dice(prediction, target)
    assert 0 <= value <= 1
    assert value == dice(target, prediction)
    assert (value == 1) == bool((prediction == target).all())


@pytest.mark.parametrize(
    ("metric_class", "function"), [(Accuracy, accuracy), (CrossEntropy, cross_entropy)]
)
@quick
@given(problem=problems(), data=st.data())
def test_streaming_equals_the_whole(metric_class, function, problem, data):
    scores, labels = problem
    cuts = sorted(
        data.draw(st.sets(st.integers(1, max(1, len(labels) - 1)))) & set(range(1, len(labels)))
    )
    metric = metric_class()
    for batch in zip(np.split(scores, cuts), np.split(labels, cuts), strict=True):
        metric.update(*batch)
    assert metric.compute().item() == pytest.approx(function(scores, labels), abs=1e-9, nan_ok=True)


@quick
@given(pair=mask_pairs())
def test_streaming_dice_equals_the_whole(pair):
    metric = Dice()
    for masks in zip(*pair, strict=True):
        metric.update(*masks)
    assert metric.compute().item() == pytest.approx(dice(*pair), abs=1e-12)
