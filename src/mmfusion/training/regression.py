"""Regularised softmax or logistic regression, solved to convergence.

The strength of the regularisation is chosen by cross-validation inside the rows that are passed.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..model.loss import classification_loss
from .digests import add_tensors

STRENGTHS = tuple(float(f"{10 ** (1 - step / 2):.3g}") for step in range(11))
"""The strengths that may be chosen, from strong to weak: 10 to 0.0001, two to a power of ten."""

SCALES = (1.0, 0.3, 0.1, 0.0)
"""The factors that the features of one modality may be multiplied by, relative to another's."""

_KEPT = 8
"""How many solutions are kept: one training has three probes at most, and others share some."""

_FIRST_TRIED = STRENGTHS[3]
# The largest entry of the gradient at which a search ends. A rough solution suffices to compare
# strengths: its loss differs from the exact one in the fourth decimal.
_ROUGH, _EXACT = 1e-3, 1e-7


@final
@dataclass(frozen=True)
class Solution:
    """The solution of a regression.

    Attributes:
        weight: [C, F].
        bias: [C].
        strength: the strength of the regularisation that was chosen.
        held_out: the logits of each row [B, C] from a solution that was found without its fold.
        scales: the factor of each block of features.
    """

    weight: Float[Tensor, "C F"]
    bias: Float[Tensor, " C"]
    strength: float
    held_out: Float[Tensor, "B C"]
    scales: tuple[float, ...] = ()


_Weights = tuple[Tensor | None, Tensor | None]
"""The class weights and the `pos_weight` of a problem."""

_solved: OrderedDict[bytes, Solution] = OrderedDict()
"""The last solutions, by the digest of their problem. `guarded` has the probes of other rows."""


def solve(
    features: Float[Tensor, "B F"],
    labels: Tensor,
    num_labels: int,
    folds: Sequence[np.ndarray[Any, Any]],
    *,
    blocks: Sequence[slice] = (),
    class_weights: Tensor | None = None,
    pos_weight: Tensor | None = None,
) -> Solution:
    """Returns the weights W, b that minimise loss(X W^T + b) + strength / 2 |W / s|^2.

    `loss` is the mean training loss (`classification_loss`): softmax regression for class indices,
    one logistic regression per class for multi-label labels. The strength with the lowest loss on
    held-out folds is chosen. From 0.316 on, weaker ones and then stronger ones are tried until the
    loss grows. The solution for the best strength is then computed on all rows, by L-BFGS in
    double precision and until the gradient is almost zero. So the result does not depend on a
    learning rate or a number of epochs. The last solutions are kept: the same problem is not solved
    twice in a row.

    s is 1, except for the columns of a block (a modality). A block that tells less than another one
    needs a stronger regularisation. So the scales of `SCALES` are tried for one block at a time, as
    long as the loss on held-out folds falls. At scale 0 the block is left out.

    Args:
        features: X [B, F].
        labels: int [B], or 1, 0, NaN float [B, C].
        num_labels: C.
        folds: the row numbers of each held-out fold. Together they are all rows.
        blocks: the columns of each modality.
        class_weights: as for `classification_loss` [C].
        pos_weight: as for `classification_loss` [C].

    Raises:
        ValueError: if the folds are not all rows, each once.

    Example:
        >>> x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
        >>> folds = [np.array([0, 2]), np.array([1, 3])]
        >>> solution = solve(x, torch.tensor([0, 0, 1, 1]), 2, folds)
        >>> (x @ solution.weight.T + solution.bias).argmax(1).tolist()
        [0, 0, 1, 1]
    """
    if not np.array_equal(np.sort(np.concatenate(list(folds))), np.arange(len(features))):
        raise ValueError(
            f"folds must hold each of the {len(features)} rows once, "
            f"got {sum(map(len, folds))} row numbers."
        )
    told = [[part.tolist() for part in folds], [(b.start, b.stop) for b in blocks], num_labels]
    key = _digest(told, [features, labels, class_weights, pos_weight])
    if key not in _solved:
        weights = class_weights, pos_weight
        _solved[key] = _solve(features, labels, num_labels, folds, blocks, weights)
        if len(_solved) > _KEPT:
            _solved.popitem(last=False)
    _solved.move_to_end(key)
    return _solved[key]


def _digest(told: object, tensors: Sequence[Tensor | None]) -> bytes:
    """Returns a digest of numbers and tensors."""
    digest = hashlib.sha256(repr(told).encode())
    given = [(place, one) for place, one in enumerate(tensors) if one is not None]
    add_tensors(digest, ((repr((place, one.shape, one.dtype)), one) for place, one in given))
    return digest.digest()


def _solve(
    features: Tensor,
    labels: Tensor,
    num_labels: int,
    folds: Sequence[np.ndarray[Any, Any]],
    blocks: Sequence[slice],
    weights: _Weights,
) -> Solution:
    """Returns the solution that `solve` describes."""
    scales = [1.0] * len(blocks)

    def search(
        scales: Sequence[float], first: float = _FIRST_TRIED
    ) -> tuple[_Problem, float, float, Tensor]:
        scale = features.new_ones(features.shape[1], dtype=torch.float64)
        for block, factor in zip(blocks, scales, strict=True):
            scale[block] = factor
        problem = _Problem(features, scale, labels, num_labels, weights)
        return problem, *_best_strength(problem, folds, first)

    best = search(scales)
    for block in range(len(blocks)) if len(blocks) > 1 else ():
        for factor in SCALES[1:]:
            others = [*scales[:block], factor, *scales[block + 1 :]]
            # Another scale asks for a similar strength.
            found = search(others, best[1])
            if found[2] >= best[2]:
                break
            best, scales = found, others
    problem, strength, _, held_out = best
    weight, bias = problem.minimum(np.arange(len(features)), strength, None, exact=True)
    weight = weight @ problem.axes.T * problem.scale
    return Solution(weight.float(), bias.float(), strength, held_out.float(), tuple(scales))


def _best_strength(
    problem: "_Problem", folds: Sequence[np.ndarray[Any, Any]], first: float
) -> tuple[float, float, Tensor]:
    """Returns the strength with the lowest loss on held-out folds, that loss, and the logits.

    The search begins at the strength `first`.
    """
    tried: dict[float, tuple[float, Tensor]] = {}
    place = STRENGTHS.index(first)
    for direction in (STRENGTHS[place:], STRENGTHS[place::-1]):
        # Each fold continues from its solution for the strength before.
        points: list[_Point | None] = [None] * len(folds)
        before = float("inf")
        for strength in direction:
            if strength not in tried:
                tried[strength] = problem.held_out(folds, strength, points)
            loss, _ = tried[strength]
            if loss > before:
                break
            before = loss
    strength = min(tried, key=lambda candidate: tried[candidate][0])
    return strength, *tried[strength]


_Point = tuple[Tensor, Tensor]


def _converted(weights: _Weights, dtype: torch.dtype) -> _Weights:
    class_weights, pos_weight = (one if one is None else one.to(dtype) for one in weights)
    return class_weights, pos_weight


@final
class _Problem:
    """A regression in the coordinates of the principal axes of its features.

    With `axes` [F, R] and X s = rotated @ axes^T, the minimum is the same, because |W|^2 does not
    change under a rotation. There are R <= min(B, F) coordinates. Each is divided by the square
    root of an estimate of its curvature, which lets L-BFGS end after few steps.
    """

    def __init__(
        self,
        features: Tensor,
        scale: Tensor,
        labels: Tensor,
        num_labels: int,
        weights: _Weights,
    ):
        self.scale = scale
        x = features.double() * scale
        if x.shape[0] < x.shape[1]:
            squares, left = torch.linalg.eigh(x @ x.T)
            kept = squares > squares.max() * 1e-12
            squares, left = squares[kept], left[:, kept]
            self.rotated = left * squares.sqrt()
            self.axes = x.T @ (left / squares.sqrt())
        else:
            squares, axes = torch.linalg.eigh(x.T @ x)
            kept = squares > squares.max() * 1e-12
            squares, self.axes = squares[kept], axes[:, kept]
            self.rotated = x @ self.axes
        self.curvature = squares / len(x) / 4
        self.num_labels = num_labels
        self.target = labels.double() if labels.is_floating_point() else labels.long()
        self.weights = _converted(weights, torch.float64)

    def held_out(
        self,
        folds: Sequence[np.ndarray[Any, Any]],
        strength: float,
        points: list[_Point | None],
    ) -> tuple[float, Tensor]:
        """Returns the loss and the logits [B, C] of all rows, each predicted without its fold.

        Args:
            folds: the rows of each fold.
            strength: of the regularisation.
            points: where the search of each fold begins. Its end is written here.
        """
        logits = self.rotated.new_zeros(len(self.rotated), self.num_labels)
        for number, fold in enumerate(folds):
            kept = np.setdiff1d(np.arange(len(logits)), fold)
            weight, bias = points[number] = self.minimum(kept, strength, points[number])
            logits[fold] = self.rotated[fold] @ weight.T.double() + bias.double()
        class_weights, pos_weight = self.weights
        loss = classification_loss(logits, self.target, class_weights, pos_weight=pos_weight)
        return float(loss), logits

    def minimum(
        self,
        rows: np.ndarray[Any, Any],
        strength: float,
        start: _Point | None,
        *,
        exact: bool = False,
    ) -> _Point:
        """Returns weight [C, R] and bias [C] for some of the rows."""
        dtype = torch.float64 if exact else torch.float32
        scale = (1 / (self.curvature + strength).sqrt()).to(dtype)
        x, target = self.rotated[rows].to(dtype) * scale, self.target[rows]
        weights = _converted(self.weights, dtype)
        penalty = strength * scale.square() / 2
        if start is None:
            weight, bias = x.new_zeros(self.num_labels, x.shape[1]), x.new_zeros(self.num_labels)
        else:
            weight, bias = start[0] / scale, start[1].clone()
        search = torch.optim.LBFGS(
            [weight, bias],
            max_iter=500 if exact else 100,
            tolerance_grad=_EXACT if exact else _ROUGH,
            tolerance_change=1e-12 if exact else 1e-7,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def objective() -> Tensor:
            loss, slope = _loss_and_slope(x @ weight.T + bias, target, *weights)
            weight.grad = slope.T @ x + 2 * penalty * weight
            bias.grad = slope.sum(0)
            return loss + (weight.square() * penalty).sum()

        search.step(objective)
        return weight * scale, bias


def _loss_and_slope(
    logits: Float[Tensor, "B C"],
    target: Tensor,
    class_weights: Tensor | None,
    pos_weight: Tensor | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "B C"]]:
    """Returns `classification_loss` and its gradient with respect to the logits.

    Autograd gives the same and takes several times as long for matrices as small as these.
    """
    if not target.is_floating_point():
        rows = torch.arange(len(target))
        logs = logits.log_softmax(1)
        weights = logits.new_ones(len(target)) if class_weights is None else class_weights[target]
        slope = logs.exp()
        slope[rows, target] -= 1
        weights = weights / len(target)
        return -(weights * logs[rows, target]).sum(), slope * weights[:, None]
    known = ~target.isnan()
    weights = known.to(logits.dtype) / known.sum().clamp(min=1)
    if class_weights is not None:
        weights = weights * class_weights
    answers = target.nan_to_num().to(logits.dtype)
    if pos_weight is not None:
        # A label is yes or no, so the weight of a positive is the weight of its whole loss.
        weights = weights * torch.where(answers == 1, pos_weight, pos_weight.new_ones(()))
    losses = functional.softplus(logits) - answers * logits
    return (weights * losses).sum(), weights * (logits.sigmoid() - answers)
