"""What `mmfusion serve`, `demo`, `export` and `compare` refuse or set before a model is loaded."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmfusion.cli import app
from mmfusion.cli.commands_serving import KERNEL_CACHES
from mmfusion.cli.inputs import require_extra


def said(*arguments: str) -> str:
    found = CliRunner().invoke(app, list(arguments))
    assert found.exit_code == 1
    return " ".join(found.output.split())


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_a_folder_that_is_not_there_is_refused(command: str, tmp_path: Path) -> None:
    assert "model must be a folder that holds a model" in said(command, str(tmp_path / "no"))


@pytest.mark.parametrize("command", [["serve"], ["predict", "--text", "clear"]])
def test_the_models_in_a_folder_are_named(command: list[str], small: Path) -> None:
    assert "has no config.json. These folders in it have one: model." in said(*command, str(small))


def test_an_engine_that_is_not_there_is_refused(small: Path) -> None:
    model = str(small / "model")
    assert "Did you mean 'eager'?" in said("serve", model, "--engine", "eger")
    wrong = said("serve", model, "--engine", "onnx", "--dtype", "int8")
    assert "dtype must be one that engine 'onnx' has" in wrong


def test_the_caches_of_kernels_are_limited(monkeypatch: pytest.MonkeyPatch, small: Path) -> None:
    own, other = KERNEL_CACHES
    monkeypatch.setenv(own, "7")
    # Set first, so that monkeypatch removes what the command sets.
    monkeypatch.setenv(other, "8")
    monkeypatch.delenv(other)
    said("serve", str(small / "model"), "--engine", "eger")
    # What the user has set stays.
    assert [os.environ[name] for name in KERNEL_CACHES] == ["7", "128"]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find: Any = importlib.util.find_spec
    absent = ("gradio", "uvicorn", "matplotlib", "onnxscript")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else find(name)
    )
    assert 'pip install "mmfusion[demo]"' in said("demo")
    assert 'uvicorn must be installed, got no such package. Run: pip install "mmfusion[serve]"' in (
        said("serve", "anything")
    )
    # The model and the table do not exist: nothing is read before.
    report = said("compare", "no.csv", "--image-encoder", "me/none", "--output", str(tmp_path))
    assert 'pip install "mmfusion[report]"' in report
    graph = str(tmp_path / "x.onnx")
    assert 'pip install "mmfusion[export]"' in said("export", "me/none", graph)


def test_what_is_installed_is_not_missed() -> None:
    require_extra("serve", "fastapi", "uvicorn", "multipart")
