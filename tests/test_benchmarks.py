"""The benchmarks, run on tiny backbones.

The times mean nothing at that size. The cases still compare the answers of their sides.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from typer import Typer
from typer.testing import CliRunner

from benchmarks import (
    cases,
    epochs,
    gaps,
    layout,
    measuring,
    peers,
    pixels,
    plots,
    precision,
    report,
    scaling,
)
from benchmarks.__main__ import SETTINGS, command, main
from benchmarks.headline import LARGE, SMALL, headline
from benchmarks.measuring import Setting
from benchmarks.models import needed_operations, pairs, preset, transformer_operations
from benchmarks.timing import by_turns
from mmfusion import TextEncoder
from mmfusion.model.fusion import BUILT_IN

ROOT = Path(__file__).resolve().parents[1]


def run(*words: object, code: int = 0) -> str:
    app = Typer()
    app.command()(main)
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return str(result.output)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens everything that a case repeats or that takes long."""
    monkeypatch.setattr(cases, "GROWTH", (20, 40))
    monkeypatch.setattr(epochs, "COHORT", 6)
    monkeypatch.setattr(epochs, "CACHED_EPOCHS", 1)
    monkeypatch.setattr(scaling, "BATCHES", (2,))
    monkeypatch.setattr(scaling, "LENGTHS", (4, 8))
    monkeypatch.setattr(pixels, "SIDE", 64)
    monkeypatch.setattr(peers, "WIDTHS", {"to 128": 128, "to the longest": None})
    # The real compiler takes a minute. The answers of CompiledClassifier have tests of their own.
    monkeypatch.setattr(measuring, "CompiledClassifier", lambda model, **_: model)
    monkeypatch.setattr(precision, "CompiledClassifier", lambda model, **_: model)
    monkeypatch.setattr(precision, "WIDTHS", (64,))
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)


def test_every_case_runs_and_its_figures_are_kept(tmp_path: Path, small: None) -> None:
    output = tmp_path / "bench.json"
    options = [
        "--backbones",
        "tiny",
        "--batch-size",
        3,
        "--rounds",
        2,
        "--threads",
        1,
        "--output",
        output,
    ]
    run(*options, "--case", "text tower", "--case", "fused forward", "--case", "parts")
    kept = output.read_text()
    run(
        *options,
        *(
            word
            for name in cases.CASES
            if name not in json.loads(kept)["cases"]
            for word in ("--case", name)
        ),
    )
    found = json.loads(output.read_text())
    assert json.loads(kept)["cases"].items() <= found["cases"].items()
    assert set(found["cases"]) == set(cases.CASES)
    assert all("torch" in case["made"]["versions"] for case in found["cases"].values())
    text = found["cases"]["text tower"]
    assert all(len(side["rounds"]) == 2 and side["median"] > 0 for side in text["seconds"].values())
    rate = text["operations"]["packed"] / text["seconds"]["packed"]["median"] / text["matmul_rate"]
    assert text["share_of_matmul_rate"]["packed"] == pytest.approx(rate)
    assert {"concat", "dual encoder, to 512"} <= set(found["cases"]["fused forward"]["seconds"])
    assert set(found["cases"]["growth"]["pairs"]) == {"20", "40"}
    assert set(found["cases"]["scaling"]["batch"]) == {"2"} and set(
        found["cases"]["scaling"]["length"]
    ) == {"4", "8"}
    assert set(found["cases"]["epoch"]["seconds"]) == {"cached", "frozen", "full training"}
    assert set(found["cases"]["pixels to label"]["seconds"]) == {
        "classifier",
        "lungs",
        "lungs, then classifier",
    }
    others = found["cases"]["peers"]
    sides = {"dual encoder, eager", "dual encoder, sdpa", "dual encoder, compiled"}
    optional = {"torchmultimodal": "torchmultimodal, late fusion", "monai": "MONAI, TransCheX"}
    sides |= {side for package, side in optional.items() if package not in others["absent"]}
    expected = {"mmfusion, packed", "mmfusion, compiled"} | {
        f"{side}, {width}" for side in sides for width in peers.WIDTHS
    }
    assert set(others["seconds"]) == expected
    text_of_all = report.render("bench", found["cases"])
    assert all(
        f"## {name.capitalize()}, tiny towers, float32\n" in text_of_all for name in cases.CASES
    )
    # Two lines of heading, and all rows but one: the row of onnxruntime needs batch 32.
    assert len(
        headline({"bench": found["cases"], "bench-small": found["cases"]}).splitlines()
    ) == 1 + len(LARGE) + len(SMALL)
    assert set(found["cases"]["parts"]["share_of_forward_time"]) == set(BUILT_IN)


def test_a_peer_that_is_not_installed_is_left_out_and_named(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        peers, "PEERS", {"torchmultimodal": ("no_such_package",), "monai": ("no_such_package",)}
    )
    monkeypatch.setattr(peers, "WIDTHS", {"to the longest": None})
    found = peers.peers(Setting(preset("tiny"), "cpu", torch.float32, 2, 1))
    assert found["absent"] == ["torchmultimodal", "monai"] and len(found["seconds"]) == 5
    assert "Not installed, so not measured: torchmultimodal, monai." in "".join(
        report._remarks(found)
    )
    assert "skipped" in peers.peers(Setting(preset("small"), "cpu", torch.float32, 2, 1))


def test_the_plots_show_what_the_json_holds(tmp_path: Path) -> None:
    assert plots.stale() == []
    results, figures = tmp_path / "results", tmp_path / "figures"
    results.mkdir()
    figures.mkdir()
    side = {"median": 2.0, "low": 1.0, "high": 4.0, "rounds": [1.0, 2.0, 4.0]}
    slow = {"median": 200.0, "low": 100.0, "high": 400.0, "rounds": [100.0, 200.0, 400.0]}
    made = {"backbones": "base", "dtype": "float32", "device": "cpu", "batch_size": 4}
    point = {"seconds": side, "pairs_per_second": 1.0, "peak_megabytes": 10.0}
    figures_of = {
        "peers": {
            "seconds": {"mmfusion, packed": side, "dual encoder, sdpa, to 512": slow},
            "made": made,
        },
        "scaling": {
            "batch": {"1": point, "8": point},
            "length": {"16": point, "32": point},
            "made": made,
        },
        "growth": {"pairs": {}, "made": made},
        "latency": {"seconds": {"concat": side}, "made": made},
    }
    (results / "here.json").write_text(json.dumps({"cases": figures_of}))
    (results / "unet.json").write_text("{}")
    assert (
        set(plots.plots(results))
        == {"here-peers.png", "here-scaling.png"}
        == set(plots.stale(results, figures))
    )
    for name, (title, case) in plots.plots(results).items():
        figure = plots.draw(title, case)
        figure.savefig(figures / name, metadata={plots.SOURCE: plots.digest(case)})
        assert len(figure.axes) == (4 if title == "scaling" else 1)
    assert plots.stale(results, figures) == []
    bars = plots.draw("peers", figures_of["peers"]).axes[0]
    assert [bar.get_width() for bar in bars.patches] == [2.0, 200.0] and bars.get_xscale() == "log"
    assert bars.patches[0].get_facecolor() != bars.patches[1].get_facecolor()
    figures_of["peers"]["seconds"]["mmfusion, packed"] = side | {"median": 3.0}
    del figures_of["scaling"]
    (results / "here.json").write_text(json.dumps({"cases": figures_of}))
    assert plots.stale(results, figures) == ["here-peers.png", "here-scaling.png"]


def test_what_needs_datasets_is_skipped_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; sys.modules['datasets'] = sys.modules['keras'] = None; "
        "import benchmarks.__main__"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    setting = Setting(preset("tiny"), "cpu", torch.float32, 2, 1)
    assert (
        epochs.epoch(setting) == cases.growth(setting) == {"skipped": "datasets is not installed"}
    )


def test_the_readme_and_the_page_are_what_the_json_says() -> None:
    for file, text in report.written(report.read_runs()).items():
        assert file.read_text(encoding="utf-8") == text
    text = report.README.read_text(encoding="utf-8")
    for other in ("no markers", text + report.START):
        with pytest.raises(ValueError, match="once each"):
            report.put(other, "")


def test_every_figure_of_a_table_comes_from_the_json() -> None:
    side = {"median": 0.1234, "low": 0.1, "high": 0.2, "rounds": [0.1, 0.2]}
    slower = {"median": 0.2468, "low": 0.2, "high": 0.3, "rounds": [0.2, 0.3]}
    made = {
        "machine": {"processor": "abacus", "threads": 3},
        "versions": {"torch": "9.9"},
        "backbones": "base",
        "dtype": "float32",
    }
    made |= {"batch_size": 7, "command": "this"}
    figures: dict[str, dict[str, Any]] = {
        "text tower": {
            "seconds": {"packed": side, "padded": slower},
            "matmul_rate": 123.4e9,
            "share_of_matmul_rate": {"packed": 0.5},
        },
        "export": {"batch 1": {"seconds": {"eager": side}}, "largest_difference": {".pt2": 0.0}},
        "latency": {"seconds": {"concat": side | {"percentile_99": 0.1999}}},
        "parts": {"seconds": {"image tower": side}, "share_of_forward_time": {"concat": 0.0123}},
        "growth": {
            "pairs": {"1000": {"seconds": 2.0, "pairs_per_second": 500.0, "peak_megabytes": 1234.0}}
        },
    }
    run = {name: {"made": made} | found for name, found in figures.items()}
    text = report.render("here", run)
    assert (
        "## Text tower, ViT-B/16 and BERT-base, float32\n\nViT-B/16" in text and "batch 7" in text
    )
    assert (
        "abacus, 3 threads; torch 9.9; `this`." in text
        and "```{image} figures/here-text-tower.png\n" in text
    )
    assert "here-latency.png" not in text
    assert "times the first | of the rate of matrix products (123 GFLOP/s) |" in text
    assert (
        "| packed | 123.4 | 100.0 to 200.0 | 1.00 | 50% |" in text
        and "| padded | 246.8 | 200.0 to 300.0 | 2.00 |  |" in text
    )
    assert "| eager | 123.4 | 100.0 to 200.0 | 1.00 |\n" in text
    assert "99th percentile of concat: 199.9 ms." in text
    assert (
        "| export, batch 1 |" in text
        and "concat 1.2%" in text
        and "| 1,000 | 500 | 1,234 |" in text
    )


def test_the_headline_divides_the_medians() -> None:
    def side(median: float) -> dict[str, float]:
        return {"median": median}

    machine = {"processor": "abacus", "threads": 3}
    made = {"made": {"dtype": "bfloat16", "machine": machine, "batch_size": 6}}
    large = {
        "text tower": made
        | {
            "seconds": {
                "packed": side(2),
                "transformers, to the longest": side(5),
                "transformers, to 512": side(16),
            }
        },
        "fused forward": made
        | {
            "seconds": {
                "concat": side(4),
                "concat, compiled": side(2),
                "dual encoder, to the longest": side(6),
                "dual encoder, to 512": side(10),
            },
            "share_of_matmul_rate": {"concat": 0.54, "concat, compiled": 0.66},
        },
        "export": {"batch 1": {"seconds": {"eager": side(3), "onnxruntime": side(2)}}},
        "latency": {"seconds": {"concat": side(0.0301), "concat, compiled": side(0.02)}},
    }
    small = {"epoch": made | {"seconds": {"frozen": side(60), "cached": side(1)}}}
    lines = headline({"here": large, "here-small": small, "there-small": small}).splitlines()
    assert lines[0] == "| | bfloat16, abacus, batch 6 |" and lines[1] == "| --- | --- |"
    cells = [line.split(" | ")[1].removesuffix(" |") for line in lines[2:]]
    ratios = ["2.50 / 8.00", "1.50 / 2.50", "3.00 / 5.00", "54% / 66%"]
    assert cells == [*ratios, "2 / 3", "30.1 / 20", "60.00"]


def test_the_command_names_what_the_figures_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(SETTINGS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("HOSTNAME", "irrelevant")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "irrelevant")
    monkeypatch.setattr("sys.argv", ["__main__.py", "--case", "text tower"])
    assert command() == "OMP_NUM_THREADS=2 python -m benchmarks --case 'text tower'"


def test_a_side_that_answers_otherwise_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(preset("tiny"), "cpu", torch.float32, 2, 1)
    real = TextEncoder.forward
    off = {"packed": 1e-3}

    def wrong(self: TextEncoder, *args: Any, **kwargs: Any) -> Any:
        encoded = real(self, *args, **kwargs)
        return encoded._replace(pooled=encoded.pooled + off.get(self.padding, 0.0))

    monkeypatch.setattr(TextEncoder, "forward", wrong)
    with pytest.raises(
        RuntimeError, match=r"must answer as float32 eager does within 1e-05, got \{'packed': 0.00"
    ):
        cases.text_tower(setting)


def test_operations_are_those_of_the_products() -> None:
    # Counted by hand for BERT-base: 12 layers of 7,077,888 weights with two operations each, and
    # the two matrix products of the attention.
    config = preset("base").text
    length = 10
    by_hand = 12 * (2 * 7_077_888 * length + 2 * 2 * length * length * 768)
    assert transformer_operations(config, [length]) == by_hand
    assert transformer_operations(config, [length, length]) == 2 * by_hand
    # ViT-B/16 at 224 pixels needs 17.58 billion multiplications a picture, by the count of its
    # authors and of timm.
    image = needed_operations(preset("base"), 1, [])
    assert image is not None and image / 2 / 1e9 == pytest.approx(17.5, abs=0.1)
    assert needed_operations(preset("small"), 1, []) is None


def test_the_busy_time_counts_what_overlaps_once() -> None:
    assert gaps.busy([(7, 10), (0, 4), (2, 5), (2, 3)]) == (0.8, 2)
    assert gaps.busy([(1, 3)]) == (1, 0)
    setting = Setting(preset("tiny"), "cpu", torch.float32, 2, 1)
    assert "skipped" in gaps.gaps(setting)


def test_a_case_that_fails_stops_the_run_unless_it_is_told_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(setting: Setting) -> dict[str, Any]:
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(cases.CASES, "peers", fail)
    monkeypatch.setitem(cases.CASES, "growth", lambda setting: {"skipped": "too small"})
    output = tmp_path / "bench.json"
    options = ["--backbones", "tiny", "--case", "peers", "--case", "growth", "--output", output]
    with pytest.raises(RuntimeError, match="no such kernel"):
        run(*options)
    said = run(*options, "--keep-going", code=1)
    assert "no such kernel" in said and "Failed: peers." in said
    assert set(json.loads(output.read_text())["cases"]) == {"growth"}
    output.unlink()
    said = run(*options, "--minutes", "0")
    assert "Not started after 0 minutes: peers, growth." in said and not output.exists()


def test_sides_take_turns() -> None:
    order: list[str] = []
    seconds = by_turns(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, warm_up=1
    )
    assert order == ["a", "b"] * 3 and [len(taken) for taken in seconds.values()] == [2, 2]


def test_texts_are_the_same_however_far_they_are_padded() -> None:
    short, long = (pairs(preset("tiny"), 3, torch.float32, width=width) for width in (None, 512))
    width = short["input_ids"].shape[1]
    assert (
        torch.equal(short["input_ids"], long["input_ids"][:, :width])
        and not long["attention_mask"][:, width:].any()
    )
    assert torch.equal(short["pixel_values"], long["pixel_values"])


def test_options_are_checked() -> None:
    assert "must be of" in run("--case", "speed", code=2)
    assert "must be of" in run("--dtype", "float8", code=2)
    assert "runs on the CPU in float32" in run("--dtype", "bfloat16", "--case", "export", code=2)


def test_both_layouts_of_the_pixels_answer_alike_before_they_are_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layout, "WORK", {"two pictures": (2, False), "step": (2, True)})
    ratios = layout.measured("resnet10t", torch.float32, rounds=1)
    assert list(ratios) == ["two pictures", "step"] and min(ratios.values()) > 0
