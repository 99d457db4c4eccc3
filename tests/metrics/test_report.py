"""The report: its metrics, its intervals and its errors."""

import math

import numpy as np
import pytest
import torch

from mmfusion.metrics.bootstrap import bootstrap_interval
from mmfusion.metrics.functional import (
    accuracy,
    auroc,
    balanced_accuracy,
    cross_entropy,
    expected_calibration_error,
)
from mmfusion.metrics.report import evaluate_predictions

NAN = float("nan")


def sample(size: int = 60, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, size)
    return generator.normal(size=(size, classes)) + np.eye(classes)[labels], labels


class TestEvaluatePredictions:
    KEYS = ("accuracy", "balanced_accuracy", "auroc", "cross_entropy", "ece")

    def test_single_label(self):
        logits, labels = sample(classes=3)
        results = evaluate_predictions(logits, labels, resamples=100)
        probabilities = torch.tensor(logits).softmax(1)
        estimates = [
            metric(logits, labels) for metric in (accuracy, balanced_accuracy, auroc, cross_entropy)
        ]
        assert tuple(results) == self.KEYS
        assert [interval.estimate for interval in results.values()] == pytest.approx(
            [*estimates, expected_calibration_error(probabilities, labels)]
        )
        assert results["auroc"] == bootstrap_interval(auroc, logits, labels, resamples=100)

    def test_multi_label_by_patient(self):
        logits = np.random.default_rng(0).normal(size=(40, 3))
        labels = np.random.default_rng(1).choice([0, 1, NAN], (40, 3))
        groups = np.repeat(np.arange(20), 2)
        results = evaluate_predictions(
            logits, labels, groups=groups, problem_type="multi_label_classification", resamples=100
        )
        assert tuple(results) == self.KEYS
        assert results["accuracy"] == bootstrap_interval(
            accuracy, logits, labels, groups=groups, resamples=100
        )

    def test_one_class_alone(self):
        results = evaluate_predictions(np.eye(2)[[0, 1, 0]], np.zeros(3), resamples=10)
        assert math.isnan(results["auroc"].estimate)
        assert results["accuracy"].estimate == pytest.approx(2 / 3)

    def test_problem_type_that_contradicts_the_labels(self):
        with pytest.raises(
            ValueError, match="must be 'single_label_classification' where labels have shape"
        ):
            evaluate_predictions(*sample(), problem_type="multi_label_classification")

    def test_problem_type_misspelt(self):
        with pytest.raises(ValueError, match=r"Did you mean 'single_label_classification'\?"):
            evaluate_predictions(*sample(), problem_type="single_lable")
