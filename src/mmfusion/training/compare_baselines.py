"""The answers of a comparison that need no encoder: class shares, and words alone."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy.stats import chisquare
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from ..metrics.functional import cross_entropy
from ..model.loss import LossOptions, classification_loss

Array: TypeAlias = np.ndarray[Any, Any]

STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""The values of C that the logistic regression on words may choose from."""
_SIGNIFICANT = 0.05


def class_logits(labels: Array, num_labels: int) -> Array:
    """Returns the log shares of the classes [C], or the log odds of multi-label classes.

    One sample of each class, or half a sample of each answer, is added, so that a class that does
    not occur has a finite logarithm.

    Args:
        labels: class numbers [B], or 1, 0, NaN [B, C].
        num_labels: C.
    """
    if labels.ndim == 2:
        yes = np.nansum(labels, axis=0) + 0.5
        odds: Array = np.log(yes) - np.log((~np.isnan(labels)).sum(0) + 1 - yes)
        return odds
    counts = np.bincount(labels, minlength=num_labels) + 1.0
    shares: Array = np.log(counts / counts.sum())
    return shares


def absent_logits(labels: Array, lacks: Array, num_labels: int) -> Array:
    """Returns the logits [C] of a sample that lacks what the model sees.

    They are the log shares of the classes among the training samples. If the absence itself says
    something about the class, they are the shares among the training samples that lack it, too.
    That is so if these shares differ from those of all samples (chi-square, p < .05). The reason is
    fairness: a model of both modalities sees that a text is missing, and must not look better for
    that alone.

    Args:
        labels: of the training samples, [B] or [B, C].
        lacks: which of them lack it [B].
        num_labels: C.
    """
    if labels.ndim == 2:
        return class_logits(labels, num_labels)
    counts, absent = (
        np.bincount(labels[kept], minlength=num_labels) + 1.0 for kept in (lacks | True, lacks)
    )
    if chisquare(absent, counts / counts.sum() * absent.sum()).pvalue < _SIGNIFICANT:
        counts = absent
    logits: Array = np.log(counts / counts.sum())
    return logits


def word_logits(
    texts: Sequence[str | None],
    labels: Array,
    num_labels: int,
    folds: Sequence[Array],
    test_texts: Sequence[str | None],
    weights: Sequence[float] | None = None,
) -> tuple[Array, Array, int]:
    """Returns what TF-IDF with logistic regression answers, and how many weights it has.

    Terms are words and pairs of words. C is chosen by cross-entropy on held-out folds.

    Args:
        texts: of the training samples; None counts as an empty text.
        labels: of the training samples, [B] or [B, C].
        num_labels: C.
        folds: the training rows of each held-out fold.
        test_texts: of the test samples.
        weights: of each class in the loss, or of the positives of each label; None: all are 1.

    Returns:
        the logits of the test samples [T, C], those of the training samples from a regression that
        was fitted without their fold [B, C], and the number of weights.
    """
    words = np.asarray([text or "" for text in texts], dtype=object)
    held_out = {strength: np.zeros((len(words), num_labels)) for strength in STRENGTHS}
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(words)), fold)
        vectorizer = _vectorizer()
        known, asked = vectorizer.fit_transform(words[rest]), vectorizer.transform(words[fold])
        for strength in STRENGTHS:
            held_out[strength][fold] = _regression(
                known, labels[rest], num_labels, strength, asked, weights
            )[0]
    losses = {strength: _loss(logits, labels, weights) for strength, logits in held_out.items()}
    best = min(losses, key=lambda strength: losses[strength])
    vectorizer = _vectorizer()
    known = vectorizer.fit_transform(words)
    asked = vectorizer.transform([text or "" for text in test_texts])
    logits, count = _regression(known, labels, num_labels, best, asked, weights)
    return logits, held_out[best], count


def _loss(logits: Array, labels: Array, weights: Sequence[float] | None) -> float:
    """Returns the mean loss, with these weights."""
    if weights is None:
        return cross_entropy(logits, labels)
    own = torch.tensor(weights)
    options: LossOptions = {"class_weights": own} if labels.ndim == 1 else {"pos_weight": own}
    return float(classification_loss(torch.from_numpy(logits), torch.from_numpy(labels), **options))


def _vectorizer() -> Any:
    # A word of one letter is a word, too: a text of them alone must not leave an empty vocabulary.
    return TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")


def _regression(
    known: Any,
    labels: Array,
    num_labels: int,
    strength: float,
    asked: Any,
    weights: Sequence[float] | None,
) -> tuple[Array, int]:
    """Returns the logits of `asked` after a regression on `known`, and its number of weights."""
    if labels.ndim == 2:
        columns = []
        for number, column in enumerate(labels.T):
            here = ~np.isnan(column)
            both = None if weights is None else [1.0, weights[number]]
            columns.append(_regression(known[here], column[here], 2, strength, asked, both))
        odds = np.stack([logits[:, 1] - logits[:, 0] for logits, _ in columns], axis=1)
        return odds, sum(count for _, count in columns)
    labels = labels.astype(int)
    # A class that does not occur in the training rows gets the share of `class_logits`.
    logits = np.tile(class_logits(labels, num_labels), (asked.shape[0], 1))
    classes = np.unique(labels)
    if len(classes) < 2:
        return logits, 0
    chosen = None if weights is None else {one: weights[one] for one in classes.tolist()}
    model = LogisticRegression(C=strength, max_iter=2000, class_weight=chosen).fit(known, labels)
    logits[:, classes] = model.predict_log_proba(asked)
    return logits, int(model.coef_.size + model.intercept_.size)
