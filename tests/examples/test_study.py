"""Tests of the study: its rows, its output, segmented pictures beside raw ones, mistakes."""

import json
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from provenance import typed_command
from study_data import paired
from study_rows import rows_with_laterals, study_rows
from typer.testing import CliRunner

from mmfusion import LungMask
from mmfusion.model.fusion import BUILT_IN
from mmfusion.training.compare_folds import Trainings
from mmfusion.training.compare_rows import rows_of


def call(words):
    import study
    import typer

    app = typer.Typer()
    app.command()(study.main)
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_the_table_has_every_row_that_was_asked_for():
    rows = rows_of(study_rows(published=True, narrow=True), ["image", "text"])
    fused = {
        (row.options()["mapper"]["name"], row.options()["fusion"]["name"])
        for row in rows
        if row.is_fused
    }
    mappers = ("identity", "linear", "mlp", "cross_attention")
    assert {(mapper, "concat") for mapper in mappers} <= fused
    assert {fusion for _, fusion in fused} == set(BUILT_IN)
    published = {row.name: row.published for row in rows}
    assert (published["image only"], published["text only"]) == (0.77, 0.88)
    assert published["concat (linear)"] == 0.79
    leak_free = rows_of(study_rows(published=False, narrow=True), ["image", "text"])
    assert all(row.published is None for row in leak_free)
    # Only the run that must end within ten minutes leaves strategies out.
    quick = rows_of(study_rows(published=True, narrow=True, slow=False), ["image", "text"])
    assert {row.name for row in rows} - {row.name for row in quick} == {
        "mmtm",
        "bottleneck",
        "film",
        "gated",
        "low_rank",
        "tokens",
    }


def test_rows_of_frontal_and_lateral_x_rays():
    plain = study_rows(True, True)
    rows = {row if isinstance(row, str) else row.name: row for row in rows_with_laterals(plain)}
    names = [row if isinstance(row, str) else row.name for row in plain]
    assert list(rows)[: len(names)] == names
    assert rows["image only"].views == rows["late"].views == rows["concat (mlp)"].views == 1
    assert rows["text only"].views is None and rows["tfidf"] == "tfidf"
    assert rows["image only (frontal + lateral)"].views is None
    assert rows["image only"].published == 0.77


def test_a_study_becomes_a_list_of_pictures():
    table = datasets.Dataset.from_dict(
        {"image": ["f1", "f2"], "second": ["l1", None], "label": [0, 1]}
    )
    assert list(paired(table)["image"]) == [["f1", "l1"], ["f2", None]]
    with pytest.raises(ValueError, match="--laterals needs two X-rays of a study, got none"):
        paired(table.remove_columns("second"))


def test_the_stored_command_keeps_folders_out_and_can_be_typed(monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["/somewhere/study.py", "--images", "/home/x/data", "--rows", "text only"]
    )
    found = typed_command(("--images", "--output"))
    assert found == "python examples/lung_disease/study.py --images DIR --rows 'text only'"


@pytest.mark.xdist_group("processes")
def test_the_whole_study_small_and_resumed(tmp_path, monkeypatch):
    words = ["--limit", 40, "--folds", 2, "--seeds", 1, "--epochs", 1]
    words += ["--protocol", "published", "--output", tmp_path]
    result = call(words)
    assert result.exit_code == 0, result.output
    assert "synthetic" in result.output
    folder = tmp_path / "phantom"
    written = json.loads((folder / "results.json").read_text())
    assert written["synthetic_images"] is True
    (entry,) = written["comparisons"]
    assert entry["protocol"] == "published" and len(entry["rows"]) == 11
    assert any("1,379" in note for note in entry["notes"])
    assert "synthetic" in entry["notes"][0]
    report = (folder / "report.md").read_text()
    assert "synthetic" in report and entry["verdict"] in report
    assert (folder / "published" / "report.html").stat().st_size > 20_000
    monkeypatch.setattr(Trainings, "_train", lambda *_: pytest.fail("trained again"))
    assert call(words).exit_code == 0
    again = json.loads((folder / "results.json").read_text())
    assert again["comparisons"][0]["rows"] == entry["rows"]


class Middle:
    """A segmenter that finds the lungs in the middle of every picture."""

    def segment(self, paths):
        for _ in paths:
            mask = np.zeros((48, 48), bool)
            mask[16:32, 12:36] = True
            yield LungMask(mask, 0.9, True, ())


@pytest.mark.xdist_group("processes")
def test_segmented_rows_stand_beside_raw_ones(tmp_path, monkeypatch):
    import results_table

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
    words = ["--dataset", "shenzhen", "--images", tmp_path, "--folds", 2, "--seeds", 2]
    words += ["--rows", "only", "--segment", "none", "--segment", "mask"]
    words += ["--output", tmp_path / "out"]
    result = call(words)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "out/shenzhen/results.json").read_text())
    rows = {
        (row["name"], entry["segment"]): row
        for entry in written["comparisons"]
        for row in entry["rows"]
    }
    assert sorted(rows) == [
        ("image only", "mask"),
        ("image only", "none"),
        ("text only", "mask"),
        ("text only", "none"),
    ]
    raw, masked = rows["image only", "none"], rows["image only", "mask"]
    assert masked["auroc"] != raw["auroc"]
    for name in ("accuracy", "auroc"):
        gain = masked[name]["estimate"] - raw[name]["estimate"]
        assert masked[f"{name}_minus_raw"] == pytest.approx(gain)
        assert masked[f"{name}_minus_raw_low"] <= gain <= masked[f"{name}_minus_raw_high"]
    assert "accuracy_minus_raw" not in raw and "accuracy_minus_raw" not in rows["text only", "mask"]
    assert rows["text only", "mask"]["auroc"] == rows["text only", "none"]["auroc"]
    shown = results_table.render([written])
    assert "black outside the lungs" in shown and "AUROC minus raw" in shown
    # Other folds must be trained again.
    monkeypatch.setattr(Trainings, "_train", lambda *_: pytest.fail("trained again"))
    assert call(words).exit_code == 0
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        call([*words, "--seeds", 3])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "shenzen"], "shenzhen"),
        (["--dataset", "covid"], "--images FOLDER"),
        (["--train", "froze"], "frozen"),
        (["--segment", "crp"], "crop"),
    ],
)
def test_a_mistake_is_answered(words, message, tmp_path):
    result = call([*words, "--output", tmp_path])
    assert result.exit_code == 2 and message in result.output


def test_the_weights_in_the_packages_are_the_published_ones(tmp_path):
    import encoders

    image, text = encoders.image_encoder("small"), encoders.text_encoder("small")
    assert (image.dim, text.dim, text.max_length) == (1280, 384, 512)
    with pytest.raises(ValueError, match="small"):
        encoders.image_encoder("smal")
    assert Path(text.config.name).is_dir()
    # The files that it writes make the same encoders.
    encoders.main(tmp_path)
    from mmfusion import ImageEncoder, TextEncoder

    file = tmp_path / "tf_efficientnet_lite0.safetensors"
    again = ImageEncoder("tf_efficientnet_lite0", weights=file)
    assert all(
        (value == again.state_dict()[key]).all() for key, value in image.state_dict().items()
    )
    assert TextEncoder(str(tmp_path / "text")).dim == 384
