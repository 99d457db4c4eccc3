"""The temperature, compared with a search over a grid."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmfusion.training.calibrate import fit_temperature


@pytest.mark.parametrize("factor", [0.3, 1.0, 6.0])
@pytest.mark.parametrize("multi_label", [False, True])
def test_it_is_the_temperature_with_the_lowest_loss(factor: float, multi_label: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(800, 3, generator=generator)
    if multi_label:
        labels = torch.bernoulli(true.sigmoid(), generator=generator)
        labels[::5, 1] = float("nan")
    else:
        labels = torch.multinomial(true.softmax(1), 1, generator=generator)[:, 0]

    def loss(temperature: float) -> float:
        scaled = true.double() * factor / temperature
        penalty = np.log(temperature) ** 2 / (2 * 0.5**2) / len(true)
        if not multi_label:
            return float(F.cross_entropy(scaled, labels)) + penalty
        known = ~labels.isnan()
        return penalty + float(
            F.binary_cross_entropy_with_logits(scaled[known], labels[known].double())
        )

    got = fit_temperature(true * factor, labels)
    grid = np.geomspace(0.05, 20, 3001)
    best = grid[np.argmin([loss(temperature) for temperature in grid])]
    if factor == 1:
        # The gain over T = 1 is no more than chance.
        assert len(true) * (loss(1.0) - loss(best)) < 1.92
        assert got == 1
    else:
        assert got == pytest.approx(best, rel=2e-3)
    # The labels were drawn from `true`, so the right temperature is about the factor.
    assert got == pytest.approx(factor, rel=0.15)


def test_a_few_right_answers_are_no_reason_for_certainty() -> None:
    logits, labels = 2 * torch.eye(2), torch.tensor([0, 1])
    few, some, many = (
        fit_temperature(logits.repeat(n, 1), labels.repeat(n)) for n in (5, 50, 5000)
    )
    assert many < 0.3 < some < few == 1
