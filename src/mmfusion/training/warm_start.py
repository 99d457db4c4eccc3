"""The warm start: every probe of a classifier is solved before the training begins.

A probe is a linear classifier of pooled vectors (`Probe`). With the features that the encoders give
now, its best weights are the solution of a regularised regression, which `regression.py` computes.
For encoders that train, this is linear probing before fine-tuning (Kumar et al. 2022, arXiv
2202.10054).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import datasets
import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.utils import logging

from ..data.splits import fold_indices
from ..model.fusion_base import Fusion, Probe
from ..model.fusion_guarded import Guarded
from ..model.graph import evaluating
from ..model.loss import LossOptions, classification_loss, loss_options
from ..model.modalities import MODALITIES
from ..model.modeling import FusionClassifier
from .balance import weighted_prior
from .regression import Solution, solve

logger = logging.get_logger(__name__)

FOLDS = 5
"""The folds of the cross-validation that chooses the strength of the regularisation."""
_POOL_START, _POOL_STRENGTH = 0.5, 1e-3


@final
@dataclass(frozen=True)
class WarmStart:
    """The outcome of a warm start.

    Attributes:
        strengths: the strength of the regularisation of each probe, by the probe's name.
        scales: the factor of each modality's features in the regularisation of each probe.
        logits: the classifier's logits [B, C] of the rows, each from probes that were solved
            without the row's fold. None if the logits are more than what the probes give.
        labels: the labels of the rows.
    """

    strengths: Mapping[str, float]
    scales: Mapping[str, tuple[float, ...]]
    logits: Tensor | None
    labels: Tensor


@final
@dataclass(frozen=True)
class _Gathered:
    """What the classifier gives for all rows.

    Attributes:
        features: the input of each probe's linear layer [B, F], by the probe's name.
        labels: the labels of the rows.
    """

    features: Mapping[str, Tensor]
    labels: Tensor


def warm_start(
    model: FusionClassifier,
    rows: Any,
    collate: Any,
    source: datasets.Dataset,
    *,
    batch_size: int,
    seed: int = 0,
) -> WarmStart:
    """Solves every probe of the model in place, and sets the prior and weights of the strategy.

    Args:
        model: the classifier.
        rows: the rows as the Trainer reads them, not augmented.
        collate: their collator.
        source: the dataset of the same rows in the same order. Its columns `group` and `text` tell
            which rows must not be in different folds.
        batch_size: how many rows the model reads at once.
        seed: of the folds.
    """
    gathered = _gather(model, rows, collate, batch_size)
    folds = held_out_folds(source, seed)
    solutions: dict[str, Solution] = {}
    for name, probe in probes_of(model).items():
        solutions[name] = _solve_probe(probe, gathered, name, folds, model)
    strengths = {name: solution.strength for name, solution in solutions.items()}
    scales = {name: solution.scales for name, solution in solutions.items()}
    logger.info(f"Solved the probes; strength of the regularisation: {strengths}, {scales}.")
    held_out = {name: solution.held_out for name, solution in solutions.items()}
    logits = _combine(model, gathered, held_out)
    return WarmStart(strengths, scales, logits, gathered.labels)


def probes_of(model: FusionClassifier) -> dict[str, Probe]:
    """Returns the probes of a classifier by their names in it.

    Args:
        model: the classifier.
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, Probe)}


def _solve_probe(
    probe: Probe,
    gathered: _Gathered,
    name: str,
    folds: Sequence[np.ndarray[Any, Any]],
    model: FusionClassifier,
) -> Solution:
    """Returns the solution of one probe, whose held-out logits cover all rows, and sets it."""
    features = gathered.features[name]
    # The last columns say which modalities are absent. A row that has none of this probe's
    # modalities tells nothing about them.
    counted = (features[:, -len(probe.dims) :] == 0).any(1).numpy()
    weights = loss_options(model, model.config, training=False, device="cpu")
    places, ends = np.cumsum(counted) - 1, np.cumsum(probe.dims)
    solution = solve(
        features[counted],
        gathered.labels[counted],
        probe.out.out_features,
        [places[fold[counted[fold]]] for fold in folds if counted[fold].any()],
        blocks=[slice(end - dim, end) for dim, end in zip(probe.dims, ends, strict=True)],
        class_weights=weights["class_weights"],
        pos_weight=weights["pos_weight"],
    )
    with torch.no_grad():
        probe.out.weight.copy_(solution.weight)
        probe.out.bias.copy_(solution.bias)
    held_out = torch.zeros(len(features), probe.out.out_features)
    held_out[counted] = solution.held_out
    return replace(solution, held_out=held_out)


def _combine(
    model: FusionClassifier, gathered: _Gathered, held_out: Mapping[str, Tensor]
) -> Tensor | None:
    """Returns the held-out logits of the classifier, after its combination of answers has been set.

    The combination gets the prior of the rows, and `guarded` its weights.
    """
    if len(model.modalities) < 2:
        return held_out["head"]
    strategy: Fusion = model.fusion
    if not strategy.has_own_probes:
        return held_out["probe"]
    if not strategy.answers:
        return None
    device = model.device
    # The last feature of a probe of one modality is zero where the modality is present.
    present = torch.stack(
        [gathered.features[f"fusion.{name}_probe"][:, -1] == 0 for name in MODALITIES]
    ).to(device)
    scores = torch.stack([held_out[f"fusion.{name}"] for name in strategy.answers]).to(device)
    classes = scores.shape[-1]
    prior = _class_logs(gathered.labels, classes)
    with torch.no_grad():
        for name, buffer in strategy.named_buffers():
            if name == "log_prior":
                # The answers contain the prior as the weights of the loss change it.
                buffer.copy_(weighted_prior(model, prior))
            elif name == "log_absence":
                for row, here in zip(buffer, present.cpu(), strict=True):
                    row.copy_(_class_logs(gathered.labels[~here], classes, prior) - prior)
    if isinstance(strategy, Guarded):
        weights = loss_options(model, model.config, training=False, device=device)
        # The focal loss acts in epochs alone, as for the probes.
        weights["focal_gamma"] = 0.0
        _weigh(strategy, scores, present, gathered.labels.to(device), weights)
    with torch.no_grad():
        return strategy.combined(scores, present).cpu()


def _weigh(
    strategy: Guarded,
    scores: Tensor,
    present: Tensor,
    labels: Tensor,
    weights: LossOptions,
) -> None:
    """Sets the weights of the pool to those with the lowest loss on held-out answers.

    If one answer alone has a lower loss, it gets weight 1 and the others 0.
    """
    start = np.full(len(scores), _POOL_START)

    def loss(values: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        with torch.no_grad():
            strategy.weights.copy_(torch.from_numpy(values))
        strategy.weights.grad = None
        with torch.enable_grad():
            value = classification_loss(strategy.combined(scores, present), labels, **weights)
            value.backward()
        assert strategy.weights.grad is not None
        gradient = strategy.weights.grad.double().cpu().numpy()
        strategy.weights.grad = None
        return float(value.detach()), gradient

    def penalised(values: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        value, gradient = loss(values)
        distance = values - start
        return (
            value + _POOL_STRENGTH * float(distance @ distance),
            gradient + 2 * _POOL_STRENGTH * distance,
        )

    bounds = [(0.0, None)] * len(start)
    pooled = minimize(penalised, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    best = min([pooled, *np.eye(len(start))], key=lambda values: loss(values)[0])
    with torch.no_grad():
        strategy.weights.copy_(torch.from_numpy(best))


def _class_logs(labels: Tensor, num_labels: int, prior: Tensor | None = None) -> Tensor:
    """Returns the log share of each class [C], or the log odds of each multi-label class.

    Counts are smoothed: one more sample per class is spread like the prior, or evenly without one.
    """
    if labels.is_floating_point():
        even = labels.new_full((num_labels,), 0.5) if prior is None else prior.sigmoid()
        known = ~labels.isnan()
        counts = torch.where(known, labels, 0).sum(0)
        return ((counts + 2 * even) / (known.sum(0) + 2)).logit()
    even = torch.full((num_labels,), 1 / num_labels) if prior is None else prior.exp()
    counts = torch.bincount(labels, minlength=num_labels)
    return ((counts + num_labels * even) / (len(labels) + num_labels)).log()


def held_out_folds(table: datasets.Dataset, seed: int) -> list[np.ndarray[Any, Any]]:
    """Returns the rows of each fold of a cross-validation; no group and no text is in two folds.

    If groups or equal texts tie too many rows together for that, equal texts may be separated. If
    that is not enough, groups may be separated too.

    Args:
        table: the training rows; the columns `group` and `text` may be absent.
        seed: of the folds.
    """
    if len(table) < 2:
        return [np.arange(len(table))]
    group, text = (name if name in table.column_names else None for name in ("group", "text"))
    count = min(FOLDS, len(table))
    for ties in ({"group": group, "text": text}, {"group": group, "text": None}):
        try:
            pairs = fold_indices(table, n=count, seed=seed, warns=False, **ties)
            return [test for _, test in pairs]
        except ValueError as error:
            logger.info(f"The folds of the warm start need fewer ties: {error}")
    return [test for _, test in fold_indices(table, n=count, seed=seed, group=None, text=None)]


@torch.no_grad()
def _gather(model: FusionClassifier, rows: Any, collate: Any, batch_size: int) -> _Gathered:
    """Returns the inputs of every probe, gathered in one pass over the rows."""
    parts: dict[str, list[Tensor]] = {name: [] for name in probes_of(model)}
    labels: list[Tensor] = []

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            parts[name].append(inputs[0].float().cpu())

        return hook

    hooks = [
        probe.out.register_forward_pre_hook(keep(name)) for name, probe in probes_of(model).items()
    ]
    try:
        with evaluating(model):
            for batch in DataLoader(rows, batch_size=batch_size, collate_fn=collate):
                labels.append(batch["labels"])
                model(**{name: value.to(model.device) for name, value in batch.items()})
    finally:
        for hook in hooks:
            hook.remove()
    features = {name: torch.cat(tensors) for name, tensors in parts.items()}
    return _Gathered(features, torch.cat(labels))
