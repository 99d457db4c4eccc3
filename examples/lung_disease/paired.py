"""What a model on segmented pictures gains over the same model on raw ones: paired, and corrected for the number of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import logsumexp
from scipy.stats import rankdata

from mmfusion import accuracy, auroc, holm, paired_bootstrap

Logits = np.ndarray[Any, Any]
METRICS = {"accuracy": accuracy, "auroc": auroc}


def minus_raw(
    logits: dict[str, Logits],
    raw: dict[str, Logits],
    labels: np.ndarray[Any, Any],
    groups: Sequence[str],
) -> dict[str, Any]:
    """Returns the differences of accuracy and AUROC with their 95 % intervals by patient, and the p-value of each.

    Args:
        logits: "accuracy" and "auroc" -> what each is computed from [B, C], on segmented pictures.
        raw: the same on raw ones.
        labels: the classes [B].
        groups: the patients, B of them.
    """
    found: dict[str, Any] = {}
    for name, metric in METRICS.items():
        gain = paired_bootstrap(metric, logits[name], raw[name], labels, groups=groups)
        ends = {"": gain.difference, "_low": gain.low, "_high": gain.high, "_p": gain.p_value}
        found |= {f"{name}_minus_raw{end}": value for end, value in ends.items()}
    return found


def add_holm(rows: Sequence[dict[str, Any]]) -> None:
    """Add the p-values of the rows' accuracy gains after Holm's correction: among many tests one is small by chance.

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
    """Returns scores of which the AUROC can be taken over all folds at once: ranks within each fold, as shares of it [B, C].

    Each fold has a model of its own, and their logits are not on one scale. Ties share a rank.

    Args:
        logits: [B, C].
        folds: the indices of each fold.

    Example:
        >>> logits = np.array([[0.0, 5.0], [0.0, 900.0], [0.0, -7.0], [0.0, -8.0]])
        >>> ranked_within(logits, [np.array([0, 1]), np.array([2, 3])])[:, 1].tolist()
        [0.5, 1.0, 1.0, 0.5]
    """
    shares = np.zeros_like(logits, dtype=np.float64)
    # Log-odds of each class: probabilities would round to 1, and surer samples tie with less sure
    # ones.
    values = np.asarray(logits, dtype=np.float64)
    others = [
        logsumexp(np.delete(values, column, axis=1), axis=1) for column in range(values.shape[1])
    ]
    evidence = values - np.stack(others, axis=1)
    for rows in folds:
        shares[rows] = rankdata(evidence[rows], axis=0) / len(rows)
    return shares
