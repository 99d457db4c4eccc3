"""The loss of a comparison: balanced weights in each fold, and labels to measure on."""

import math

import datasets
import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from mmfusion import TextEncoder, auroc, compare
from mmfusion.data.toy import word_tokenizer
from mmfusion.testing import tiny_config
from mmfusion.training import balance
from mmfusion.training.compare_baselines import class_logits, word_logits
from mmfusion.training.compare_folds import parts_of
from mmfusion.training.compare_loss import word_weights

WORDS = ("clear", "opacity", "effusion")


@pytest.fixture(scope="module")
def samples() -> datasets.Dataset:
    """Returns 120 rows of three classes, one of them rare; some texts are missing."""
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 120, p=[0.7, 0.2, 0.1])
    texts = [
        None if rng.random() < 0.1 else f"{WORDS[label if rng.random() < 0.7 else 0]} {number}"
        for number, label in enumerate(labels)
    ]
    columns = {"text": texts, "label": labels.tolist(), "group": [f"p{n}" for n in range(120)]}
    features = datasets.Features(
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=list(WORDS)),
        group=datasets.Value("string"),
    )
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture(scope="module")
def run(samples, tmp_path_factory):
    """Returns a function that compares a frozen text encoder with simple baselines."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(text for text in samples["text"] if text)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = TextEncoder(tiny_config("bert", **sizes, vocab_size=len(tokenizer))).freeze()

    def compared(rows=samples, **options):
        return compare(
            rows,
            tmp_path_factory.mktemp("out"),
            text_encoder=encoder,
            tokenizer=tokenizer,
            rows=["majority", "tfidf", "text"],
            folds=2,
            seeds=1,
            resamples=10,
            progress=False,
            **options,
        )

    return compared


def test_each_fold_computes_its_own_weights(samples, run, monkeypatch):
    seen = []
    own = balance.balanced_weights

    def watched(labels, num_labels, names=None):
        seen.append((labels.tolist(), own(labels, num_labels, names)))
        return seen[-1][1]

    monkeypatch.setattr("mmfusion.training.balance.balanced_weights", watched)
    comparison = run(class_weights="balanced")
    assert comparison.results["settings"]["loss"] == {"class_weights": "balanced"}
    assert "Loss: class_weights balanced." in comparison.results["notes"]
    parts = parts_of(samples, 2, 0, text="text")
    has = np.asarray([text is not None for text in samples["text"]])
    labels = np.asarray(samples["label"])
    assert len(seen) == 2
    for (rows, weights), part in zip(seen, parts, strict=True):
        known = labels[part.known[has[part.known]]]
        assert rows == known.tolist()
        expected = compute_class_weight("balanced", classes=np.arange(3), y=known)
        assert weights == pytest.approx(expected.tolist())
    # A text that is missing gets the shares of the classes as this loss weighs them.
    name = "text only"
    for outcome, part, (_, weights) in zip(
        comparison.answers.outcomes[name][0], parts, seen, strict=True
    ):
        absent = np.asarray(outcome["logits"])[~has[part.test]]
        assert len(absent)
        shares = np.exp(class_logits(labels[part.known], 3)) * weights
        np.testing.assert_allclose(
            np.exp(absent), np.tile(shares / shares.sum(), (len(absent), 1)), rtol=1e-5
        )


def test_weights_change_the_rows_that_are_trained_alone(run):
    plain, weighted = run(), run(class_weights="balanced")
    assert plain.results["settings"]["loss"] == {}
    assert not any("Loss:" in note for note in plain.results["notes"])
    for name in ("majority class", "TF-IDF + regression", "text only"):
        one, other = (found.answers.logits(name)[0] for found in (plain, weighted))
        assert np.array_equal(one, other) == (name == "majority class")
    # The rarest class gets a larger share of the answers than it has of the samples.
    share = np.mean(np.asarray(plain.answers.labels) == 2)
    for name in ("TF-IDF + regression", "text only"):
        before, after = (
            found.answers.probabilities(found.answers.logits(name)[0])[:, 2].mean()
            for found in (plain, weighted)
        )
        assert before < 1.1 * share < 1.2 * share < after


def test_the_regression_on_words_is_the_balanced_one_of_scikit_learn(samples):
    texts, labels = list(samples["text"]), np.asarray(samples["label"])
    folds = [np.arange(start, 120, 5) for start in range(5)]
    weights = word_weights({"class_weights": "balanced"}, labels, 3, WORDS)
    logits, _, _ = word_logits(texts, labels, 3, folds, texts, weights)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")
    words = vectorizer.fit_transform([text or "" for text in texts])
    distances = []
    for strength in (0.1, 1.0, 10.0, 100.0):
        model = LogisticRegression(C=strength, max_iter=2000, class_weight="balanced")
        expected = model.fit(words, labels).predict_log_proba(words)
        distances.append(np.abs(logits - expected).max())
    assert min(distances) < 1e-6


def test_the_regression_on_words_weighs_the_positives_of_each_label(samples):
    texts = list(samples["text"])
    labels = np.eye(3, dtype=np.float32)[np.asarray(samples["label"])][:, 1:]
    labels[::7, 0] = math.nan
    folds = [np.arange(start, 120, 5) for start in range(5)]
    weights = word_weights({"pos_weight": "balanced"}, labels, 2, WORDS[1:])
    logits, _, _ = word_logits(texts, labels, 2, folds, texts, weights)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")
    words = vectorizer.fit_transform([text or "" for text in texts])
    for column in range(2):
        known = ~np.isnan(labels[:, column])
        y = labels[known, column].astype(int)
        assert weights[column] == (y == 0).sum() / (y == 1).sum()
        distances = []
        for strength in (0.1, 1.0, 10.0, 100.0):
            model = LogisticRegression(
                C=strength, max_iter=2000, class_weight={0: 1.0, 1: weights[column]}
            )
            odds = model.fit(words[known], y).decision_function(words)
            distances.append(np.abs(logits[:, column] - odds).max())
        assert min(distances) < 1e-4


def test_answers_are_measured_on_the_labels_that_are_true(samples, run):
    """The trainings have other labels, and do not depend on these."""
    names = ("mass", "fluid")
    answers = np.eye(3)[np.asarray(samples["label"])][:, 1:]
    rows = samples.remove_columns("label").add_column(
        "label", [dict(zip(names, row, strict=True)) for row in answers.tolist()]
    )
    certain = answers.copy()
    certain[::4, 0] = math.nan
    truth = samples.remove_columns("label").add_column(
        "label", [dict(zip(names, row, strict=True)) for row in certain.tolist()]
    )
    plain, other = run(rows), run(rows, truth=truth)
    for name in ("TF-IDF + regression", "text only"):
        logits = plain.answers.logits(name)[0]
        np.testing.assert_array_equal(logits, other.answers.logits(name)[0])
        found = {row["name"]: row for row in other.results["rows"]}[name]["auroc"]["estimate"]
        assert found == pytest.approx(auroc(logits, certain))
        assert found != pytest.approx(auroc(logits, answers))
    with pytest.raises(ValueError, match="truth must be the 120 samples with the classes"):
        run(rows, truth=truth.select(range(5)))
    with pytest.raises(ValueError, match="truth must be the 120 samples with the classes"):
        run(rows, truth=samples)


def test_options_that_do_not_fit_the_labels_are_refused_before_anything_is_trained(run):
    with pytest.raises(ValueError, match="pos_weight must be None where each sample has one"):
        run(pos_weight="balanced")
    with pytest.raises(ValueError, match="class_weights must be 3 positive numbers"):
        run(class_weights=[1.0, 2.0])
