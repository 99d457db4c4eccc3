"""Tests of the table of architectures: the folds, the compared epoch, and the p-values."""

import json

import architectures
import keras
import numpy as np
import pytest
import typer
from architectures import ARCHITECTURES, DEFAULT
from architectures_rows import Settings, encoder_of
from architectures_table import accuracy_table, change_table
from paired import ranked_within
from PIL import Image
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from mmfusion import LungMask, auroc, load_image


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
    assert [row.title for row in published] == [
        "DenseNet121",
        "DenseNet169",
        "DenseNet201",
        "VGG19",
        "NASNetLarge",
    ]
    for row in published:
        assert {len(values) for values in row.published.values()} == {5}
        gain = 100 * (max(row.published["segmented"]) - max(row.published["raw"]))
        # The published change is the difference between the best epochs.
        assert gain == pytest.approx(row.change, abs=0.06)
    assert set(DEFAULT) < set(ARCHITECTURES)


def test_the_published_cnns_may_be_those_of_keras():
    settings = Settings(source="keras")
    encoder = encoder_of(ARCHITECTURES["densenet121"], settings)
    assert encoder.config.source == "keras" and encoder.config.name == "DenseNet121"
    assert encoder_of(ARCHITECTURES["vit_tiny_patch16_224"], settings).config.source == "timm"
    applications = dir(keras.applications)
    assert {row.title for row in ARCHITECTURES.values() if row.published} < set(applications)


class Middle:
    """A segmenter that finds the lungs in the middle of every picture."""

    def segment(self, paths):
        for path in paths:
            picture = load_image(path)
            mask = np.zeros((picture.height, picture.width), bool)
            mask[16:32, 12:36] = True
            yield LungMask(mask, 0.9, True, ())


@pytest.mark.xdist_group("processes")
def test_the_whole_run_small_and_resumed(shenzhen, tmp_path, app, monkeypatch):
    monkeypatch.setattr("mmfusion.LungSegmenter", Middle, raising=False)
    words = [
        "--images",
        str(shenzhen),
        "--model",
        "densenet121",
        "--model",
        "vit_tiny_patch16_224",
        "--segment",
        "mask",
    ]
    words += [
        "--segment",
        "crop",
        "--image-size",
        "64",
        "--folds",
        "2",
        "--epochs",
        "2",
        "--output",
        str(tmp_path / "out"),
    ]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "out/shenzhen-architectures"
    written = json.loads((folder / "results.json").read_text())
    assert [(row["model"], row["segment"]) for row in written["rows"]] == [
        (name, way) for name in ("DenseNet121", "ViT-Ti/8") for way in ("none", "mask", "crop")
    ]
    for row in written["rows"]:
        assert row["weights"] == "from random weights" and row["samples"] == 20
        # No epoch was chosen. The accuracy of the table is that of the last epoch, computed again
        # here from the stored logits.
        assert row["accuracy"] == pytest.approx(row["accuracy_by_epoch"][-1])
        assert len(row["accuracy_by_epoch"]) == 2 and ("accuracy_minus_raw_p_holm" in row) == (
            row["segment"] != "none"
        )
        raw = next(
            other
            for other in written["rows"]
            if (other["model"], other["segment"]) == (row["model"], "none")
        )
        assert row.get("accuracy_minus_raw", 0) == pytest.approx(row["accuracy"] - raw["accuracy"])
    # Each way was trained on its own pictures, so the logits differ.
    logits = {}
    for path in (folder / "folds").glob("vit*-0-*.json"):
        logits[path.name.split("-")[1]] = np.asarray(json.loads(path.read_text())["logits"])
    assert sorted(logits) == ["crop", "mask", "none"] and logits["none"].shape == (10, 2)
    assert all(np.abs(logits[way] - logits["none"]).max() > 1e-3 for way in ("mask", "crop"))
    drawn = sorted(path.name for path in folder.glob("attention-vit_tiny_patch16_224-*.png"))
    assert len(drawn) == 6 and (folder / "accuracies.png").exists()
    assert "| DenseNet121 | from random weights | raw |" in (folder / "report.md").read_text()
    monkeypatch.setattr(
        architectures, "fit", lambda *_, **__: pytest.fail("trained again what was done")
    )
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    assert json.loads((folder / "results.json").read_text())["rows"] == written["rows"]
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        CliRunner().invoke(app, [*words, "--seed", "1"], catch_exceptions=False)


def test_the_auroc_over_folds_is_not_that_of_their_offsets():
    draw = np.random.default_rng(0)
    labels = np.tile([0, 1], 100)
    folds = [np.arange(100), np.arange(100, 200)]
    evidence = 2 * labels + draw.normal(size=200)
    shifted = evidence + 50 * (np.arange(200) < 100)
    both = [np.stack([np.zeros(200), values], axis=1) for values in (evidence, shifted)]
    aurocs = [auroc(ranked_within(logits, folds), labels) for logits in both]
    assert aurocs[0] == aurocs[1] == pytest.approx(roc_auc_score(labels, evidence), abs=0.02)
    assert auroc(both[1], labels) < 0.8 < aurocs[1]


def entry(**changes):
    known = {
        "model": "DenseNet121",
        "weights": "ImageNet",
        "segment": "none",
        "accuracy_by_epoch": [0.5, 0.625],
    }
    known |= {
        "published_accuracy_by_epoch": [0.5, 0.4706, 0.5441, 0.3235, 0.6618],
        "published_change_points": 4.4,
    }
    known |= {
        "accuracy": 0.625,
        "accuracy_low": 0.5,
        "accuracy_high": 0.7,
        "auroc": 0.6,
        "auroc_low": 0.5,
        "auroc_high": 0.7,
    }
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
    (line,) = change_table(
        {
            "rows": [
                entry(
                    segment="mask",
                    accuracy_minus_raw_p=0.04,
                    accuracy_minus_raw_p_holm=0.2,
                    **gains,
                )
            ]
        }
    )[2:]
    assert (
        "| -0.100 (-0.200 to +0.050) | -0.100 (-0.200 to +0.050) | 0.040 (0.200) | +4.4 points |"
        in line
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "densenet12"], "densenet121"),
        (["--segment", "none"], "'mask', 'crop'"),
        (["--dataset", "phantom"], "synthetic"),
    ],
)
def test_a_mistake_is_answered(words, message, shenzhen, tmp_path, app):
    done = CliRunner().invoke(
        app, ["--images", str(shenzhen), *words, "--output", str(tmp_path / "out")]
    )
    assert done.exit_code == 2 and message in " ".join(done.output.split())
