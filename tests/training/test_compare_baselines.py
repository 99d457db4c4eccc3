"""The baselines without an encoder, compared with counts by hand and with scikit-learn."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from mmfusion.training.compare_baselines import (
    STRENGTHS,
    absent_logits,
    class_logits,
    word_logits,
)

NAN = float("nan")


def test_class_logits_are_counts_plus_one():
    logits = class_logits(np.array([0, 0, 0, 1]), 3)
    assert np.exp(logits) == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    # Multi-label: half a sample of each answer is added; NaN is not counted.
    odds = class_logits(np.array([[1, 0], [1, NAN], [0, 0]], dtype=float), 2)
    assert np.exp(odds) == pytest.approx([2.5 / 1.5, 0.5 / 2.5])
    # A class that is always there has finite odds.
    assert np.isfinite(class_logits(np.ones((50, 1)), 1)).all()


def test_an_absence_counts_only_if_it_tells_the_class():
    """Five of six samples of class 1 lack the text, and no sample of class 0 does."""
    telling = np.array([0] * 60 + [1] * 30)
    lacks = np.array([False] * 60 + [True] * 30)
    assert np.exp(absent_logits(telling, lacks, 2)) == pytest.approx([1 / 32, 31 / 32])
    # Here the absence is as frequent in both classes.
    even = np.array([False, True] * 45)
    assert np.exp(absent_logits(telling, even, 2)) == pytest.approx([61 / 92, 31 / 92])
    assert np.exp(absent_logits(telling, lacks & False, 2)) == pytest.approx([61 / 92, 31 / 92])


def texts_of(n: int) -> tuple[list[str | None], np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, n)
    own = ["clear lungs", "small effusion", "opacity"]
    texts: list[str | None] = [
        f"{own[label] if generator.random() < 0.7 else own[generator.integers(3)]} seen"
        for label in labels
    ]
    texts[5] = None
    return texts, labels


def test_words_are_the_pipeline_of_scikit_learn_at_the_best_strength():
    texts, labels = texts_of(120)
    folds = [np.arange(start, 80, 4) for start in range(4)]
    logits, held_out, count = word_logits(texts[:80], labels[:80], 3, folds, texts[80:])
    filled = np.array([text or "" for text in texts], dtype=object)
    losses, answers = {}, {}
    for strength in STRENGTHS:
        out = np.zeros((80, 3))
        for fold in folds:
            rest = np.setdiff1d(np.arange(80), fold)
            words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")
            known = words.fit_transform(filled[rest])
            model = LogisticRegression(C=strength, max_iter=2000).fit(known, labels[rest])
            out[fold] = model.predict_log_proba(words.transform(filled[fold]))
        losses[strength] = -out[np.arange(80), labels[:80]].mean()
        answers[strength] = out
    best = min(losses, key=losses.get)
    np.testing.assert_allclose(held_out, answers[best])
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")
    model = LogisticRegression(C=best, max_iter=2000).fit(
        words.fit_transform(filled[:80]), labels[:80]
    )
    np.testing.assert_allclose(logits, model.predict_log_proba(words.transform(filled[80:])))
    assert count == 3 * len(words.vocabulary_) + 3


def test_words_of_several_labels_and_of_a_class_that_does_not_occur():
    texts, labels = texts_of(60)
    many = np.stack([labels == 0, labels == 1], axis=1).astype(float)
    many[::9, 1] = NAN
    folds = [np.arange(start, 60, 3) for start in range(3)]
    odds, _, _ = word_logits(texts, many, 2, folds, ["clear lungs", "small effusion"])
    assert odds[0, 0] > odds[1, 0] and odds[0, 1] < odds[1, 1]
    logits, _, _ = word_logits(texts, labels, 4, folds, texts)
    assert np.isfinite(logits).all() and (np.exp(logits[:, 3]) < 0.05).all()
    logits, _, count = word_logits(texts, labels * 0, 2, folds, texts)
    assert count == 0 and (logits[:, 0] > logits[:, 1]).all()
