"""The test of two models on the same samples, and the correction for several tests at once."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from .weighted import Array, judge, read_samples

# With fewer discordant samples the chi-square approximation of McNemar's test is not good.
_EXACT_BELOW = 25


@final
@dataclass(frozen=True)
class McNemar:
    """The counts of the samples on which only one of two models is right, and their test.

    Attributes:
        only_first: the number of samples that only the first model gets right.
        only_second: the number of samples that only the second model gets right.
        statistic: the smaller of these counts in the exact test, else chi-square with continuity
            correction.
        p_value: two-sided.
    """

    only_first: int
    only_second: int
    statistic: float
    p_value: float


def mcnemar(first: Array, second: Array, labels: Array) -> McNemar:
    """Returns McNemar's test of whether two classifiers are right equally often.

    The test uses the discordant samples, on which only one model is right. It is exact (binomial)
    if they are fewer than 25, else chi-square with continuity correction. Without a discordant
    sample the p-value is 1. The test assumes that samples are independent. If a patient has several
    samples, use `paired_bootstrap` with groups.

    Args:
        first: logits or probabilities of the first model, finite.
        second: those of the second model, for the same samples in the same order.
        labels: class numbers.

    Shape:
        first and second `[B, C]`; labels `[B]`.

    Raises:
        TypeError: if an argument is not an array of numbers.
        ValueError: if shapes do not fit, a logit is not finite, or a label is out of range or
            multi-label.
        ImportError: if statsmodels is not installed (extra `report`).

    Source:
        McNemar 1947, Psychometrika 12:153; Edwards 1948, Psychometrika 13:185 (the correction).

    Example:
        >>> import numpy as np
        >>> labels = np.array([0, 0, 1, 1])
        >>> mcnemar(np.eye(2)[[0, 0, 1, 1]], np.eye(2)[[0, 1, 0, 1]], labels)
        McNemar(only_first=2, only_second=0, statistic=0.0, p_value=0.5)
    """
    right = []
    for name, scores in (("first", first), ("second", second)):
        values, truth = read_samples(name, scores, labels)
        if truth.ndim != 1:
            raise ValueError(
                f"labels must be [B] class numbers, got shape {tuple(truth.shape)}. "
                "Test one label at a time."
            )
        right.append(judge(values, truth)[0][:, 0].bool())
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    exact = only_first + only_second < _EXACT_BELOW
    contingency_tables = _statsmodels("contingency_tables")
    # The cells on the diagonal may be 0, because the test uses only the discordant ones.
    test = contingency_tables.mcnemar(
        [[0, only_first], [only_second, 0]], exact=exact, correction=True
    )
    return McNemar(only_first, only_second, float(test.statistic), float(test.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values after Holm's correction for several tests, in their order.

    With m tests and the p-values sorted upwards, p_(k) becomes max_{j <= k} min(1, (m - j + 1)
    p_(j)). The probability that any true null hypothesis is rejected is then at most the level. An
    empty sequence gives an empty list.

    Args:
        p_values: one per test, in [0, 1].

    Raises:
        ValueError: if a p-value is out of range or NaN.
        ImportError: if statsmodels is not installed (extra `report`).

    Source:
        Holm 1979, Scandinavian Journal of Statistics 6:65; done by statsmodels.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    for index, p_value in enumerate(p_values):
        if not 0 <= p_value <= 1:
            raise ValueError(f"p_values must be in [0, 1], got {p_value!r} at place {index}.")
    # statsmodels does not accept an empty sequence.
    if not len(p_values):
        return []
    multitest = _statsmodels("multitest")
    return [float(p_value) for p_value in multitest.multipletests(list(p_values), method="holm")[1]]


def _statsmodels(module: str) -> Any:
    """Returns a module of `statsmodels.stats`, which is slow to import and needed only here."""
    try:
        return importlib.import_module(f"statsmodels.stats.{module}")
    except ModuleNotFoundError as error:
        raise ImportError(
            "statsmodels must be installed for McNemar's test and Holm's correction, got "
            f'{error}. Run: pip install "mmfusion[report]"'
        ) from error
