"""The metrics as functions: definitions, edge cases and errors."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from mmfusion.metrics.functional import (
    accuracy,
    auroc,
    balanced_accuracy,
    cross_entropy,
    dice,
    expected_calibration_error,
    weighted_form,
)

NAN = float("nan")
LOGITS = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.5]])
LABELS = np.array([0, 1, 1])


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


class TestDice:
    def test_each_mask_counts_the_same(self):
        prediction = np.zeros((2, 10, 10), bool)
        target = np.zeros((2, 10, 10), bool)
        prediction[0], target[0] = True, True
        prediction[1, 0, 0], target[1, 9, 9] = True, True
        assert dice(prediction, target) == 0.5

    def test_two_empty_masks_agree(self):
        assert dice(np.zeros((4, 4)), np.zeros((4, 4))) == 1.0

    def test_empty_against_full_is_zero(self):
        assert dice(np.zeros((4, 4)), np.ones((4, 4))) == 0.0

    @pytest.mark.parametrize(
        "dtype", [bool, np.uint8, np.uint16, np.int64, np.float16, np.float64, ">f4"]
    )
    def test_any_dtype_and_read_only_memory(self, dtype):
        mask = np.array([[1, 0], [1, 1]]).astype(dtype)
        mask.setflags(write=False)
        assert dice(mask, torch.tensor([[1, 0], [0, 1]])) == pytest.approx(0.8)

    def test_leading_axes_are_averaged(self):
        prediction, target = rng().integers(0, 2, size=(2, 2, 3, 5, 5))
        assert dice(prediction, target) == pytest.approx(
            np.mean(
                [
                    dice(a, b)
                    for a, b in zip(
                        prediction.reshape(6, 5, 5), target.reshape(6, 5, 5), strict=True
                    )
                ]
            )
        )

    def test_probabilities_are_refused(self):
        with pytest.raises(
            ValueError, match=r"prediction must hold 0 and 1 or bool, got 0\.7.*Threshold"
        ):
            dice(np.array([[0.7]]), np.array([[1]]))

    def test_a_mask_of_255_is_refused(self):
        with pytest.raises(ValueError, match="target must hold 0 and 1 or bool, got 255"):
            dice(np.array([[1]]), np.array([[255]], np.uint8))

    def test_nan_is_refused(self):
        with pytest.raises(ValueError, match="got nan"):
            dice(np.array([[NAN]]), np.array([[1]]))

    def test_shapes_must_match(self):
        with pytest.raises(
            ValueError, match=r"must have the shape of target, \(2, 3\), got \(3, 2\)"
        ):
            dice(np.ones((3, 2)), np.ones((2, 3)))

    @pytest.mark.parametrize("shape", [(4,), (0, 4, 4), (2, 0, 4)])
    def test_no_pixels(self, shape):
        with pytest.raises(ValueError, match=r"prediction must be \[\.\.\., H, W\]"):
            dice(np.ones(shape), np.ones(shape))


class TestDecisions:
    def test_single_label(self):
        assert accuracy(LOGITS, LABELS) == pytest.approx(2 / 3)
        assert balanced_accuracy(LOGITS, LABELS) == pytest.approx(3 / 4)

    def test_equal_logits_decide_for_the_first_class(self):
        assert accuracy(np.zeros((2, 3)), np.array([0, 1])) == 0.5

    def test_multi_label_leaves_the_unknown_out(self):
        logits = np.array([[1.0, -1.0], [1.0, 1.0]])
        assert accuracy(logits, np.array([[1, NAN], [0, NAN]])) == 0.5
        assert accuracy(logits, np.array([[1, 1.0], [NAN, NAN]])) == 0.5

    def test_a_multi_label_logit_of_zero_says_no(self):
        assert accuracy(np.zeros((1, 3)), np.array([[0.0, 0.0, 1.0]])) == pytest.approx(2 / 3)

    def test_balanced_accuracy_leaves_absent_classes_out(self):
        assert balanced_accuracy(np.eye(3)[[0, 0, 1]], np.array([0, 0, 0])) == pytest.approx(2 / 3)

    def test_balanced_accuracy_multi_label(self):
        logits = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])
        labels = np.array([[1.0, 1.0, NAN], [0.0, 1.0, NAN], [0.0, NAN, NAN]])
        # Label 0 has sensitivity 1 and specificity 1/2. Label 1 has sensitivity 1 and no negative.
        # Label 2 is unknown.
        assert balanced_accuracy(logits, labels) == pytest.approx((0.75 + 1.0) / 2)

    @pytest.mark.parametrize("metric", [accuracy, balanced_accuracy, cross_entropy, auroc])
    def test_nothing_known_is_nan(self, metric):
        assert math.isnan(metric(np.zeros((2, 2)), np.full((2, 2), NAN)))

    def test_labels_may_be_whole_floats_or_bools(self):
        assert (
            accuracy(LOGITS, LABELS.astype(float))
            == accuracy(LOGITS, LABELS.astype(bool))
            == accuracy(LOGITS, LABELS)
        )

    def test_half_precision_and_gradients(self):
        logits = torch.tensor(LOGITS, dtype=torch.bfloat16, requires_grad=True)
        assert accuracy(logits, torch.tensor(LABELS)) == accuracy(LOGITS, LABELS)


class TestCrossEntropy:
    def test_formula(self):
        probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
        one_hot = np.eye(2)[LABELS]
        assert cross_entropy(LOGITS, LABELS) == pytest.approx(
            -(one_hot * np.log(probabilities)).sum() / 3
        )

    def test_huge_logits_stay_finite(self):
        assert cross_entropy(np.array([[1e4, 0.0]]), np.array([1])) == pytest.approx(1e4)
        assert cross_entropy(np.array([[1e4]]), np.array([[0.0]])) == pytest.approx(1e4)

    def test_multi_label_is_the_mean_over_known_labels(self):
        logits, labels = np.array([[0.0, 5.0, 0.0]]), np.array([[1.0, NAN, 0.0]])
        assert cross_entropy(logits, labels) == pytest.approx(math.log(2))


class TestAuroc:
    def test_one_class_alone_is_undefined(self):
        assert math.isnan(auroc(np.array([0.1, 0.2]), np.array([1, 1])))

    def test_constant_scores_are_chance(self):
        assert auroc(np.ones(5), np.array([0, 1, 0, 1, 1])) == 0.5

    def test_binary_takes_logits_and_probabilities_alike(self):
        logits = torch.tensor(rng().normal(size=(50, 2)))
        labels = rng().integers(0, 2, 50)
        assert (
            auroc(logits, labels)
            == auroc(logits.softmax(1), labels)
            == auroc(logits[:, 1] - logits[:, 0], labels)
        )

    def test_multi_class_takes_logits_and_probabilities_alike(self):
        logits = torch.tensor(rng().normal(size=(50, 4)))
        shifted = logits + torch.tensor(rng().normal(size=(50, 1))) * 10
        labels = rng().integers(0, 4, 50)
        assert (
            auroc(logits, labels)
            == auroc(logits.softmax(1), labels)
            == pytest.approx(auroc(shifted, labels))
        )

    def test_a_class_that_never_occurs_is_left_out(self):
        scores = np.eye(3)[[0, 1, 0, 1]]
        assert auroc(scores, np.array([0, 1, 0, 1])) == 1.0

    def test_multi_label_macro(self):
        scores = np.array([[0.1, 0.9, 0.3], [0.9, 0.1, 0.2], [0.5, 0.5, 0.1]])
        labels = np.array([[0, 0, 1.0], [1, 1, 1.0], [NAN, NAN, 1.0]])
        assert auroc(scores, labels) == 0.5

    def test_single_scores_take_single_labels(self):
        with pytest.raises(ValueError, match=r"labels must be \[B\] to fit scores \[B\]"):
            auroc(np.ones(3), np.ones((3, 2)))

    def test_single_scores_take_two_classes(self):
        with pytest.raises(
            ValueError, match="labels must be class numbers from 0 to 1, got 2 in row 2"
        ):
            auroc(np.ones(3), np.array([0, 1, 2]))


class TestCalibration:
    def test_a_confidence_on_an_edge_belongs_to_the_bin_below(self):
        probabilities, labels = np.array([[0.5, 0.5], [0.6, 0.4]]), np.array([0, 1])
        # There are two bins: (0, 0.5] holds one right answer, (0.5, 1] one wrong answer.
        assert expected_calibration_error(probabilities, labels, bins=2) == pytest.approx(
            (0.5 + 0.6) / 2
        )

    def test_multi_label_pools_the_known(self):
        probabilities, labels = np.array([[0.9, 0.2, 0.4]]), np.array([[1.0, 0.0, NAN]])
        assert expected_calibration_error(probabilities, labels, bins=10) == pytest.approx(
            (0.1 + 0.2) / 2
        )

    def test_logits_are_refused(self):
        with pytest.raises(
            ValueError, match=r"probabilities must be from 0 to 1, each row.*softmax first"
        ):
            expected_calibration_error(LOGITS, LABELS)
        with pytest.raises(ValueError, match="sigmoid first"):
            expected_calibration_error(LOGITS, np.eye(2)[LABELS])

    def test_rows_that_do_not_sum_to_one_are_refused(self):
        with pytest.raises(ValueError, match=r"first row summing to 0\.8"):
            expected_calibration_error(np.full((2, 2), 0.4), np.array([0, 1]))

    def test_half_precision_probabilities_pass(self):
        probabilities = torch.tensor(rng().normal(size=(200, 7))).softmax(1)
        labels = rng().integers(0, 7, 200)
        exact = expected_calibration_error(probabilities, labels, bins=1)
        assert expected_calibration_error(
            probabilities.bfloat16(), labels, bins=1
        ) == pytest.approx(exact, abs=2e-3)

    def test_bins(self):
        with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
            expected_calibration_error(np.eye(2), np.array([0, 1]), bins=0)


def test_weighted_form_of_a_foreign_metric_is_none():
    assert weighted_form(lambda scores, labels: 0.0, LOGITS, LABELS) is None


def test_import_loads_neither_sklearn_nor_statsmodels():
    code = (
        "import sys, mmfusion.metrics.bootstrap; "
        "loaded = {'sklearn', 'statsmodels'} & set(sys.modules); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
