"""Tests of the README's tables: they show what the JSON files hold, and nothing else."""

import json

import pytest
import readme_table
import typer
from typer.testing import CliRunner


def row(**changes):
    known = {
        "protocol": "notes",
        "model": "text only",
        "modality": "text",
        "mapper": None,
        "fusion": None,
        "segment": "none",
    }
    known |= {
        "accuracy": 0.71,
        "accuracy_low": 0.62,
        "accuracy_high": 0.81,
        "auroc": 0.8,
        "auroc_low": 0.7,
        "auroc_high": 0.9,
    }
    return (
        known
        | {"seconds_per_epoch": 1.0, "parameters_trained": 5, "published_accuracy": None}
        | changes
    )


def result(**changes):
    known = {
        "dataset": "covid",
        "synthetic_images": False,
        "command": "python study.py",
        "versions": {"torch": "2.11"},
    }
    known |= {
        "settings": {"folds": 5, "train": "frozen", "seeds": [0]},
        "comparisons": [],
        "rows": [row()],
    }
    return known | changes


def comparison(**changes):
    known = {
        "protocol": "notes",
        "segment": "none",
        "fused_auroc": 0.75,
        "single_auroc": 0.8,
        "difference": -0.05,
        "difference_low": -0.09,
    }
    known |= {
        "difference_high": -0.01,
        "fused_significantly_better": False,
        "fused_significantly_worse": True,
    }
    return known | changes


@pytest.fixture
def place(tmp_path):
    """A README with markers, and a folder of results."""
    (tmp_path / "README.md").write_text(
        f"before\n{readme_table.START}\n{readme_table.END}\nafter\n", encoding="utf-8"
    )
    (tmp_path / "results").mkdir()
    return tmp_path


def call(place, *more):
    app = typer.Typer()
    app.command()(readme_table.main)
    arguments = [*more, "--results", str(place / "results"), "--readme", str(place / "README.md")]
    return CliRunner().invoke(app, arguments)


def store(place, found, name="covid.json"):
    (place / "results" / name).write_text(json.dumps(found), encoding="utf-8")


def test_the_readme_of_this_repository_is_what_its_json_says():
    text = readme_table.README.read_text(encoding="utf-8")
    assert readme_table.put(text, readme_table.render(readme_table.read_results())) == text


def test_every_figure_comes_from_the_json():
    fused = row(model="concat", modality="image+text", auroc_minus_single=-0.05)
    fused |= {
        "auroc_minus_single_low": -0.09,
        "auroc_minus_single_high": -0.01,
        "published_accuracy": 0.79,
    }
    text = readme_table.render([result(rows=[row(), fused], comparisons=[comparison()])])
    assert "| text only | none | 0.710 (0.620 to 0.810) | 0.800 (0.700 to 0.900) |  |  |" in text
    assert (
        "| concat | real | 0.710 (0.620 to 0.810) | 0.800 (0.700 to 0.900) | "
        "-0.050 (-0.090 to -0.010) | 0.79 |" in text
    )
    assert "loses to" in text and "-0.050 (-0.090 to -0.010)" in text and "synthetic" not in text


@pytest.mark.parametrize(
    ("better", "worse", "word"),
    [
        (True, False, "beats"),
        (False, True, "loses to"),
        (False, False, "cannot be told apart from"),
    ],
)
def test_the_verdict_follows_the_interval(better, worse, word):
    entry = comparison(fused_significantly_better=better, fused_significantly_worse=worse)
    assert word in readme_table.render([result(comparisons=[entry])])


def test_synthetic_pictures_are_called_so():
    text = readme_table.render(
        [result(synthetic_images=True, rows=[row(model="image only", modality="image")])]
    )
    assert "| image only | synthetic |" in text and "say nothing about X-rays" in text


def test_a_stale_readme_fails_the_check_and_writing_mends_it(place):
    store(place, result())
    before = (place / "README.md").read_text(encoding="utf-8")
    assert call(place, "--check").exit_code == 1
    assert (place / "README.md").read_text(encoding="utf-8") == before
    assert call(place).exit_code == 0
    assert call(place, "--check").exit_code == 0
    written = (place / "README.md").read_text(encoding="utf-8")
    assert written.startswith("before\n") and written.endswith("after\n") and "text only" in written
    store(place, result(rows=[row(accuracy=0.72)]))
    assert call(place, "--check").exit_code == 1


def test_no_results_are_said_to_be_none(place):
    call(place)
    assert readme_table.NO_RESULTS in (place / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "no marker",
        f"{readme_table.END}\n{readme_table.START}",
        readme_table.START * 2 + readme_table.END,
    ],
)
def test_markers_must_be_there_once(place, text):
    (place / "README.md").write_text(text, encoding="utf-8")
    outcome = call(place)
    assert outcome.exit_code == 2
    assert (place / "README.md").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": []}'])
def test_a_file_that_is_no_result_is_named(place, content):
    (place / "results" / "odd.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"odd\.json must be"):
        readme_table.read_results(place / "results")
