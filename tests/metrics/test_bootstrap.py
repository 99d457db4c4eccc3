"""Bootstrap intervals and paired bootstrap tests: definitions, groups, errors, coverage."""

import math
from functools import partial
from statistics import NormalDist

import numpy as np
import pytest
import torch

from mmfusion.metrics.bootstrap import Interval, bootstrap_interval, paired_bootstrap
from mmfusion.metrics.functional import (
    accuracy,
    auroc,
    balanced_accuracy,
    cross_entropy,
)

NAN = float("nan")


def sample(size: int = 60, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, size)
    return generator.normal(size=(size, classes)) + np.eye(classes)[labels], labels


class TestBootstrapInterval:
    def test_holds_the_estimate(self):
        logits, labels = sample()
        interval = bootstrap_interval(accuracy, logits, labels)
        assert interval.low < interval.estimate == accuracy(logits, labels) < interval.high

    def test_same_seed_same_interval(self):
        logits, labels = sample()
        assert bootstrap_interval(auroc, logits, labels) == bootstrap_interval(
            auroc, logits, labels
        )
        assert bootstrap_interval(auroc, logits, labels) != bootstrap_interval(
            auroc, logits, labels, seed=1
        )

    def test_groups_none_is_each_sample_its_own_group(self):
        logits, labels = sample()
        alone = bootstrap_interval(auroc, logits, labels, groups=np.arange(60))
        assert alone == bootstrap_interval(auroc, logits, labels)

    def test_one_group_alone_has_no_bounds(self):
        logits, labels = sample()
        interval = bootstrap_interval(accuracy, logits, labels, groups=["same"] * 60)
        assert interval.estimate == accuracy(logits, labels)
        assert math.isnan(interval.low) and math.isnan(interval.high)

    def test_copies_of_every_sample_in_its_group_change_nothing(self):
        logits, labels = sample()
        once = bootstrap_interval(accuracy, logits, labels)
        thrice = bootstrap_interval(
            accuracy,
            np.repeat(logits, 3, 0),
            np.repeat(labels, 3),
            groups=np.repeat(np.arange(60), 3),
        )
        assert (thrice.low, thrice.high) == (once.low, once.high)

    @pytest.mark.parametrize("kind", [list, np.array, tuple, partial(map, str)])
    def test_any_kind_of_group_names(self, kind):
        logits, labels = sample()
        names = np.repeat(np.arange(20), 3)
        assert bootstrap_interval(
            accuracy, logits, labels, groups=kind(names)
        ) == bootstrap_interval(accuracy, logits, labels, groups=torch.tensor(names))

    def test_an_undefined_metric_has_no_bounds(self):
        interval = bootstrap_interval(auroc, np.arange(4.0), np.ones(4))
        assert all(math.isnan(bound) for bound in (interval.estimate, interval.low, interval.high))

    def test_undefined_resamples_are_left_out(self):
        # Only one sample of three is positive, so about every third resample has no positive one.
        interval = bootstrap_interval(auroc, np.array([0.0, 1.0, 2.0]), np.array([0, 1, 0]))
        assert (interval.low, interval.high) == (0.0, 1.0)

    def test_a_metric_of_ones_own(self):
        logits, labels = sample()
        own = bootstrap_interval(
            lambda scores, truth: accuracy(scores, truth), logits, labels, resamples=200
        )
        assert own == bootstrap_interval(accuracy, logits, labels, resamples=200)

    def test_level(self):
        logits, labels = sample()
        wide, narrow = (
            bootstrap_interval(auroc, logits, labels, level=level) for level in (0.99, 0.5)
        )
        assert wide.low < narrow.low < narrow.high < wide.high

    def test_batches_of_resamples_do_not_matter(self, monkeypatch):
        logits, labels = sample()
        whole = bootstrap_interval(auroc, logits, labels, resamples=100)
        monkeypatch.setattr("mmfusion.metrics.bootstrap._WEIGHTS_AT_ONCE", 60 * 7)
        assert bootstrap_interval(auroc, logits, labels, resamples=100) == whole

    @pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
    def test_level_out_of_range(self, level):
        with pytest.raises(ValueError, match=f"level must be between 0 and 1, got {level}"):
            bootstrap_interval(accuracy, *sample(), level=level)

    def test_no_resamples(self):
        with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
            bootstrap_interval(accuracy, *sample(), resamples=0)

    def test_missing_group(self):
        with pytest.raises(ValueError, match=r"got None in row 1.*these 2 samples"):
            bootstrap_interval(accuracy, *sample(3), groups=["a", None, NAN])

    @pytest.mark.parametrize("groups", [np.arange(59), np.zeros((60, 2))])
    def test_groups_of_another_shape(self, groups):
        with pytest.raises(
            ValueError, match=r"groups must have one entry per sample, shape \(60,\), got"
        ):
            bootstrap_interval(accuracy, *sample(), groups=groups)

    def test_lengths_that_differ(self):
        logits, labels = sample()
        with pytest.raises(ValueError, match="same number of rows, at least 1, got 60 and 59"):
            bootstrap_interval(lambda scores, truth: 0.0, logits, labels[:-1])

    def test_readable(self):
        assert str(Interval(0.5, 0.25, 0.75)) == "0.500 (0.250 to 0.750)"


class TestCoverage:
    """The share of intervals that cover the truth.

    Over 400 simulations this share has a standard deviation of 0.011. A percentile interval on 100
    groups covers a little less than 95 %. The bounds 0.91 and 0.985 differ from 0.95 by 3 to 4
    standard deviations.
    """

    SIMULATIONS = 400

    def covered(self, draw, metric, truth: float) -> float:
        hits = 0
        for seed in range(self.SIMULATIONS):
            scores, labels, groups = draw(np.random.default_rng(seed))
            interval = bootstrap_interval(
                metric, scores, labels, groups=groups, resamples=300, seed=seed
            )
            hits += interval.low <= truth <= interval.high
        return hits / self.SIMULATIONS

    @staticmethod
    def clustered(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns 100 patients with 4 images each. The model is right on all of them or on none."""
        right = np.repeat(generator.random(100) < 0.7, 4)
        return np.eye(2)[right.astype(int)], np.ones(400, int), np.repeat(np.arange(100), 4)

    def test_accuracy_by_patient(self):
        assert 0.91 <= self.covered(self.clustered, accuracy, 0.7) <= 0.985

    def test_ignoring_the_patients_covers_too_little(self):
        def ungrouped(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, None]:
            scores, labels, _ = self.clustered(generator)
            return scores, labels, None

        # The interval has half of the necessary width: 1.96 / 2 standard deviations cover 67 %.
        assert self.covered(ungrouped, accuracy, 0.7) < 0.8

    def test_auroc(self):
        def draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, None]:
            labels = np.arange(100) % 2
            return generator.normal(size=100) + labels, labels, None

        assert 0.91 <= self.covered(draw, auroc, NormalDist().cdf(1 / math.sqrt(2))) <= 0.985


class TestPairedBootstrap:
    @pytest.mark.parametrize("metric", [accuracy, auroc, balanced_accuracy, cross_entropy])
    def test_the_same_model_twice(self, metric):
        logits, labels = sample()
        paired = paired_bootstrap(metric, logits, torch.tensor(logits), labels)
        assert (paired.difference, paired.low, paired.high, paired.p_value) == (0, 0, 0, 1)

    def test_swapping_the_models_changes_the_sign(self):
        first, labels = sample(seed=1)
        second = np.random.default_rng(2).normal(size=first.shape)
        there = paired_bootstrap(auroc, first, second, labels)
        back = paired_bootstrap(auroc, second, first, labels)
        assert there.difference == -back.difference > 0
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-12)
        assert there.p_value == back.p_value < 0.05

    def test_p_value_agrees_with_the_interval(self):
        for seed in range(20):
            first, labels = sample(seed=seed)
            second = first + np.random.default_rng(seed + 100).normal(size=first.shape)
            paired = paired_bootstrap(auroc, first, second, labels, level=0.8, resamples=999)
            if abs(paired.p_value - 0.2) > 0.01:
                assert (paired.low > 0 or paired.high < 0) == (paired.p_value < 0.2)

    def test_p_value_is_never_zero(self):
        _, labels = sample()
        paired = paired_bootstrap(
            accuracy, np.eye(2)[labels], np.eye(2)[1 - labels], labels, resamples=99
        )
        assert paired.p_value == pytest.approx(0.02)

    def test_null_p_values_are_near_uniform(self):
        # In 200 simulations under the null hypothesis, 10 % of the p-values are below 0.1. This
        # share has a standard deviation of 0.021.
        below = 0
        for seed in range(200):
            generator = np.random.default_rng(seed)
            labels = np.arange(100) % 2
            first, second = (generator.normal(size=100) + labels for _ in range(2))
            below += (
                paired_bootstrap(auroc, first, second, labels, resamples=200, seed=seed).p_value
                < 0.1
            )
        assert 0.03 < below / 200 < 0.19

    def test_one_group_alone_has_no_p_value(self):
        logits, labels = sample()
        assert math.isnan(
            paired_bootstrap(accuracy, logits, -logits, labels, groups=[0] * 60).p_value
        )

    def test_the_culprit_is_named(self):
        logits, labels = sample()
        with pytest.raises(
            ValueError, match="second does not suit the metric: logits must be finite, got 1 NaN"
        ):
            paired_bootstrap(
                accuracy, logits, np.where(np.arange(120).reshape(60, 2) == 7, NAN, logits), labels
            )

    def test_lengths_that_differ(self):
        logits, labels = sample()
        with pytest.raises(ValueError, match=r"second.*got 59 and 60"):
            paired_bootstrap(accuracy, logits, logits[:-1], labels)


class TestTrainings:
    def test_one_training_is_no_list(self):
        logits, labels = sample()
        assert bootstrap_interval(auroc, [logits], labels) == bootstrap_interval(
            auroc, logits, labels
        )
        other, _ = sample(seed=1)
        assert paired_bootstrap(auroc, [logits], [other], labels) == paired_bootstrap(
            auroc, logits, other, labels
        )

    def test_the_estimate_is_the_mean_over_trainings(self):
        logits, labels = sample()
        others = [logits, logits[:, ::-1], np.roll(logits, 1, 0)]
        interval = bootstrap_interval(accuracy, others, labels)
        assert interval.estimate == pytest.approx(np.mean([accuracy(o, labels) for o in others]))

    def test_equal_trainings_change_nothing(self):
        logits, labels = sample()
        many = bootstrap_interval(accuracy, [logits] * 4, labels)
        one = bootstrap_interval(accuracy, logits, labels)
        assert (many.estimate, many.low, many.high) == pytest.approx(
            (one.estimate, one.low, one.high)
        )

    def test_the_spread_is_that_of_patients_and_of_trainings(self):
        """The variances of a metric that is a sum of both are known."""
        generator = np.random.default_rng(0)
        labels = np.zeros(400, dtype=int)
        patients = generator.normal(size=400)
        trainings = generator.normal(scale=0.2, size=5)

        def mean_score(scores, _):
            return float(scores.mean())

        scores = [np.stack([patients + shift] * 2, axis=1) for shift in trainings]
        interval = bootstrap_interval(mean_score, scores, labels, resamples=4000)
        # The variance of a mean: of 400 patients, and of 5 trainings (unbiased).
        expected = np.sqrt(patients.var() / 400 + trainings.var(ddof=1) / 5)
        z = NormalDist().inv_cdf(0.975)
        assert (interval.high - interval.low) / (2 * z) == pytest.approx(expected, rel=0.05)

    def test_differences_are_paired_by_training(self):
        labels = np.array([0, 1] * 40)
        generator = np.random.default_rng(3)
        firsts = [generator.normal(size=(80, 2)) + s * np.eye(2)[labels] for s in (0.5, 2, 4)]
        # The same trainings in the same order: no resample differs.
        same = paired_bootstrap(auroc, firsts, firsts, labels)
        assert (same.difference, same.low, same.high) == (0, 0, 0)
        shifted = paired_bootstrap(auroc, firsts, firsts[1:] + firsts[:1], labels)
        assert shifted.difference == pytest.approx(0) and shifted.low < 0 < shifted.high

    def test_errors(self):
        logits, labels = sample()
        with pytest.raises(ValueError, match="scores must hold at least one training"):
            bootstrap_interval(auroc, [], labels)
        with pytest.raises(ValueError, match="same number of trainings, got 2 and 1"):
            paired_bootstrap(auroc, [logits, logits], [logits], labels)
        with pytest.raises(ValueError, match="second does not suit the metric"):
            paired_bootstrap(auroc, [logits], [logits[:3]], labels)
