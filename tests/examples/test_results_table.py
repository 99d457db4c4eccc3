"""Tests of the tables of results: they show what the JSON files hold, and nothing else."""

import json

import pytest
import results_table
import typer
from typer.testing import CliRunner


def interval(estimate, half=0.1):
    return {"estimate": estimate, "low": estimate - half, "high": estimate + half}


def row(name="text only", modalities=("text",), **changes):
    metrics = {
        metric: interval(value)
        for metric, value in {
            "accuracy": 0.71,
            "balanced_accuracy": 0.6,
            "auroc": 0.8,
            "ece": 0.05,
        }.items()
    }
    known = {"name": name, "modalities": list(modalities), "published": None}
    known |= {"seconds": 1.5, "parameters": 1234, "ece_uncalibrated": 0.06}
    return known | metrics | changes


def comparison(**changes):
    fused = {"names": [["concat"]], "accuracy": interval(0.75), "auroc": interval(0.85)}
    known = {
        "title": "covid, notes",
        "protocol": "notes",
        "segment": "none",
        "verdict": "Fusing helped.",
        "settings": {"folds": 5, "seeds": 3},
        "versions": {"torch": "2.11"},
        "rows": [row(), row("concat", ("image", "text"), minus_single=interval(0.05, 0.02))],
        "choice": {"fused": fused, "difference": interval(0.05, 0.02)},
    }
    return known | changes


def result(**changes):
    known = {
        "dataset": "covid",
        "synthetic_images": False,
        "command": "python study.py",
        "versions": {"torch": "2.11"},
        "comparisons": [comparison()],
    }
    return known | changes


@pytest.fixture
def place(tmp_path):
    """A page with markers, and a folder of results."""
    (tmp_path / "page.md").write_text(
        f"before\n{results_table.START}\n{results_table.END}\nafter\n", encoding="utf-8"
    )
    (tmp_path / "results").mkdir()
    return tmp_path


def call(place, *more):
    app = typer.Typer()
    app.command()(results_table.main)
    arguments = [*more, "--results", str(place / "results"), "--page", str(place / "page.md")]
    return CliRunner().invoke(app, arguments)


def store(place, found, name="covid.json"):
    (place / "results" / name).write_text(json.dumps(found), encoding="utf-8")


def test_the_page_of_this_repository_is_what_its_json_says():
    text = results_table.PAGE.read_text(encoding="utf-8")
    assert results_table.put(text, results_table.telling(results_table.read_results())) == text


def test_every_figure_comes_from_the_json():
    text = results_table.render([result()])
    assert "| text only | 0.710 (0.610 to 0.810) |" in text
    assert "+0.050 (+0.030 to +0.070)" in text
    assert "5 folds, 3 seeds. Fusing helped." in text and "synthetic" not in text


def test_the_page_has_three_rows_for_each_comparison():
    rows = [row("image only", ("image",)), row(), row("other"), row("concat", ("image", "text"))]
    table = results_table.telling([result(comparisons=[comparison(rows=rows)])]).splitlines()
    assert len(table) == 2 + 3
    assert table[2].startswith("| covid, text: notes | image only | 0.710")
    assert table[4] == (
        "| covid, text: notes | **fused** | 0.750 (0.650 to 0.850) | 0.850 (0.750 to 0.950) "
        "| +0.050 (+0.030 to +0.070) |"
    )
    # A comparison on segmented pictures, or without a choice, has no rows here.
    left_out = [comparison(segment="mask"), comparison(choice=None)]
    assert results_table.telling([result(comparisons=left_out)]) == results_table.NO_RESULTS


def test_synthetic_pictures_are_named_above_the_figures():
    text = results_table.render([result(synthetic_images=True)])
    assert text.index("The pictures are synthetic") < text.index("0.710")
    assert "(synthetic pictures)" in results_table.telling([result(synthetic_images=True)])


def test_segmented_rows_are_compared_with_raw_ones():
    gains = {
        f"{name}_minus_raw{end}": value
        for name in ("accuracy", "auroc")
        for end, value in (("", 0.02), ("_low", 0.01), ("_high", 0.03), ("_p", 0.04))
    }
    rows = [row(**gains, accuracy_minus_raw_p_holm=0.08)]
    text = results_table.render([result(comparisons=[comparison(segment="mask", rows=rows)])])
    assert "black outside the lungs" in text
    assert (
        "| text only | +0.020 (+0.010 to +0.030) | +0.020 (+0.010 to +0.030) | 0.040 (0.080) |"
        in text
    )


def test_a_single_comparison_is_read_as_a_study(place):
    plain = {key: value for key, value in comparison().items() if key not in ("protocol",)}
    store(place, plain, "skin_lesions.json")
    (found,) = results_table.read_results([place / "results"])
    assert found["command"] == "python examples/skin_lesions.py DIR"
    assert "| covid, notes | text only |" in results_table.telling([found])


def test_the_page_is_written_and_checked(place):
    store(place, result())
    assert call(place, "--check").exit_code == 1
    assert call(place).exit_code == 0
    assert call(place, "--check").exit_code == 0
    text = (place / "page.md").read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "0.850" in text
    store(place, result(dataset="other"))
    assert call(place, "--check").exit_code == 1


def test_without_results_it_says_so(place):
    assert call(place).exit_code == 0
    assert results_table.NO_RESULTS in (place / "page.md").read_text(encoding="utf-8")
    assert results_table.render([]) == results_table.NO_RESULTS


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "must be JSON"), ("[]", "got one without"), ('{"dataset": "x"}', "comparisons")],
)
def test_a_damaged_file_is_named(content, message, place):
    (place / "results" / "covid.json").write_text(content, encoding="utf-8")
    found = call(place)
    assert found.exit_code == 2 and message in found.output.replace("\n", " ")


@pytest.mark.parametrize("text", ["no markers", f"{results_table.END} {results_table.START}"])
def test_a_page_without_markers_is_refused(text):
    with pytest.raises(ValueError, match="once each"):
        results_table.put(text, "new")
