"""Tests of the shapes script: a small run ends offline and prints every comparison."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "shapes.py"


@pytest.fixture(scope="module")
def shapes():
    """The script, imported as a module."""
    specification = importlib.util.spec_from_file_location("gallery_shapes", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules[module.__name__]


@pytest.fixture
def threads():
    """Restores the number of threads, which the script changes."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_it_prints_the_three_models_and_the_differences(shapes, threads, monkeypatch):
    import typer

    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    app.command()(shapes.main)
    outcome = CliRunner().invoke(app, ["--n", "80", "--epochs", "1"])
    assert outcome.exit_code == 0, outcome.output
    lines = outcome.output.splitlines()
    for title in ("image + text", "image only", "text only"):
        (line,) = (line for line in lines if line.lstrip("│ ").startswith(title))
        assert ("p = " in line) == (title != "image + text"), line


@pytest.mark.parametrize("modalities", [("image", "text"), ("image",), ("text",)])
def test_a_model_has_the_modalities_asked_for(shapes, tmp_path, modalities):
    rows = shapes.load_manifest(shapes.draw_shapes(tmp_path, 8, size=32))
    model, processor = shapes.compose(rows, modalities)
    assert model.modalities == modalities
    assert model.config.id2label[0] == "blue circle"
    given = {"images": [rows[0]["image"]]} if "image" in modalities else {}
    given |= {"text": [rows[0]["text"]]} if "text" in modalities else {}
    assert model.eval()(**processor(**given)).logits.shape == (1, 4)
