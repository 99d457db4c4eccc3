"""The metrics and intervals, compared with scikit-learn, torchmetrics, scipy and statsmodels."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sklearn_metrics
from statsmodels.stats import contingency_tables
from torchmetrics import functional as torchmetrics
from torchmetrics.functional import segmentation

from mmfusion.metrics.bootstrap import bootstrap_interval
from mmfusion.metrics.functional import (
    accuracy,
    auroc,
    balanced_accuracy,
    cross_entropy,
    dice,
    expected_calibration_error,
    weighted_form,
)
from mmfusion.metrics.tests import mcnemar

NAN = float("nan")


@pytest.fixture(params=[2, 5])
def single_label(request) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(request.param)
    labels = generator.integers(0, request.param, 300)
    # Rounding makes many scores tie.
    return (generator.normal(size=(300, request.param)) + np.eye(request.param)[labels]).round(
        1
    ), labels


@pytest.fixture
def multi_label() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    return generator.normal(size=(200, 4)).round(1), generator.choice([0, 1, NAN], (200, 4))


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.tensor(logits).softmax(1).numpy()


def test_dice_is_the_f1_score_of_the_pixels():
    generator = np.random.default_rng(0)
    prediction, target = generator.random((2, 6, 9, 11)) < 0.3
    per_mask = [
        sklearn_metrics.f1_score(a.ravel(), b.ravel())
        for a, b in zip(target, prediction, strict=True)
    ]
    assert dice(prediction, target) == pytest.approx(np.mean(per_mask), abs=1e-12)


def test_dice_is_torchmetrics_per_mask():
    prediction, target = (
        torch.rand(2, 6, 1, 9, 11, generator=torch.Generator().manual_seed(0)) < 0.3
    )
    reference = segmentation.dice_score(
        prediction.long(), target.long(), num_classes=1, average="none", input_format="one-hot"
    )
    assert dice(prediction, target) == pytest.approx(reference.mean().item(), abs=1e-6)


def test_accuracy(single_label):
    logits, labels = single_label
    assert accuracy(logits, labels) == pytest.approx(
        sklearn_metrics.accuracy_score(labels, logits.argmax(1))
    )


def test_balanced_accuracy(single_label):
    logits, labels = single_label
    reference = sklearn_metrics.balanced_accuracy_score(labels, logits.argmax(1))
    assert balanced_accuracy(logits, labels) == pytest.approx(reference, abs=1e-12)


def test_cross_entropy(single_label):
    logits, labels = single_label
    reference = sklearn_metrics.log_loss(labels, softmax(logits))
    assert cross_entropy(logits, labels) == pytest.approx(reference, abs=1e-12)


def test_auroc(single_label):
    logits, labels = single_label
    probabilities = softmax(logits)
    if probabilities.shape[1] == 2:
        margin = logits[:, 1] - logits[:, 0]
        assert auroc(logits, labels) == pytest.approx(
            sklearn_metrics.roc_auc_score(labels, margin), abs=1e-12
        )
    else:
        reference = sklearn_metrics.roc_auc_score(labels, probabilities, multi_class="ovr")
        assert auroc(logits, labels) == pytest.approx(reference, abs=1e-12)


def test_auroc_is_the_mann_whitney_statistic():
    generator = np.random.default_rng(1)
    scores, labels = generator.integers(0, 6, 80).astype(float), generator.integers(0, 2, 80)
    u = stats.mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
    assert auroc(scores, labels) == pytest.approx(
        u / (labels.sum() * (1 - labels).sum()), abs=1e-12
    )


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_expected_calibration_error(single_label, bins):
    logits, labels = single_label
    probabilities = torch.tensor(logits).softmax(1)
    reference = torchmetrics.classification.multiclass_calibration_error(
        probabilities, torch.tensor(labels), num_classes=logits.shape[1], n_bins=bins, norm="l1"
    )
    assert expected_calibration_error(probabilities, labels, bins=bins) == pytest.approx(
        reference.item(), abs=1e-6
    )


def test_multi_label_by_label(multi_label):
    logits, labels = multi_label
    known = ~np.isnan(labels)
    columns = [(logits[known[:, c], c], labels[known[:, c], c].astype(int)) for c in range(4)]
    areas = [sklearn_metrics.roc_auc_score(truth, scores) for scores, truth in columns]
    balanced = [
        sklearn_metrics.balanced_accuracy_score(truth, scores > 0) for scores, truth in columns
    ]
    assert auroc(logits, labels) == pytest.approx(np.mean(areas), abs=1e-12)
    assert balanced_accuracy(logits, labels) == pytest.approx(np.mean(balanced), abs=1e-12)


def test_multi_label_pooled(multi_label):
    logits, labels = multi_label
    known = ~np.isnan(labels)
    scores, truth = torch.tensor(logits[known]), torch.tensor(labels[known])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, truth)
    calibration = torchmetrics.classification.multiclass_calibration_error(
        torch.stack([1 - scores.sigmoid(), scores.sigmoid()], 1),
        truth.long(),
        num_classes=2,
        n_bins=15,
    )
    assert accuracy(logits, labels) == pytest.approx(
        ((scores > 0) == (truth == 1)).double().mean().item()
    )
    assert cross_entropy(logits, labels) == pytest.approx(loss.item(), abs=1e-12)
    assert expected_calibration_error(torch.tensor(logits).sigmoid(), labels) == pytest.approx(
        calibration.item(), abs=1e-6
    )


def test_weighted_auroc_is_sklearn_on_each_resample():
    generator = np.random.default_rng(2)
    scores, labels = generator.integers(0, 9, 40).astype(float), generator.integers(0, 2, 40)
    resamples = generator.integers(0, 40, (60, 40))
    weights = np.stack([np.bincount(rows, minlength=40) for rows in resamples]).astype(float)
    form = weighted_form(auroc, scores, labels)
    assert form is not None
    reference = [sklearn_metrics.roc_auc_score(labels[rows], scores[rows]) for rows in resamples]
    np.testing.assert_allclose(form(weights), reference, atol=1e-12)


def test_weighted_auroc_takes_sample_weights_as_sklearn_does():
    generator = np.random.default_rng(4)
    scores, labels, weights = (
        generator.normal(size=50).round(1),
        generator.integers(0, 2, 50),
        generator.random(50),
    )
    form = weighted_form(auroc, scores, labels)
    assert form is not None
    reference = sklearn_metrics.roc_auc_score(labels, scores, sample_weight=weights)
    assert form(weights[None])[0] == pytest.approx(reference, abs=1e-12)


def test_bootstrap_is_near_scipys_percentile_interval():
    generator = np.random.default_rng(5)
    right = generator.random(200) < 0.7
    interval = bootstrap_interval(
        accuracy, np.eye(2)[right.astype(int)], np.ones(200, int), resamples=9999
    )
    reference = stats.bootstrap(
        (right.astype(float),), np.mean, method="percentile", n_resamples=9999, rng=generator
    ).confidence_interval
    # The bounds are multiples of 1/200, and the random resamples may move them by one step.
    assert (interval.low, interval.high) == pytest.approx(
        (reference.low, reference.high), abs=0.0051
    )


@pytest.mark.parametrize(("samples", "exact"), [(40, True), (400, False)])
def test_mcnemar(samples, exact):
    generator = np.random.default_rng(6)
    labels = generator.integers(0, 2, samples)
    first, second = (
        generator.normal(size=(samples, 2)) + shift * np.eye(2)[labels] for shift in (1.5, 1.0)
    )
    right = [logits.argmax(1) == labels for logits in (first, second)]
    table = [
        [int(np.sum((right[0] == a) & (right[1] == b))) for b in (True, False)]
        for a in (True, False)
    ]
    assert (table[0][1] + table[1][0] < 25) == exact
    test, reference = mcnemar(first, second, labels), contingency_tables.mcnemar(table, exact=exact)
    assert (test.only_first, test.only_second) == (table[0][1], table[1][0])
    assert (test.statistic, test.p_value) == pytest.approx((reference.statistic, reference.pvalue))
    if exact:
        binomial = stats.binomtest(table[0][1], table[0][1] + table[1][0]).pvalue
        assert test.p_value == pytest.approx(binomial)
