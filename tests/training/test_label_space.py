"""Classes of data sets and models, matched by name: held equal to a comparison of names."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from mmfusion import (
    FusionClassifier,
    FusionProcessor,
    TextEncoder,
    cache_features,
    evaluate,
    fit,
    load_manifest,
    predict,
    score,
)
from mmfusion.data.toy import word_tokenizer
from mmfusion.testing import tiny_config
from mmfusion.training.label_space import label_options, matched, names_of

NAMES = ["covid", "normal", "pneumonia"]
WORDS = ["fever", "clear", "opacity", "cough", "pain", "none", "left", "right"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}


def manifest(folder: Path, truth: list[str], name: str = "rows.csv") -> Path:
    """Writes one row per class name; the text differs from row to row."""
    lines = [f"{WORDS[row % 8]} {WORDS[row // 8 % 8]},{label}" for row, label in enumerate(truth)]
    path = folder / name
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


def classifier(**options: object) -> tuple[FusionClassifier, FusionProcessor]:
    torch.manual_seed(0)
    tokenizer = word_tokenizer(WORDS)
    encoder = TextEncoder(
        tiny_config("bert", **SIZES, num_attention_heads=2, vocab_size=len(tokenizer))
    )
    model = FusionClassifier(text_encoder=encoder, **options)
    torch.nn.init.normal_(model.head.out.weight)
    return model, FusionProcessor(tokenizer)


def named_accuracy(model: FusionClassifier, logits: np.ndarray, truth: list[str]) -> float:
    """Returns the share of rows whose answer has the right name."""
    answers = [model.config.id2label[int(number)] for number in logits.argmax(1)]
    return float(np.mean([said == true for said, true in zip(answers, truth, strict=True)]))


@pytest.mark.parametrize("absent", NAMES)
def test_a_table_that_lacks_a_class_is_evaluated_by_name(tmp_path: Path, absent: str) -> None:
    model, processor = classifier(id2label=dict(enumerate(NAMES)))
    truth = [name for name in NAMES if name != absent] * 12
    rows = load_manifest(manifest(tmp_path, truth), image=None)
    # The class that comes later has another number than in the model.
    assert rows.features["label"].names == sorted(set(truth))
    result = evaluate(model, processor, rows, resamples=1)
    right = named_accuracy(model, predict(model, processor, rows), truth)
    assert result.metrics["accuracy"].estimate == pytest.approx(right)
    assert [NAMES[number] for number in result.labels] == truth


def test_training_and_validation_in_other_orders(tmp_path: Path, quiet) -> None:
    """The best epoch is chosen on labels of the right names, and the training learns them."""
    truth = NAMES * 8
    orders = NAMES[::-1], NAMES, [NAMES[1], NAMES[2], NAMES[0]]
    train, other, third = (
        load_manifest(manifest(tmp_path, truth), image=None, label_names=order) for order in orders
    )
    results = []
    for validation in (train, other, third):
        model, processor = classifier(id2label=dict(enumerate(NAMES)))
        result = fit(
            model,
            processor,
            train,
            validation,
            arguments=quiet(tmp_path / "out", save_strategy="no"),
            warm_start=False,
        )
        results.append([entry["eval_accuracy"] for entry in result.history if "eval_loss" in entry])
        right = named_accuracy(model, predict(model, processor, train), truth)
        assert results[-1] == [pytest.approx(right)]
    assert results[0] == results[1] == results[2]


def test_cached_rows_are_matched(tmp_path: Path) -> None:
    model, processor = classifier(id2label=dict(enumerate(NAMES)))
    model.freeze("text")
    truth = ["normal", "pneumonia"] * 6
    rows = load_manifest(manifest(tmp_path, truth), image=None)
    cached, _ = cache_features(model, processor, rows, tmp_path / "cache")
    result = evaluate(model, processor, cached, resamples=1)
    right = named_accuracy(model, predict(model, processor, cached), truth)
    assert result.metrics["accuracy"].estimate == pytest.approx(right)
    assert result.labels.tolist() == [1, 2] * 6


def test_unknown_classes_are_listed(tmp_path: Path, quiet) -> None:
    model, processor = classifier(id2label=dict(enumerate(NAMES)))
    rows = load_manifest(manifest(tmp_path, ["normal", "pnuemonia", "asthma"]), image=None)
    message = "got 'asthma', 'pnuemonia'.*Rename them"
    with pytest.raises(ValueError, match=message):
        evaluate(model, processor, rows)
    with pytest.raises(ValueError, match=message):
        fit(model, processor, rows, arguments=quiet(tmp_path))
    # A class that no row has is no error.
    normal = rows.filter(lambda row: row["text"].startswith("fever"))
    assert matched(model, normal)["label"][:] == [1]


def test_a_model_without_names(tmp_path: Path, quiet) -> None:
    """It takes the names of the rows it is trained on; other rows are compared by count alone."""
    model, processor = classifier(num_labels=3)
    rows = load_manifest(manifest(tmp_path, NAMES * 4), image=None)
    two = load_manifest(manifest(tmp_path, ["normal", "pneumonia"]), image=None)
    assert names_of(model) is None
    assert matched(model, rows) is rows
    with pytest.raises(ValueError, match="must be of 3 classes.*got 2 .'normal', 'pneumonia'"):
        evaluate(model, processor, two)
    fit(model, processor, rows, arguments=quiet(tmp_path / "out", save_strategy="no"))
    assert names_of(model) == NAMES
    assert model.config.label2id == {"covid": 0, "normal": 1, "pneumonia": 2}
    assert matched(model, two)["label"][:] == [1, 2]


def test_several_label_columns(tmp_path: Path, quiet) -> None:
    """Columns in another order, or without one of them, are matched by name."""
    path = tmp_path / "rows.csv"
    cells = np.random.default_rng(0).integers(0, 2, (24, 3))
    lines = [
        f"{WORDS[row % 8]} {WORDS[row // 8]},{a},{b},{c}" for row, (a, b, c) in enumerate(cells)
    ]
    path.write_text("text,mass,fluid,air\n" + "\n".join(lines) + "\n")
    columns = ["mass", "fluid", "air"]
    rows = load_manifest(path, image=None, label=columns)
    options = label_options(rows)
    assert options["id2label"] == dict(enumerate(columns))
    model, processor = classifier(**options)
    logits = predict(model, processor, rows)
    expected = score(logits, rows, resamples=1).to_dict()
    turned = load_manifest(path, image=None, label=columns[::-1])
    result = evaluate(model, processor, turned, resamples=1)
    assert result.to_dict() == expected
    assert np.array_equal(result.labels, cells)
    partial = load_manifest(path, image=None, label=["air", "mass"])
    labels = evaluate(model, processor, partial, resamples=1).labels
    assert np.array_equal(labels[:, [0, 2]], cells[:, [0, 2]])
    assert np.isnan(labels[:, 1]).all()
    unknown = turned.map(lambda row: {"label": {"mass": 1.0, "oedema": 0.0}})
    with pytest.raises(ValueError, match="got 'oedema'"):
        evaluate(model, processor, unknown)
    single = load_manifest(path, image=None, label="mass")
    with pytest.raises(ValueError, match="label must be multi-label, as the model is"):
        fit(model, processor, single, arguments=quiet(tmp_path / "out"))


def test_lists_without_names_are_compared_by_count() -> None:
    model, processor = classifier(num_labels=3, problem_type="multi_label_classification")
    rows = datasets.Dataset.from_dict({"text": ["fever"], "label": [[1.0, 0.0]]})
    with pytest.raises(ValueError, match="must be of 3 classes, as the model's are, got 2"):
        evaluate(model, processor, rows)


def test_scores_of_named_columns(tmp_path: Path) -> None:
    rows = load_manifest(manifest(tmp_path, ["normal", "pneumonia"] * 5), image=None)
    logits = np.eye(3, dtype=np.float32)[[1, 2] * 5]
    with pytest.raises(ValueError, match=r"logits must be \[10, 2\].*got \[10, 3\].*names="):
        score(logits, rows)
    assert score(logits, rows, names=NAMES, resamples=1).metrics["accuracy"].estimate == 1
    with pytest.raises(ValueError, match=r"logits must be \[10, 2\].*got \[9, 2\]"):
        score(logits[1:, :2], rows)
    logits[3] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 of 10 rows.*\[3\]"):
        score(logits, rows, names=NAMES)


def test_class_numbers_out_of_range() -> None:
    rows = datasets.Dataset.from_dict({"text": ["fever", "cough"], "label": [0, 3]})
    with pytest.raises(ValueError, match="labels must be in 0 .. 2 .the classes., got 3"):
        score(np.zeros((2, 3), dtype=np.float32), rows)
    assert label_options(rows)["num_labels"] == 4


def test_label_options_suit_the_labels():
    features = datasets.Features({"label": datasets.ClassLabel(names=["no", "yes"])})
    single = datasets.Dataset.from_dict({"label": [1, 0]}, features=features)
    assert label_options(single) == {
        "id2label": {0: "no", 1: "yes"}, "problem_type": "single_label_classification",
    }  # fmt: skip
    many = datasets.Dataset.from_dict({"label": [[1.0, 0.0, float("nan")]]})
    assert label_options(many) == {
        "num_labels": 3, "problem_type": "multi_label_classification",
    }  # fmt: skip


def test_rows_without_a_label_are_told() -> None:
    """datasets writes -1 for an absent label. It must not be taken for the last class."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES[::-1])}
    )
    rows = datasets.Dataset.from_dict(
        {"text": ["fever", "cough"], "label": [0, -1]}, features=features
    )
    model, processor = classifier(id2label=dict(enumerate(NAMES)))
    assert matched(model, rows)["label"][:] == [2, -1]
    with pytest.raises(ValueError, match="labels must be in 0 .. 2 .the classes., got -1"):
        evaluate(model, processor, rows)
