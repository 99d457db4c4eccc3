"""Tests of the study: folds without leaks, choices on validation data, and described results."""

import json
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from provenance import typed_command
from study_report import Answers, choose, summarise
from study_rows import Outcome, Part, Row, Runner, Settings, parts_of, table_rows
from typer.testing import CliRunner

from mmfusion import LungMask
from mmfusion.data.text import normalise_text
from mmfusion.model.fusion import BUILT_IN

COLUMNS = {
    "protocol", "model", "modality", "mapper", "fusion", "segment", "accuracy", "accuracy_low",
    "accuracy_high", "auroc", "seconds_per_epoch", "published_accuracy", "auroc_minus_single",
    "auroc_minus_single_low", "auroc_minus_single_high", "parameters_trained",
}  # fmt: skip


def test_the_table_has_every_row_that_was_asked_for():
    rows = table_rows(published=True)
    fused = {(row.mapper, row.fusion) for row in rows if row.is_fused}
    assert {
        (None, "concat"),
        ("linear", "concat"),
        ("mlp", "concat"),
        ("cross_attention", "concat"),
    } <= fused
    assert {fusion for _, fusion in fused} == set(BUILT_IN)
    assert [(row.modality, row.published) for row in rows[:3]] == [
        ("text", None),
        ("image", 0.77),
        ("text", 0.88),
    ]
    assert all(row.published is None for row in table_rows(published=False))


def test_no_patient_and_no_text_is_in_two_parts():
    generator = np.random.default_rng(0)
    texts = [f"Text {generator.integers(300)}." for _ in range(120)]
    samples = datasets.Dataset.from_dict(
        {
            "text": texts,
            "group": [str(i // 2) for i in range(120)],
            "label": [i % 2 for i in range(120)],
        },
        features=datasets.Features(
            {
                "text": datasets.Value("string"),
                "group": datasets.Value("string"),
                "label": datasets.ClassLabel(names=["a", "b"]),
            }
        ),
    )
    parts = parts_of(samples, 3, True)
    assert sorted(i for part in parts for i in part.test) == list(range(120))
    for part in parts:
        held = [part.train, part.validation, part.test]
        assert sum(map(len, held)) == 120
        for key in (samples["group"], [normalise_text(text) for text in texts]):
            seen = [{key[int(i)] for i in rows} for rows in held]
            assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


def test_a_model_is_chosen_by_validation_alone():
    parts = [
        Part(np.array([2, 3]), np.array([1]), np.array([0])),
        Part(np.array([0, 1]), np.array([2]), np.array([3, 2, 1])),
    ]
    good, bad = Row("good", "image"), Row("bad", "image")
    results = {
        good: Outcome(np.full((4, 2), 1.0), [0.9, 0.4], 1.0, 1),
        bad: Outcome(np.full((4, 2), 2.0), [0.1, 0.5], 1.0, 1),
    }
    logits, names = choose(results, [good, bad], parts)
    assert names == ["good", "bad"]
    assert logits[:, 0].tolist() == [1.0, 2.0, 2.0, 2.0]


def test_the_comparison_is_paired_and_signed():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 300)
    rows = list(np.arange(300).reshape(3, 100))
    parts = [Part(np.array([0]), np.array([0]), rows[k]) for k in range(3)]

    def outcome(strength):
        scores = labels * strength + generator.normal(size=300)
        return Outcome(np.stack([-scores, scores], axis=1), [0.5 + strength / 10] * 3, 1.0, 1)

    results = {
        Row("image only", "image"): outcome(2.0),
        Row("text only", "text"): outcome(1.0),
        Row("f", "image+text"): outcome(0.5),
    }
    present = {"image": np.arange(300) > 50, "text": np.ones(300, dtype=bool)}
    table, comparison = summarise(
        "p", "none", results, parts, Answers(labels, [str(i) for i in range(300)], present)
    )
    assert comparison["single_chosen"] == ["image only"] * 3
    assert comparison["fused_significantly_worse"] and not comparison["fused_significantly_better"]
    assert comparison["difference"] == pytest.approx(
        comparison["fused_auroc"] - comparison["single_auroc"]
    )
    assert [row["samples_where_present"] for row in table] == [249, 300, 300]
    seen = results[Row("image only", "image")].logits.argmax(1)[51:] == labels[51:]
    assert table[0]["accuracy_where_present"] == pytest.approx(seen.mean())
    assert table[0]["auroc_minus_single"] == 0 and table[2]["auroc_minus_single_high"] < 0


def test_the_stored_command_keeps_folders_out_and_can_be_typed(monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["/somewhere/study.py", "--images", "/home/x/data", "--rows", "text only"]
    )
    found = typed_command(("--images", "--output"))
    assert found == "python examples/lung_disease/study.py --images DIR --rows 'text only'"


def test_a_model_of_one_modality_knows_that_it_is_missing(tmp_path):
    samples = datasets.Dataset.from_dict(
        {
            "image": ["x"] * 6,
            "text": ["a", None, None, None, "b", None],
            "group": list("abcdef"),
            "label": [0, 1, 1, 1, 0, 1],
        },
        features=datasets.Features(
            {
                "image": datasets.Value("string"),
                "text": datasets.Value("string"),
                "group": datasets.Value("string"),
                "label": datasets.ClassLabel(names=["a", "b"]),
            }
        ),
    )
    runner = Runner(samples, [], Settings(), lambda: None, lambda: None, tmp_path)
    telling = Part(np.array([0] * 30 + [4] * 30 + [1, 2, 3] * 10), np.array([4]), np.array([5]))
    assert np.exp(runner._without(["text"], telling, 1)).tolist() == [
        [pytest.approx(1 / 5), pytest.approx(4 / 5)]
    ]
    # Each class has one sample without a text. The absence says nothing about the class, so the
    # shares of all samples are used.
    samples = samples.remove_columns("label").add_column(
        "label", [0, 1, 0, 0, 0, 1], feature=samples.features["label"]
    )
    runner = Runner(samples, [], Settings(), lambda: None, lambda: None, tmp_path)
    silent = Part(np.array([0, 0, 0, 1, 2]), np.array([4]), np.array([5]))
    assert np.exp(runner._without(["text"], silent, 1)).tolist() == [
        [pytest.approx(5 / 7), pytest.approx(2 / 7)]
    ]


@pytest.mark.xdist_group("processes")
def test_the_whole_study_small_and_resumed(tmp_path, monkeypatch):
    import study
    import typer

    app = typer.Typer()
    app.command()(study.main)
    words = [
        "--limit",
        "40",
        "--folds",
        "2",
        "--epochs",
        "1",
        "--protocol",
        "published",
        "--output",
        str(tmp_path),
    ]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "1,379" in result.output.replace("\n", "") and "synthetic" in result.output
    folder = tmp_path / "phantom"
    written = json.loads((folder / "results.json").read_text())
    assert (
        written["synthetic_images"] is True and written["comparisons"][0]["protocol"] == "published"
    )
    assert len(written["rows"]) == 12 and all(row.keys() >= COLUMNS for row in written["rows"])
    assert "synthetic" in (folder / "report.md").read_text()
    for name in ("curves-published.png", "confusion-published.png"):
        assert (folder / name).stat().st_size > 10_000
    monkeypatch.setattr(
        "study_rows.fit", lambda *_, **__: pytest.fail("trained again what was done")
    )
    again = CliRunner().invoke(app, words, catch_exceptions=False)
    assert again.exit_code == 0
    assert json.loads((folder / "results.json").read_text())["rows"] == written["rows"]


class Middle:
    """A segmenter that finds the lungs in the middle of every picture."""

    def segment(self, paths):
        for _ in paths:
            mask = np.zeros((48, 48), bool)
            mask[16:32, 12:36] = True
            yield LungMask(mask, 0.9, True, ())


@pytest.mark.xdist_group("processes")
def test_segmented_rows_stand_beside_raw_ones(tmp_path, monkeypatch):
    import readme_table
    import study
    import typer

    draw = np.random.default_rng(0)
    (tmp_path / "CXR_png").mkdir()
    (tmp_path / "ClinicalReadings").mkdir()
    for number in range(40):
        (tmp_path / f"ClinicalReadings/CHNCXR_{number:04d}_{number % 2}.txt").write_text(
            f"male {20 + number}yrs"
        )
        # Only the middle of a picture depends on the class, and little. The rest is random.
        picture = draw.integers(0, 200, (48, 48))
        picture[16:32, 12:36] += 12 * (number % 2)
        Image.fromarray(picture.astype(np.uint8)).save(
            tmp_path / f"CXR_png/CHNCXR_{number:04d}_{number % 2}.png"
        )
    monkeypatch.setattr("mmfusion.LungSegmenter", Middle, raising=False)
    app = typer.Typer()
    app.command()(study.main)
    words = [
        "--dataset",
        "shenzhen",
        "--images",
        str(tmp_path),
        "--folds",
        "2",
        "--epochs",
        "1",
        "--rows",
        "only",
    ]
    words += ["--output", str(tmp_path / "out"), "--segment", "none", "--segment", "mask"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "out/shenzhen/results.json").read_text())
    rows = {(row["model"], row["segment"]): row for row in written["rows"]}
    assert sorted(rows) == [
        ("image only", "mask"),
        ("image only", "none"),
        ("text only", "mask"),
        ("text only", "none"),
    ]
    raw, masked = rows["image only", "none"], rows["image only", "mask"]
    assert masked["auroc"] != raw["auroc"]
    for name in ("accuracy", "auroc"):
        assert masked[f"{name}_minus_raw"] == pytest.approx(masked[name] - raw[name])
    assert "accuracy_minus_raw" not in raw and "accuracy_minus_raw" not in rows["text only", "mask"]
    assert rows["text only", "mask"]["auroc"] == rows["text only", "none"]["auroc"]
    shown = readme_table.render([written])
    assert (
        "black outside the lungs" in shown and f"| image only | {masked['accuracy']:.3f} |" in shown
    )
    # Other folds must be trained again.
    monkeypatch.setattr("study_rows.fit", lambda *_, **__: pytest.fail("trained again"))
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        CliRunner().invoke(app, [*words, "--data-seed", "1"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "shenzen"], "shenzhen"),
        (["--dataset", "covid"], "--images FOLDER"),
        (["--train", "froze"], "frozen"),
    ],
)
def test_a_mistake_is_answered(words, message, tmp_path):
    import study
    import typer

    app = typer.Typer()
    app.command()(study.main)
    result = CliRunner().invoke(app, [*words, "--output", str(tmp_path)])
    assert result.exit_code == 2 and message in result.output


def test_the_weights_in_the_packages_are_the_published_ones():
    from encoders import image_encoder, text_encoder

    image, text = image_encoder("small"), text_encoder("small")
    assert (image.dim, text.dim, text.max_length) == (1280, 384, 512)
    with pytest.raises(ValueError, match="small"):
        image_encoder("smal")
    assert Path(text.config.name).is_dir()
