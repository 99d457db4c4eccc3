"""The figures of a comparison: metrics, choices on held-out answers, differences and shares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from ..metrics.bootstrap import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    paired_bootstrap,
)
from ..metrics.functional import METRICS, auroc, cross_entropy, expected_calibration_error
from ..metrics.tests import holm
from .compare_baselines import Array
from .compare_folds import Part, joined
from .compare_rows import ComparisonRow
from .evaluate import as_probabilities

Outcomes = Mapping[str, Sequence[Sequence[dict[str, Any]]]]
"""Name of a row -> seed -> fold -> the outcome of the training."""


@final
@dataclass(frozen=True)
class Answers:
    """What the rows answered, and what is true.

    Attributes:
        outcomes: of each row, seed and fold.
        parts: the folds of each seed.
        labels: the truth, [B] or [B, C].
        groups: the group (patient) of each sample.
        resamples: of the bootstrap.
    """

    outcomes: Outcomes
    parts: Sequence[Sequence[Part]]
    labels: Array
    groups: Sequence[str]
    resamples: int

    def logits(self, name: str, key: str = "logits") -> list[Array]:
        """Returns the logits of all samples [B, C], one array for each seed.

        Args:
            name: of a row.
            key: as for `joined`.
        """
        return [
            joined(outcomes, parts, key)
            for outcomes, parts in zip(self.outcomes[name], self.parts, strict=True)
        ]

    def of_choice(self, names: Sequence[Sequence[str]]) -> list[Array]:
        """Returns the logits of all samples [B, C], one array for each seed, of chosen rows.

        Args:
            names: of the row for each seed and fold.
        """
        return [
            joined([self.outcomes[name][seed][fold] for fold, name in enumerate(chosen)], parts)
            for seed, (chosen, parts) in enumerate(zip(names, self.parts, strict=True))
        ]

    def uncalibrated(self, row: ComparisonRow) -> list[Array]:
        """Returns the logits as they were before the temperature divided them."""
        return [
            joined(
                [
                    one | {"logits": np.asarray(one["logits"]) * one["temperature"]}
                    for one in outcomes
                ],
                parts,
            )
            for outcomes, parts in zip(self.outcomes[row.name], self.parts, strict=True)
        ]

    def interval(self, metric: Any, scores: list[Array]) -> Interval:
        """Returns a metric with its interval, which resamples groups and trainings."""
        return bootstrap_interval(
            metric, scores, self.labels, groups=self.groups, resamples=self.resamples
        )

    def difference(self, first: list[Array], second: list[Array]) -> PairedDifference:
        """Returns the difference of two models in AUROC, paired by sample and training."""
        return paired_bootstrap(
            auroc, first, second, self.labels, groups=self.groups, resamples=self.resamples
        )

    def probabilities(self, logits: Array) -> Array:
        """Returns the softmax of single-label logits, or the sigmoid of multi-label logits."""
        return as_probabilities(logits, multi_label=self.labels.ndim == 2)


@final
@dataclass(frozen=True)
class Choice:
    """The rows that were chosen on held-out answers.

    Attributes:
        logits: of all samples [B, C], one array for each seed; each sample has the answer of the
            row that was chosen in the fold in which it was tested.
        names: of the chosen rows, by seed and fold.
    """

    logits: list[Array]
    names: list[list[str]]


def choose(answers: Answers, rows: Sequence[ComparisonRow]) -> Choice:
    """Returns in each fold the row with the highest AUROC on the rows that none was trained on.

    Rows whose AUROC is undefined or equal are ordered by their cross-entropy.

    Args:
        answers: of the comparison.
        rows: to choose from, at least one.
    """
    names = []
    for seed, parts in enumerate(answers.parts):
        chosen: list[str] = []
        for number in range(len(parts)):
            found = {row.name: answers.outcomes[row.name][seed][number] for row in rows}
            # Rows that train in epochs answered the validation part alone.
            common = set.intersection(*(set(one["held_out_rows"]) for one in found.values()))
            ranks = {name: _rank(one, common, answers.labels) for name, one in found.items()}
            chosen.append(max(ranks, key=lambda name: ranks[name]))
        names.append(chosen)
    return Choice(answers.of_choice(names), names)


def _rank(outcome: Mapping[str, Any], common: set[int], labels: Array) -> tuple[float, float]:
    """Returns AUROC and negative cross-entropy of the held-out answers to the common rows."""
    asked = np.asarray(outcome["held_out_rows"])
    kept = np.asarray([row in common for row in asked])
    logits, truth = np.asarray(outcome["held_out"])[kept], labels[asked[kept]]
    return float(np.nan_to_num(auroc(logits, truth), nan=-1)), -cross_entropy(logits, truth)


def summarise(answers: Answers, rows: Sequence[ComparisonRow]) -> dict[str, Any]:
    """Returns the rows and the choice of a comparison, as they are written to results.json.

    Args:
        answers: of the comparison.
        rows: in the order of the table.
    """
    singles = [row for row in rows if row.is_single]
    fused = [row for row in rows if row.is_fused]
    single = choose(answers, singles) if singles else None
    table = [_figures(answers, row) for row in rows]
    if single is not None:
        for row, entry in zip(rows, table, strict=True):
            if singles != [row]:
                entry["minus_single"] = _told(
                    answers.difference(answers.logits(row.name), single.logits)
                )
    tested = [entry for entry in table if len(entry["modalities"]) == 2 and "minus_single" in entry]
    # Among many tests one p-value is small by chance.
    if tested:
        corrected = holm([entry["minus_single"]["p"] for entry in tested])
        for entry, p in zip(tested, corrected, strict=True):
            entry["minus_single"]["p_holm"] = p
    choice = None
    if single is not None and fused:
        chosen = choose(answers, fused)
        choice = {
            "single": _chosen(answers, single),
            "fused": _chosen(answers, chosen),
            "difference": _told(answers.difference(chosen.logits, single.logits)),
            "fused_minus": {
                row.name: _told(answers.difference(chosen.logits, answers.logits(row.name)))
                for row in rows
                if not row.is_fused and row.modalities
            },
        }
    return {"rows": table, "choice": choice}


def _figures(answers: Answers, row: ComparisonRow) -> dict[str, Any]:
    """Returns the entry of one row."""
    logits = answers.logits(row.name)
    outcomes = [outcome for seed in answers.outcomes[row.name] for outcome in seed]
    entry: dict[str, Any] = {
        "name": row.name,
        "modalities": list(row.modalities),
        **row.options(),
        **_metrics(answers, logits),
        "ece_uncalibrated": answers.interval(
            expected_calibration_error,
            [answers.probabilities(a) for a in answers.uncalibrated(row)],
        ).estimate,
        "seconds": float(np.mean([outcome["seconds"] for outcome in outcomes])),
        "parameters": int(outcomes[0]["parameters"]),
        "published": row.published,
    }
    if row.is_fused:
        # Where the text is withheld, the image alone is seen.
        entry["shares"] = shapley(
            image=_mean_auroc(answers, answers.logits(row.name, "text")),
            text=_mean_auroc(answers, answers.logits(row.name, "image")),
            both=_mean_auroc(answers, logits),
        )
    return entry


def shapley(image: float, text: float, both: float, none: float = 0.5) -> dict[str, float]:
    """Returns the Shapley value of each modality, in AUROC.

    The value of a modality is the mean of what it adds alone, and of what it adds to the other one.
    The two values add up to `both` - `none`.

    Args:
        image: the AUROC of the fused model with the text withheld.
        text: with the image withheld.
        both: with both modalities.
        none: with neither; all samples then have the same answer.

    Source:
        Shapley 1953, A value for n-person games, with n = 2.

    Example:
        >>> values = shapley(image=0.7, text=0.8, both=0.9)
        >>> round(values["image"], 2), round(values["text"], 2)
        (0.15, 0.25)
    """
    return {
        "image": ((image - none) + (both - text)) / 2,
        "text": ((text - none) + (both - image)) / 2,
        "image_alone": image,
        "text_alone": text,
    }


def _mean_auroc(answers: Answers, logits: list[Array]) -> float:
    return float(np.mean([auroc(one, answers.labels) for one in logits]))


def _metrics(answers: Answers, logits: list[Array]) -> dict[str, Any]:
    """Returns every metric of the table `METRICS` with its interval."""
    return {
        name: vars(
            answers.interval(
                metric.function,
                [
                    answers.probabilities(one) if metric.takes_probabilities else one
                    for one in logits
                ],
            )
        )
        for name, metric in METRICS.items()
    }


def _chosen(answers: Answers, choice: Choice) -> dict[str, Any]:
    """Returns the entry of a choice."""
    return {"names": choice.names, **_metrics(answers, choice.logits)}


def _told(difference: PairedDifference) -> dict[str, float]:
    """Returns a difference as it is written to results.json."""
    told = vars(difference)
    return {
        "estimate": told["difference"],
        "low": told["low"],
        "high": told["high"],
        "p": told["p_value"],
    }
