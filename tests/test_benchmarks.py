"""The benchmarks run, on backbones so small that their figures mean nothing; what they compare must answer alike."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from typer import Typer
from typer.testing import CliRunner

from benchmarks import cases, report
from benchmarks.__main__ import main
from benchmarks.models import needed_operations, pairs, preset, transformer_operations
from benchmarks.timing import by_turns
from mmfusion import TextEncoder

ROOT = Path(__file__).resolve().parents[1]


def run(*words: object, code: int = 0) -> str:
    app = Typer()
    app.command()(main)
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return str(result.output)


def test_every_case_runs_and_its_figures_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "GROWTH", (20, 40))
    # The real compiler takes a minute; that it answers alike is tested beside it.
    monkeypatch.setattr(cases, "CompiledClassifier", lambda model, **_: model)
    output = tmp_path / "bench.json"
    options = ["--backbones", "tiny", "--batch-size", 3, "--rounds", 2, "--threads", 1, "--output", output]
    run(*options, "--case", "text tower", "--case", "fused forward", "--case", "parts")
    run(*options, "--case", "training step", "--case", "latency", "--case", "compiled", "--case", "export", "--case", "growth")
    found = json.loads(output.read_text())
    assert set(found["cases"]) == set(cases.CASES)
    assert all(case["made"]["matmul_rate"] > 0 and "torch" in case["made"]["versions"] for case in found["cases"].values())
    text = found["cases"]["text tower"]
    assert all(len(side["rounds"]) == 2 and side["median"] > 0 for side in text["seconds"].values())
    rate = text["operations"]["packed"] / text["seconds"]["packed"]["median"] / text["made"]["matmul_rate"]
    assert text["share_of_matmul_rate"]["packed"] == pytest.approx(rate)
    assert {"concat", "dual encoder, to 512"} <= set(found["cases"]["fused forward"]["seconds"])
    assert set(found["cases"]["growth"]["pairs"]) == {"20", "40"}
    assert set(found["cases"]["parts"]["share_of_forward_time"]) == {"concat", "joint", "cross_attention", "mmtm", "late"}


def test_the_readme_is_what_the_json_says() -> None:
    text = report.README.read_text(encoding="utf-8")
    assert report.put(text, report.read_runs()) == text
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
        "text tower": {"seconds": {"packed": side, "padded": slower}, "share_of_matmul_rate": {"packed": 0.5}},
        "export": {"batch 1": {"seconds": {"eager": side}}, "largest_difference": {".pt2": 0.0}},
        "parts": {"seconds": {"image tower": side}, "share_of_forward_time": {"concat": 0.0123}},
        "growth": {"pairs": {"1000": {"seconds": 2.0, "pairs_per_second": 500.0, "peak_megabytes": 1234.0}}},
    }
    text = report.render({"cases": {name: {"made": made} | found for name, found in figures.items()}})
    assert "**text tower**: ViT-B/16" in text and "batch 7" in text and "abacus, 3 threads; torch 9.9; `this`." in text
    assert "| packed | 123.4 | 100.0 to 200.0 | 50% | 1.00 |" in text and "| padded | 246.8 | 200.0 to 300.0 |  | 2.00 |" in text
    assert "| export, batch 1 |" in text and "concat 1.2%" in text and "| 1,000 | 500 | 1,234 |" in text


def test_a_side_that_answers_otherwise_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = cases.Setting(preset("tiny"), "cpu", torch.float32, 2, 1, 1e9)
    real = TextEncoder.forward
    off = {"packed": 1e-3}

    def wrong(self: TextEncoder, *args: Any, **kwargs: Any) -> Any:
        encoded = real(self, *args, **kwargs)
        return encoded._replace(pooled=encoded.pooled + off.get(self.padding, 0.0))

    monkeypatch.setattr(TextEncoder, "forward", wrong)
    with pytest.raises(RuntimeError, match=r"must answer as float32 eager does within 1e-05, got \{'packed': 0.00"):
        cases.text_tower(setting)


def test_operations_are_those_of_the_products() -> None:
    """Counted by hand for BERT-base: 12 layers of 7,077,888 weights, two operations each, and the attention's two products."""
    config = preset("base").text
    length = 10
    by_hand = 12 * (2 * 7_077_888 * length + 2 * 2 * length * length * 768)
    assert transformer_operations(config, [length]) == by_hand
    assert transformer_operations(config, [length, length]) == 2 * by_hand
    # ViT-B/16 at 224 pixels: 17.58 billion multiplications a picture, as its authors and timm count.
    image = needed_operations(preset("base"), 1, [])
    assert image is not None and image / 2 / 1e9 == pytest.approx(17.5, abs=0.1)
    assert needed_operations(preset("small"), 1, []) is None


def test_sides_take_turns() -> None:
    order: list[str] = []
    seconds = by_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, warm_up=1)
    assert order == ["a", "b"] * 3 and [len(taken) for taken in seconds.values()] == [2, 2]


def test_texts_are_the_same_however_far_they_are_padded() -> None:
    short, long = (pairs(preset("tiny"), 3, torch.float32, width=width) for width in (None, 512))
    width = short["input_ids"].shape[1]
    assert torch.equal(short["input_ids"], long["input_ids"][:, :width]) and not long["attention_mask"][:, width:].any()
    assert torch.equal(short["pixel_values"], long["pixel_values"])


def test_options_are_checked() -> None:
    assert "must be of" in run("--case", "speed", code=2)
    assert "must be of" in run("--dtype", "float8", code=2)
    assert "runs on the CPU in float32" in run("--dtype", "bfloat16", "--case", "export", code=2)
