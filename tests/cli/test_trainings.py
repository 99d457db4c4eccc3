"""Unknown labels, the weights of the loss and folds, from the command line."""

import csv
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

from mmfusion import (
    FusionClassifier,
    FusionProcessor,
    TextEncoder,
    load_manifest,
)
from mmfusion.cli import trainings
from mmfusion.data.toy import word_tokenizer
from mmfusion.testing import tiny_config

WORDS = ["clear", "opacity", "effusion", "dry", "heart", "large"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a text encoder and two tables, in which -1 stands for uncertain."""
    folder = tmp_path_factory.mktemp("uncertain")
    tokenizer = word_tokenizer(WORDS)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = TextEncoder(tiny_config("bert", **sizes, vocab_size=len(tokenizer)))
    text.backbone.save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    draw = random.Random(0)
    with (folder / "many.csv").open("w") as many, (folder / "one.csv").open("w") as one:
        many_rows, one_rows = csv.writer(many), csv.writer(one)
        many_rows.writerow(["text", "mass", "fluid", "group"])
        one_rows.writerow(["text", "label", "group"])
        for number in range(90):
            mass, fluid = draw.random() < 0.3, draw.random() < 0.5
            words = f"{WORDS[mass]} {WORDS[2 + fluid]} {draw.choice(WORDS)} {number}"
            uncertain = draw.random() < 0.2
            many_rows.writerow([words, -1 if uncertain else int(mass), int(fluid), number])
            one_rows.writerow([words, "-1.0" if uncertain else WORDS[mass], number])
    return folder


def test_the_test_part_leaves_uncertain_labels_out(folder: Path) -> None:
    """They count as yes in training alone; every row is in one part with its own label."""
    path = folder / "many.csv"
    label = ["mass", "fluid"]
    rows, truth = trainings.load_with_truth(path, label, None, "-1", "positive")
    parts = trainings.split_rows(rows, truth, seed=0, text=True)
    written = {row["text"]: row["mass"] for row in csv.DictReader(path.read_text().splitlines())}
    seen = []
    for name, part in parts.items():
        assert part.column_names == rows.column_names
        for row in part:
            seen.append(row["text"])
            cell = float(written[row["text"]])
            expected = cell if cell >= 0 else math.nan if name == "test" else 1.0
            np.testing.assert_equal(row["label"]["mass"], expected)
    assert sorted(seen) == sorted(written)
    plain = load_manifest(path, image=None, label=label, unknown_label=-1)
    same, also = trainings.load_with_truth(path, label, None, "-1", "ignore")
    assert also is same and str(same["label"][:]) == str(plain["label"][:])


def train(call: Callable[..., str], folder: Path, table: str, output: Path, *words: object) -> None:
    call(
        "train", folder / table, "--output", output, "--text-encoder", folder / "text",
        "--no-pretrained", "--train", "frozen", "--epochs", 1, "--unknown-label", -1, *words,
    )  # fmt: skip


def test_many_labels(call: Callable[..., str], folder: Path, tmp_path: Path) -> None:
    labels = ["--label", "mass", "--label", "fluid"]
    options = ["--uncertain", "positive", "--pos-weight", "balanced", "--focal-gamma", 1]
    train(call, folder, "many.csv", tmp_path / "model", *labels, *options)
    config = FusionClassifier.from_pretrained(tmp_path / "model").config
    parts = trainings.split_rows(
        *trainings.load_with_truth(folder / "many.csv", ["mass", "fluid"], None, "-1", "positive"),
        seed=0,
        text=True,
    )
    train_labels = [tuple(row["label"].values()) for row in parts["train"]]
    expected = [
        sum(row[column] == 0 for row in train_labels)
        / sum(row[column] == 1 for row in train_labels)
        for column in range(2)
    ]
    assert config.pos_weight == pytest.approx(expected) and config.focal_gamma == 1
    measured = json.loads(
        call(
            *("evaluate", tmp_path / "model", folder / "many.csv"),
            *("--unknown-label", -1, "--json", "--part", "all"),
        )
    )
    assert measured["samples"] == 90
    assert "got '-1' in row" in call("evaluate", tmp_path / "model", folder / "many.csv", code=1)
    call("audit", folder / "many.csv", *labels, "--unknown-label", -1)


def test_one_label(call: Callable[..., str], folder: Path, tmp_path: Path) -> None:
    train(call, folder, "one.csv", tmp_path / "model", "--class-weights", "balanced")
    model = FusionClassifier.from_pretrained(tmp_path / "model")
    assert model.config.id2label == {0: "clear", 1: "opacity"}
    parts = trainings.split_rows(
        *trainings.load_with_truth(folder / "one.csv", None, None, "-1", "ignore"),
        seed=0,
        text=True,
    )
    labels = np.asarray(parts["train"]["label"])
    expected = compute_class_weight("balanced", classes=np.arange(2), y=labels)
    assert model.config.class_weights == pytest.approx(expected.tolist())
    measured = json.loads(
        call(
            *("evaluate", tmp_path / "model", folder / "one.csv"),
            *("--unknown-label", -1, "--json", "--part", "all"),
        )
    )
    cells = [row["label"] for row in csv.DictReader((folder / "one.csv").read_text().splitlines())]
    assert measured["samples"] == sum(cell != "-1.0" for cell in cells) < 90


def test_compare_measures_on_certain_labels(
    call: Callable[..., str], folder: Path, tmp_path: Path
) -> None:
    call(
        "compare", folder / "many.csv", "--output", tmp_path, "--text-encoder", folder / "text",
        "--no-pretrained", "--rows", "text", "--rows", "tfidf", "--folds", 2, "--seeds", 1,
        "--label", "mass", "--label", "fluid", "--unknown-label", -1,
        "--uncertain", "negative", "--pos-weight", "balanced",
    )  # fmt: skip
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["loss"] == {"pos_weight": "balanced"}
    assert "Loss: pos_weight balanced." in results["notes"]
    cells = [row["mass"] for row in csv.DictReader((folder / "many.csv").read_text().splitlines())]
    told = f"{cells.count('-1')} labels count in training and not where a model is measured."
    assert told in results["notes"] and not told.startswith("0")
    words = next(row for row in results["rows"] if row["name"].startswith("TF-IDF"))
    # Of a label that is -1 the word tells the truth, but 0 is what counts in training.
    assert words["auroc"]["estimate"] > 0.9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--class-weights", "balancd"], "--class-weights must be one of ['balanced'], got"),
        (["--pos-weight", "balanced"], "pos_weight must be None where each sample has one class"),
        (["--uncertain", "positive"], "uncertain must be 'ignore' without an unknown_label"),
        (["--unknown-label", -1, "--uncertain", "positive"], "must be 'ignore' for one label"),
        (["--unknown-label", "NA"], "unknown_label must be a text or a number"),
        (["--focal-gamma", "inf"], "focal_gamma must be a number of at least 0, got inf"),
    ],
)
@pytest.mark.parametrize("command", ["train", "compare"])
def test_mistakes_are_answered_in_one_line(
    call: Callable[..., str],
    folder: Path,
    tmp_path: Path,
    command: str,
    words: list[object],
    message: str,
) -> None:
    output = call(
        command, folder / "one.csv", "--output", tmp_path / "out", "--text-encoder",
        folder / "text", *words, code=1,
    )  # fmt: skip
    assert message in output and len(output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_class_weights_of_many_labels_are_refused_with_the_right_option(
    call: Callable[..., str], folder: Path, tmp_path: Path
) -> None:
    output = call(
        "train", folder / "many.csv", "--output", tmp_path / "out", "--text-encoder",
        folder / "text", "--label", "mass", "--label", "fluid", "--unknown-label", -1,
        "--class-weights", "balanced", code=1,
    )  # fmt: skip
    assert "Use pos_weight='balanced'" in output


def test_the_parts_may_be_files_or_a_column(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "many.csv").read_text().splitlines()
    parts = {"train": lines[1:60], "validation": lines[60:75], "test": lines[75:]}
    words = {"train": "Train", "validation": "val", "test": "test "}
    column = [f"{row},{words[name]}" for name, rows in parts.items() for row in rows]
    (tmp_path / "column.csv").write_text("\n".join([f"{lines[0]},part", *column]))
    for name, rows in parts.items():
        (tmp_path / f"{name}.csv").write_text("\n".join([lines[0], *rows]))
    columns = (["mass", "fluid"], None, "-1", "positive", None)
    files = [tmp_path / f"{name}.csv" for name in parts]
    options = {"seed": 0, "text": True}
    by_file = trainings.load_parts(*files, None, columns, **options)
    by_column = trainings.load_parts(
        tmp_path / "column.csv", None, None, "part", columns, **options
    )
    for name, rows in parts.items():
        expected = [row.split(",")[0] for row in rows]
        assert list(by_file[name]["text"]) == list(by_column[name]["text"]) == expected
        certain = [float(row.split(",")[1]) for row in rows]
        labels = [row["mass"] for row in by_column[name]["label"]]
        other = math.nan if name == "test" else 1.0
        np.testing.assert_equal(labels, [cell if cell >= 0 else other for cell in certain])


def test_a_test_file_without_a_class_has_the_classes_of_the_training(tmp_path: Path) -> None:
    """Its table alone would number "well" as 0."""
    rows = {"train": "ill well odd", "validation": "ill well", "test": "well"}
    for name, labels in rows.items():
        lines = [f"words {name} {n},{one},{name}{n}" for n, one in enumerate(labels.split())]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label,group", *lines]))
    files = [tmp_path / f"{name}.csv" for name in rows]
    columns = (None, None, None, "ignore", None)
    parts = trainings.load_parts(*files, None, columns, seed=0, text=True)
    for name, labels in rows.items():
        names = parts[name].features["label"].names
        assert names == ["ill", "odd", "well"]
        assert [names[number] for number in parts[name]["label"]] == labels.split()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,0,p1,train", "b,1,p2,test"], "'part' must name rows of validation, got none"),
        (["a,0,p1,train", "b,1,p2,tset"], "must hold train, validation or test, got 'tset'"),
        (["a,0,p1,train", "b,1,p1,test", "c,1,p3,val"], "no group, got 1 in train and test"),
    ],
)
def test_a_column_that_divides_badly(rows: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(["text,label,group,part", *rows]))
    columns = (None, None, None, "ignore", None)
    with pytest.raises(ValueError, match=message):
        trainings.load_parts(path, None, None, "part", columns, seed=0, text=True)
    with pytest.raises(ValueError, match="got 'prat'. Did you mean 'part'"):
        trainings.load_parts(path, None, None, "prat", columns, seed=0, text=True)
    with pytest.raises(ValueError, match="--validation and --test must be given together"):
        trainings.load_parts(path, path, None, None, columns, seed=0, text=True)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_folds_answer_every_row_once(
    call: Callable[..., str], folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "cv"
    printed = call(
        "train", folder / "one.csv", "--output", output, "--text-encoder", folder / "text",
        "--no-pretrained", "--train", "frozen", "--epochs", 1, "--unknown-label", "-1.0",
        "--folds", 3,
    )  # fmt: skip
    assert "3 test folds, 95 % intervals" in printed
    rows = load_manifest(folder / "one.csv", image=None, unknown_label="-1.0")
    answers = rows_of(output / "test_predictions.csv")
    assert sorted(row["group"] for row in answers) == sorted(map(str, rows["group"]))
    # Each row has the answer of the model that was trained without it.
    for number in (1, 2, 3):
        fold = output / f"fold-{number}"
        held_out = rows_of(fold / "test_predictions.csv")
        assert all(row | {"fold": str(number)} in answers for row in held_out)
        model = FusionClassifier.from_pretrained(fold)
        processor = FusionProcessor.from_pretrained(fold)
        texts = dict(zip(map(str, rows["group"]), rows["text"], strict=True))
        with torch.no_grad():
            logits = model(**processor(text=[texts[row["group"]] for row in held_out])).logits
        shares = logits.softmax(-1)[:, 1].tolist()
        name = model.config.id2label[1]
        assert [float(row[f"probability: {name}"]) for row in held_out] == pytest.approx(
            shares, abs=2e-6
        )
        record = json.loads((fold / "split.json").read_text())
        assert record["rows"]["test"] == len(held_out)
    results = json.loads((output / "results.json").read_text())
    truth = np.array([row["label"] == name for row in answers])
    chosen = np.array([float(row[f"probability: {name}"]) > 0.5 for row in answers])
    assert results["text"]["accuracy"]["estimate"] == pytest.approx((truth == chosen).mean())
    # The proposed command is one that runs, and it measures no row that the model was trained on.
    proposed = next(line for line in printed.splitlines() if "mmfusion evaluate" in line)
    assert str(output / "fold-1") in proposed
    call(*proposed.split()[1:])
    proposed = next(line for line in printed.splitlines() if "mmfusion predict" in line)
    new, given = str(folder / "one.csv"), str(tmp_path / "answers.csv")
    call(*proposed.replace("NEW.csv", new).replace("ANSWERS.csv", given).split()[1:])
    assert len(rows_of(tmp_path / "answers.csv")) == 90


@pytest.mark.parametrize("uncertain", ["ignore", "positive"])
def test_the_parts_of_the_folds(uncertain: str, folder: Path) -> None:
    """They share no patient and no text, and the test labels are those to measure on."""
    columns = (["mass", "fluid"], None, "-1", uncertain, None)
    options: dict[str, Any] = {"models": {"text": (None, "x")}, "seed": 3}
    table = folder / "many.csv"
    divided = trainings.load_divided(table, None, None, None, 4, columns, **options)
    _, truth = trainings.load_with_truth(table, *columns)
    wanted = {row["text"]: row["label"] for row in truth}
    tested = [row for parts in divided for row in parts["test"]]
    assert sorted(row["text"] for row in tested) == sorted(wanted)
    for row in tested:
        np.testing.assert_equal(row["label"], wanted[row["text"]])
    for parts in divided:
        for column in ("group", "text"):
            seen = [set(parts[name][column]) for name in ("train", "validation", "test")]
            assert sum(map(len, seen)) == len(set.union(*seen))
        assert sum(map(len, parts.values())) == len(truth)
        assert 0.05 < len(parts["validation"]) / len(truth) < 0.25
    other = trainings.load_divided(table, None, None, None, 4, columns, **options | {"seed": 4})
    assert [set(p["test"]["text"]) for p in other] != [set(p["test"]["text"]) for p in divided]


def test_equal_texts_stay_in_one_fold(tmp_path: Path) -> None:
    lines = [f"same {number // 2},{number % 2},{number}" for number in range(60)]
    table = tmp_path / "twins.csv"
    table.write_text("\n".join(["text,label,group", *lines]))
    columns = (None, None, None, "ignore", None)
    for parts in trainings.load_divided(
        table, None, None, None, 3, columns, models={"text": (None, "x")}, seed=0
    ):
        assert not set(parts["train"]["text"]) & set(parts["test"]["text"])


def test_a_fold_without_rows_for_a_model_is_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    lines = [f"{'x.png' if number < 2 else ''},word {number},{number % 2},{number // 2}"
             for number in range(40)]  # fmt: skip
    table = tmp_path / "few.csv"
    table.write_text("\n".join(["image,text,label,group", *lines]))
    columns = (None, None, None, "ignore", None)
    with pytest.raises(ValueError, match=r"the (train|validation) part of fold \d must have rows"):
        trainings.load_divided(
            table, None, None, None, 2, columns, models={"image": ("x", None)}, seed=0
        )


def test_a_folder_with_another_training_is_refused(
    call: Callable[..., str], folder: Path, tmp_path: Path
) -> None:
    def said(output: str, *words: object) -> str:
        common = ("--output", tmp_path / output, "--text-encoder", folder / "text", *words)
        return " ".join(call("train", folder / "one.csv", *common, code=1).split())

    (tmp_path / "cv/fold-1").mkdir(parents=True)
    (tmp_path / "cv/fold-2").mkdir()
    (tmp_path / "cv/fold-3").mkdir()
    assert "which holds 3 folds" in said("cv") and "3 folds" in said("cv", "--folds", 2)
    (tmp_path / "one").mkdir()
    (tmp_path / "one/config.json").touch()
    assert "which holds a model without folds" in said("one", "--folds", 2)


def test_folds_and_another_division_are_refused(
    call: Callable[..., str], folder: Path, tmp_path: Path
) -> None:
    table = folder / "one.csv"
    said = call(
        "train", table, "--output", tmp_path, "--text-encoder", folder / "text", "--folds", 3,
        "--split-column", "group", code=1,
    )  # fmt: skip
    assert "--folds must be given without --validation, --test and --split-column" in said
