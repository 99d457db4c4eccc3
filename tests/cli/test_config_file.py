"""Options of a command from a YAML file."""

from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from mmfusion.cli import app, options

plain = typer.Typer()
seen: dict[str, Any] = {}


@plain.command()
def show(
    manifest: options.Manifest,
    label: options.LabelColumns = None,
    epochs: options.Epochs = None,
    what: options.TrainedParts = options.Train.all,
    pretrained: options.Pretrained = True,
    bf16: options.Bfloat16 = False,
    learning_rate: options.LearningRate = None,
    output: Annotated[Path, typer.Option()] = Path("out"),
    config: options.ConfigFile = None,
) -> None:
    """Keeps what it gets."""
    seen.clear()
    seen.update(locals())


def called(tmp_path: Path, content: str, *words: str) -> str:
    """Returns what a command prints, whose options are in a file and in words."""
    file = tmp_path / "options.yaml"
    file.write_text(content)
    return CliRunner().invoke(plain, [*words, "--config", str(file)]).output


def test_a_file_gives_what_the_command_line_leaves_out(tmp_path: Path) -> None:
    content = """
manifest: rows.csv
label: [mass, fluid]
epochs: 3
learning-rate: 1e-3
train: lora
no-pretrained: true
bf16: true
"""
    assert called(tmp_path, content, "--epochs", "5", "--output", "here") == ""
    assert seen["manifest"] == Path("rows.csv") and seen["label"] == ["mass", "fluid"]
    assert seen["epochs"] == 5 and seen["learning_rate"] == 0.001 and seen["output"] == Path("here")
    assert seen["what"] is options.Train.lora and seen["bf16"] is True
    assert seen["pretrained"] is False
    # The same names with "_", and an option that the command line turns back.
    assert called(tmp_path, "bf16: true\nlearning_rate: 0.5", "other.csv", "--pretrained") == ""
    assert seen["learning_rate"] == 0.5 and seen["pretrained"] is True


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch: 3", "unknown option 'epoch'. Did you mean 'epochs'?"),
        ("- epochs", "must hold lines such as"),
        ("epochs: [3]", "'epochs' must be one value, got [3]"),
        ("label: mass", "'label' must be a list, got 'mass'"),
        ("bf16: 1", "'bf16' must be true or false, got 1"),
        ("epochs:", "'epochs' must be one value, got None"),
        ("epochs: many", "'--epochs'"),
        ("epochs: 0", "'--epochs'"),
        ("a: [", "while parsing"),
        ("config: other.yaml", "unknown option 'config'"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    output = " ".join(called(tmp_path, content, "rows.csv").replace("│", " ").split())
    assert message in output


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    words = ["audit", "rows.csv", "--config", str(tmp_path / "none.yaml")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and "which does not exist" in " ".join(result.output.split())
