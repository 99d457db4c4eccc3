"""Regularised regression, compared with scikit-learn at the strength that was chosen."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from mmfusion.model.loss import classification_loss
from mmfusion.training import regression
from mmfusion.training.regression import STRENGTHS, _loss_and_slope, solve


def samples(rows: int, width: int, classes: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((rows, width))
    scores = x @ generator.standard_normal((width, classes)) / np.sqrt(width)
    y = (scores + generator.gumbel(size=scores.shape)).argmax(1)
    return torch.from_numpy(x), torch.from_numpy(y)


def five(rows: int) -> list[np.ndarray]:
    return [np.arange(start, rows, 5) for start in range(5)]


def by_scikit_learn(x, y, strength: float, class_weights=None) -> LogisticRegression:
    # scikit-learn minimises C sum(loss) + |W|^2 / 2, which is ours for C = 1 / (rows * strength).
    return LogisticRegression(
        C=1 / (len(x) * strength), tol=1e-10, max_iter=20_000, class_weight=class_weights
    ).fit(x, y)


@pytest.mark.parametrize("width", [7, 300])
def test_it_is_the_softmax_regression_of_scikit_learn(width: int) -> None:
    """With fewer and with more features than rows."""
    x, y = samples(120, width, 3)
    solution = solve(x, y, 3, five(120))
    reference = by_scikit_learn(x, y, solution.strength)
    np.testing.assert_allclose(solution.weight, reference.coef_, atol=2e-5)
    # A constant added to all biases changes no probability.
    centred = solution.bias - solution.bias.mean()
    np.testing.assert_allclose(
        centred, reference.intercept_ - reference.intercept_.mean(), atol=2e-5
    )


def test_class_weights_scale_the_loss_of_a_class() -> None:
    x, y = samples(150, 6, 3)
    weights = torch.tensor([0.5, 1.0, 3.0])
    solution = solve(x, y, 3, five(150), class_weights=weights)
    reference = by_scikit_learn(x, y, solution.strength, dict(enumerate(weights.double().tolist())))
    np.testing.assert_allclose(solution.weight, reference.coef_, atol=2e-5)


def test_positives_of_each_label_are_weighed() -> None:
    x, _ = samples(120, 5, 3)
    generator = np.random.default_rng(4)
    y = torch.from_numpy((generator.random((120, 2)) < [0.1, 0.6]).astype(np.float32))
    y[::6, 1] = float("nan")
    pos_weight = torch.tensor([9.0, 0.5])
    solution = solve(x, y, 2, five(120), pos_weight=pos_weight)
    known = int((~y.isnan()).sum())
    for label in range(2):
        rows = ~y[:, label].isnan()
        reference = LogisticRegression(
            C=1 / (known * solution.strength),
            tol=1e-10,
            max_iter=5000,
            class_weight={0: 1.0, 1: float(pos_weight[label])},
        ).fit(x[rows], y[rows, label].int())
        np.testing.assert_allclose(solution.weight[label], reference.coef_[0], atol=2e-5)
        np.testing.assert_allclose(solution.bias[label], reference.intercept_[0], atol=2e-5)


def test_multi_label_is_one_logistic_regression_per_class_on_its_known_rows() -> None:
    x, _ = samples(100, 5, 3)
    generator = np.random.default_rng(3)
    y = torch.from_numpy((generator.random((100, 2)) < 0.4).astype(np.float32))
    y[::7, 0] = float("nan")
    solution = solve(x, y, 2, five(100))
    known = int((~y.isnan()).sum())
    for label in range(2):
        rows = ~y[:, label].isnan()
        reference = LogisticRegression(C=1 / (known * solution.strength), tol=1e-10, max_iter=5000)
        reference.fit(x[rows], y[rows, label].int())
        np.testing.assert_allclose(solution.weight[label], reference.coef_[0], atol=2e-5)
        np.testing.assert_allclose(solution.bias[label], reference.intercept_[0], atol=2e-5)


def test_the_strength_has_the_lowest_loss_on_held_out_folds() -> None:
    x, y = samples(90, 40, 3, seed=5)
    folds = five(90)
    solution = solve(x, y, 3, folds)
    losses = {}
    for strength in STRENGTHS:
        logits = np.zeros((90, 3))
        for fold in folds:
            kept = np.setdiff1d(np.arange(90), fold)
            reference = by_scikit_learn(x[kept], y[kept], strength)
            logits[fold] = reference.predict_log_proba(x[fold])
        losses[strength] = float(F.cross_entropy(torch.from_numpy(logits), y))
        if strength == solution.strength:
            ours = F.log_softmax(solution.held_out.double(), dim=1)
            np.testing.assert_allclose(ours, logits, atol=0.02)
    assert solution.strength == min(losses, key=losses.__getitem__)


def test_without_a_signal_the_strongest_is_chosen_and_with_a_clear_one_a_weak_one() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 50, generator=generator)
    y = torch.randint(0, 2, (200,), generator=generator)
    assert solve(noise, y, 2, five(200)).strength == STRENGTHS[0]
    clear = torch.cat([noise[:, :3], 5 * F.one_hot(y)], dim=1)
    assert solve(clear, y, 2, five(200)).strength <= 0.001


def test_folds_must_hold_every_row_once() -> None:
    x, y = samples(20, 3, 2)
    with pytest.raises(ValueError, match="folds must hold each of the 20 rows once, got 19"):
        solve(x, y, 2, [np.arange(10), np.arange(10, 19)])


def test_a_block_without_a_signal_is_regularised_more_strongly() -> None:
    """The result is scikit-learn's on scaled columns, with a lower held-out loss than without."""
    x, y = samples(200, 8, 3, seed=2)
    noise = torch.from_numpy(np.random.default_rng(7).standard_normal((200, 120)))
    both = torch.cat([x, noise], dim=1)
    blocks = [slice(0, 8), slice(8, 128)]
    plain = solve(both, y, 3, five(200))
    solution = solve(both, y, 3, five(200), blocks=blocks)
    assert solution.scales[0] == 1 > solution.scales[1]
    losses = [float(F.cross_entropy(one.held_out, y)) for one in (solution, plain)]
    assert losses[0] < losses[1] - 0.02
    scale = np.repeat(solution.scales, [8, 120])
    reference = by_scikit_learn(both.numpy() * scale, y, solution.strength)
    np.testing.assert_allclose(solution.weight, reference.coef_ * scale, atol=2e-5)


def test_blocks_that_tell_equally_much_keep_their_scale() -> None:
    x, y = samples(200, 16, 3, seed=4)
    assert solve(x, y, 3, five(200), blocks=[slice(0, 8), slice(8, 16)]).scales == (1.0, 1.0)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_slope_are_those_of_autograd(multi_label: bool, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = (5 * torch.randn(30, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    if multi_label:
        target = (torch.rand(30, 4, generator=generator) < 0.5).double()
        target[::3, 1] = float("nan")
    else:
        target = torch.randint(4, (30,), generator=generator)
    weights = torch.tensor([0.5, 1.0, 2.0, 0.1], dtype=torch.float64) if weighted else None
    positives = None
    if weighted and multi_label:
        positives = torch.tensor([3.0, 0.25, 1.0, 7.0], dtype=torch.float64)
    loss = classification_loss(logits, target, weights, pos_weight=positives)
    (expected,) = torch.autograd.grad(loss, logits)
    got, slope = _loss_and_slope(logits.detach(), target, weights, positives)
    torch.testing.assert_close(got, loss.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(slope, expected, rtol=1e-10, atol=1e-14)


def test_the_same_problem_is_solved_once_and_a_changed_one_anew(monkeypatch) -> None:
    x, y = samples(60, 5, 2, seed=8)
    first = solve(x, y, 2, five(60))
    solved = []
    own = regression._solve
    monkeypatch.setattr(regression, "_solve", lambda *a: solved.append(1) or own(*a))
    again = solve(x.clone(), y.clone(), 2, five(60))
    assert not solved and torch.equal(again.weight, first.weight)
    changed = [
        (x + 1e-9, y, five(60), {}),
        (x, 1 - y, five(60), {}),
        (x, y, five(60)[::-1], {}),
        (x, y, five(60), {"blocks": [slice(0, 2), slice(2, 5)]}),
        (x, y, five(60), {"class_weights": torch.tensor([1.0, 2.0])}),
    ]
    for number, (features, labels, folds, options) in enumerate(changed, start=1):
        solve(features, labels, 2, folds, **options)
        assert len(solved) == number
    assert len(regression._solved) <= regression._KEPT
