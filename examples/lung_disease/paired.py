"""The gain of a model on segmented pictures over the same model on raw pictures.

The comparison is paired by sample, and its p-values are corrected for the number of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import logsumexp
from scipy.stats import rankdata

from mmfusion import accuracy, auroc, holm, paired_bootstrap

Logits = np.ndarray[Any, Any]
METRICS = {"accuracy": accuracy, "auroc": auroc}


def minus_raw(
    logits: Mapping[str, Logits | list[Logits]],
    raw: Mapping[str, Logits | list[Logits]],
    labels: np.ndarray[Any, Any],
    groups: Sequence[str],
) -> dict[str, Any]:
    """Returns the differences of accuracy and AUROC, segmented minus raw.

    Each difference comes with its 95 % interval, resampled by patient, and with its p-value.

    Args:
        logits: the scores [B, C] on segmented pictures, under the keys "accuracy" and "auroc". The
            two metrics may be computed from different scores. A list has one array for each
            training.
        raw: the same for raw pictures.
        labels: the classes [B].
        groups: the patient of each sample, B of them.
    """
    differences: dict[str, Any] = {}
    for name, metric in METRICS.items():
        gain = paired_bootstrap(metric, logits[name], raw[name], labels, groups=groups)
        ends = {"": gain.difference, "_low": gain.low, "_high": gain.high, "_p": gain.p_value}
        differences |= {f"{name}_minus_raw{end}": value for end, value in ends.items()}
    return differences


def add_holm(rows: Sequence[dict[str, Any]]) -> None:
    """Adds the Holm-corrected p-value of the accuracy gain to each row that has a p-value.

    The correction is needed because among many tests one p-value is small by chance. The rows are
    changed in place.

    Example:
        >>> rows = [{"accuracy_minus_raw_p": p} for p in (0.01, 0.04, 0.03)] + [{}]
        >>> add_holm(rows)
        >>> [round(row.get("accuracy_minus_raw_p_holm", 1), 3) for row in rows]
        [0.03, 0.06, 0.06, 1]
    """
    tested = [row for row in rows if "accuracy_minus_raw_p" in row]
    if tested:
        corrected = holm([row["accuracy_minus_raw_p"] for row in tested])
        for row, p in zip(tested, corrected, strict=True):
            row["accuracy_minus_raw_p_holm"] = p


def ranked_within(logits: Logits, folds: Sequence[np.ndarray[Any, Any]]) -> Logits:
    """Returns the rank of each score within its fold, divided by the fold's size [B, C].

    Each fold has a model of its own, and the logits of different models are not on one scale. The
    AUROC over all folds at once is therefore taken from these ranks. Equal scores share a rank.

    Args:
        logits: the logits of all samples [B, C].
        folds: the indices of the samples of each fold.

    Example:
        >>> logits = np.array([[0.0, 5.0], [0.0, 900.0], [0.0, -7.0], [0.0, -8.0]])
        >>> ranked_within(logits, [np.array([0, 1]), np.array([2, 3])])[:, 1].tolist()
        [0.5, 1.0, 1.0, 0.5]
    """
    shares = np.zeros_like(logits, dtype=np.float64)
    # Log-odds instead of probabilities: large probabilities round to 1, and samples of different
    # certainty would share a rank.
    values = np.asarray(logits, dtype=np.float64)
    others = [
        logsumexp(np.delete(values, column, axis=1), axis=1) for column in range(values.shape[1])
    ]
    evidence = values - np.stack(others, axis=1)
    # Divided by the size of the fold, so that folds of different size are on one scale.
    for rows in folds:
        shares[rows] = rankdata(evidence[rows], axis=0) / len(rows)
    return shares
