"""The streaming classes: batches and processes together equal the metric of the whole."""

import math

import numpy as np
import pytest
import torch

from mmfusion.metrics.functional import accuracy, cross_entropy, dice
from mmfusion.metrics.streaming import Accuracy, CrossEntropy, Dice

NAN = float("nan")


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


STREAMS = [
    (Dice, dice, (rng().integers(0, 2, (7, 4, 4)), rng().integers(0, 2, (7, 4, 4)))),
    (Accuracy, accuracy, (rng().normal(size=(7, 3)), rng().integers(0, 3, 7))),
    (CrossEntropy, cross_entropy, (rng().normal(size=(7, 3)), rng().integers(0, 3, 7))),
    (Accuracy, accuracy, (rng().normal(size=(7, 3)), rng().choice([0, 1, NAN], (7, 3)))),
    (CrossEntropy, cross_entropy, (rng().normal(size=(7, 3)), rng().choice([0, 1, NAN], (7, 3)))),
]


@pytest.mark.parametrize(("metric_class", "function", "data"), STREAMS)
class TestStreaming:
    def test_batches_of_unequal_size_equal_the_whole(self, metric_class, function, data):
        metric = metric_class()
        for batch in (slice(0, 1), slice(1, 5), slice(5, 7)):
            metric.update(*(torch.tensor(values[batch]) for values in data))
        assert metric.compute().item() == pytest.approx(function(*data), abs=1e-12)

    def test_processes_with_unequal_shares_equal_the_whole(self, metric_class, function, data):
        shares = []
        for batch in (slice(0, 2), slice(2, 7)):
            shares.append(metric_class())
            shares[-1].update(*(values[batch] for values in data))
        first, second = shares
        states = {id(getattr(first, name)): getattr(second, name) for name in ("total", "count")}
        first.dist_sync_fn = lambda state, group: [state, states[id(state)]]
        first.distributed_available_fn = lambda: True
        assert first.compute().item() == pytest.approx(function(*data), abs=1e-12)

    def test_reset_forgets(self, metric_class, function, data):
        metric = metric_class()
        metric.update(*(values[:3] for values in data))
        metric.reset()
        metric.update(*data)
        assert metric.compute().item() == pytest.approx(function(*data), abs=1e-12)

    def test_forward_returns_the_batch_value(self, metric_class, function, data):
        metric = metric_class()
        metric(*(values[:3] for values in data))
        batch = [values[3:] for values in data]
        assert metric(*batch).item() == pytest.approx(function(*batch), abs=1e-12)


def test_a_stream_in_which_nothing_was_known_is_nan():
    metric = Accuracy()
    metric.update(np.zeros((2, 2)), np.full((2, 2), NAN))
    assert math.isnan(metric.compute().item())
