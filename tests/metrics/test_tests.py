"""McNemar's test and Holm's correction: definitions and errors."""

import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfusion.metrics.tests import holm, mcnemar

NAN = float("nan")


def sample(size: int = 60, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, size)
    return generator.normal(size=(size, classes)) + np.eye(classes)[labels], labels


class TestMcNemar:
    def test_counts(self):
        labels = np.zeros(10, int)
        first, second = np.eye(2)[[0] * 7 + [1] * 3], np.eye(2)[[1] * 5 + [0] * 4 + [1]]
        test = mcnemar(first, second, labels)
        assert (test.only_first, test.only_second) == (5, 2)
        assert test.p_value == pytest.approx(2 * (1 + 7 + 21) / 2**7)

    def test_no_discordant_sample(self):
        logits, labels = sample()
        test = mcnemar(logits, logits, labels)
        assert (test.only_first, test.only_second, test.p_value) == (0, 0, 1.0)

    def test_multi_label_is_refused(self):
        with pytest.raises(
            ValueError, match=r"labels must be \[B\] class numbers.*one label at a time"
        ):
            mcnemar(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros((3, 2)))

    def test_the_culprit_is_named(self):
        logits, labels = sample(2)
        with pytest.raises(ValueError, match="second must be finite"):
            mcnemar(logits, np.full((2, 2), NAN), labels)


def holm_by_formula(p_values: list[float]) -> list[float]:
    """Returns max_{j <= k} min(1, (m - j + 1) p_(j)) for the p-value of each rank k."""
    count = len(p_values)
    order = sorted(range(count), key=lambda index: p_values[index])
    adjusted = [0.0] * count
    for k in range(1, count + 1):
        terms = [min(1.0, (count - j + 1) * p_values[order[j - 1]]) for j in range(1, k + 1)]
        adjusted[order[k - 1]] = max(terms)
    return adjusted


class TestHolm:
    # Values of a few kinds make ties, and p-values that reach 1, common.
    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.sampled_from([0.0, 0.01, 0.3, 1.0]) | st.floats(0, 1), max_size=12))
    def test_is_its_formula(self, p_values):
        # statsmodels empties the memory at each call, which takes a second in a process of tests.
        with mock.patch("gc.collect"):
            found = holm(p_values)
        assert found == pytest.approx(holm_by_formula(p_values), abs=1e-12)

    def test_the_order_of_the_tests_is_kept(self):
        assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])

    def test_one_test_needs_no_correction(self):
        assert holm([0.2]) == [0.2]

    def test_no_test(self):
        assert holm([]) == []

    @pytest.mark.parametrize("value", [-0.01, 1.01, math.inf, NAN])
    def test_a_p_value_out_of_range(self, value):
        with pytest.raises(
            ValueError, match=rf"p_values must be in \[0, 1\], got {value} at place 1"
        ):
            holm([0.5, value])
