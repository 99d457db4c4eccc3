"""The table of architectures: the same folds for raw and segmented, no epoch chosen, p-values corrected."""

import json

import architectures
import numpy as np
import pytest
import typer
from architectures import ARCHITECTURES, DEFAULT, _correct
from architectures_table import accuracy_table, change_table
from PIL import Image
from typer.testing import CliRunner


@pytest.fixture
def app():
    made = typer.Typer()
    made.command()(architectures.main)
    return made


@pytest.fixture
def shenzhen(tmp_path):
    draw = np.random.default_rng(0)
    place = tmp_path / "CXR_png"
    place.mkdir()
    for number in range(20):
        sick = number % 2
        picture = draw.integers(0, 120, (48, 48)) + 100 * sick
        Image.fromarray(picture.astype(np.uint8)).save(place / f"CHNCXR_{number:04d}_{sick}.png")
    return tmp_path


def test_the_published_rows_are_all_there():
    published = [row for row in ARCHITECTURES.values() if row.published]
    assert [row.title for row in published] == ["DenseNet121", "DenseNet169", "DenseNet201", "VGG19", "NASNetLarge"]
    for row in published:
        assert {len(values) for values in row.published.values()} == {5}
        gain = 100 * (max(row.published["segmented"]) - max(row.published["raw"]))
        # The claimed change is the difference of the best epochs.
        assert gain == pytest.approx(row.change, abs=0.06)
    assert set(DEFAULT) < set(ARCHITECTURES)


@pytest.mark.xdist_group("processes")
def test_the_whole_run_small_and_resumed(shenzhen, tmp_path, app, monkeypatch):
    words = ["--images", str(shenzhen), "--model", "densenet121", "--model", "vit_tiny_patch16_224", "--segment", "mask"]
    words += ["--segment", "crop", "--image-size", "64", "--folds", "2", "--epochs", "2", "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "out/shenzhen-architectures"
    written = json.loads((folder / "results.json").read_text())
    assert [(row["model"], row["segment"]) for row in written["rows"]] == [
        (name, way) for name in ("DenseNet121", "ViT-Ti/16") for way in ("none", "mask", "crop")
    ]
    for row in written["rows"]:
        assert row["weights"] == "from random weights" and row["samples"] == 20
        # No epoch was chosen: the figure of the table is that of the last one, counted a second time from the stored logits.
        assert row["accuracy"] == pytest.approx(row["accuracy_by_epoch"][-1])
        assert len(row["accuracy_by_epoch"]) == 2
    # The segmenter finds no lungs in noise; the pictures stay as they are, and equal pictures train to equal models.
    assert any("20 show no lungs" in note for note in written["cohort"])
    first, second, _ = written["rows"][:3]
    assert first["accuracy_by_epoch_and_fold"] == second["accuracy_by_epoch_and_fold"]
    assert second["accuracy_minus_raw"] == 0 and second["mcnemar_p"] == 1
    for name in ("accuracies", "attention-vit_tiny_patch16_224-none-heads", "attention-vit_tiny_patch16_224-mask-rollout"):
        with Image.open(folder / f"{name}.png") as drawn:
            assert drawn.width > 300
    assert "| DenseNet121 | from random weights | raw |" in (folder / "report.md").read_text()
    monkeypatch.setattr(architectures, "fit", lambda *_, **__: pytest.fail("trained again what was done"))
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    assert json.loads((folder / "results.json").read_text())["rows"] == written["rows"]


def test_holms_correction():
    table = [{"mcnemar_p": p} for p in (0.01, 0.04, 0.03)] + [{"accuracy": 1}]
    _correct(table)
    # The least times 3, the next times 2, the largest times 1, never falling.
    assert [row.get("mcnemar_p_holm") for row in table] == [pytest.approx(0.03), pytest.approx(0.06), pytest.approx(0.06), None]


def entry(**changes):
    known = {"model": "DenseNet121", "weights": "ImageNet", "segment": "none", "accuracy_by_epoch": [0.5, 0.625]}
    known |= {"published_accuracy_by_epoch": [0.5, 0.4706, 0.5441, 0.3235, 0.6618], "published_change_points": 4.4}
    known |= {"accuracy": 0.625, "accuracy_low": 0.5, "accuracy_high": 0.7, "auroc": 0.6, "auroc_low": 0.5, "auroc_high": 0.7}
    return known | changes


def test_the_published_figures_stand_below_ours():
    lines = accuracy_table({"settings": {"epochs": 2}, "rows": [entry(), entry(segment="crop")]})
    assert lines[2:] == [
        "| DenseNet121 | ImageNet | raw | 0.5000 | 0.6250 |",
        "| | | raw, published | 0.5000 | 0.4706 |",
        "| DenseNet121 | ImageNet | cut to the lungs | 0.5000 | 0.6250 |",
    ]


def test_the_change_is_signed_and_has_its_interval():
    gains = {
        f"{name}_minus_raw{end}": value
        for name in ("accuracy", "auroc")
        for end, value in (("", -0.1), ("_low", -0.2), ("_high", 0.05))
    }
    (line,) = change_table({"rows": [entry(segment="mask", mcnemar_p=0.04, mcnemar_p_holm=0.2, **gains)]})[2:]
    assert "| -0.100 (-0.200 to +0.050) | -0.100 (-0.200 to +0.050) | 0.040 (0.200) | +4.4 points |" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "densenet12"], "densenet121"),
        (["--segment", "none"], "'mask', 'crop'"),
        (["--dataset", "phantom"], "synthetic"),
    ],
)
def test_a_mistake_is_answered(words, message, shenzhen, tmp_path, app):
    done = CliRunner().invoke(app, ["--images", str(shenzhen), *words, "--output", str(tmp_path / "out")])
    assert done.exit_code == 2 and message in " ".join(done.output.split())
