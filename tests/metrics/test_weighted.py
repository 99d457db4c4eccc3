"""The checks of scores and labels that all metrics share, called through the metrics."""

import numpy as np
import pytest

from mmfusion.metrics.functional import accuracy, auroc, balanced_accuracy, cross_entropy

NAN = float("nan")
LOGITS = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.5]])
LABELS = np.array([0, 1, 1])


class TestRefusals:
    @pytest.mark.parametrize("metric", [accuracy, balanced_accuracy, cross_entropy, auroc])
    def test_nan_logits_are_counted(self, metric):
        logits = np.array([[NAN, 1.0], [NAN, np.inf], [0.0, 0.0]])
        with pytest.raises(
            ValueError, match="must be finite, got 2 NaN and 1 infinite of 6 values"
        ):
            metric(logits, LABELS)

    @pytest.mark.parametrize("label", [2, -1, -100, 0.5, NAN])
    def test_label_out_of_range(self, label):
        with pytest.raises(
            ValueError, match=rf"class numbers from 0 to 1, got {label:g} in row 1.* 1 in all"
        ):
            accuracy(LOGITS, np.array([0, label, 1]))

    def test_multi_label_value(self):
        with pytest.raises(
            ValueError, match=r"labels must be 1, 0 or NaN \(unknown\), got -1 in row 2"
        ):
            accuracy(LOGITS, np.array([[0, 1], [1, 1], [0, -1]]))

    @pytest.mark.parametrize(
        "labels", [np.zeros(2), np.zeros((3, 3)), np.zeros((2, 2)), np.zeros((3, 2, 1))]
    )
    def test_lengths_that_differ(self, labels):
        with pytest.raises(
            ValueError, match=r"labels must be \[3\] class numbers or \[3, 2\] of 1/0/NaN"
        ):
            accuracy(LOGITS, labels)

    @pytest.mark.parametrize("shape", [(0, 2), (3,), (2, 2, 2)])
    def test_shape_of_logits(self, shape):
        with pytest.raises(ValueError, match=r"logits must be \[B, C\] with at least one sample"):
            accuracy(np.zeros(shape), np.zeros(shape[:1]))

    def test_one_column_needs_multi_label(self):
        with pytest.raises(ValueError, match="at least 2 columns"):
            accuracy(np.zeros((3, 1)), LABELS)

    @pytest.mark.parametrize("logits", [[[1.0, 2.0]], "logits", None])
    def test_not_an_array(self, logits):
        with pytest.raises(TypeError):
            accuracy(logits, np.array([0]))

    def test_not_numbers(self):
        with pytest.raises(
            TypeError,
            match="labels must be a tensor or numpy array of numbers, got an array of <U1",
        ):
            accuracy(LOGITS, np.array(["a", "b", "c"]))
