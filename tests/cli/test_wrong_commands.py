"""Wrong command lines: each is answered by one line, with exit status 1 or 2, and in time."""

import os
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mmfusion.cli import app

# What stands for a path in the words below.
ODD_FILES = ("FOLDER", "PIPE", "ZERO", "GONE", "FILE/x", "LOOP", "LONG", "BYTES", "EMPTY", "MODEL")
ODD_FOLDERS = ("FILE", "PIPE", "ZERO", "FILE/x", "LOOP", "LONG")

TRAIN = "train ROWS --image-encoder test_vit --no-pretrained --output NEW"
COMPARE = "compare ROWS --image-encoder test_vit --no-pretrained --output NEW"
PREDICT = "predict MODEL"

COMMANDS = [
    *(f"audit {path}" for path in (*ODD_FILES, "TEXT", "NUL.csv", "''")),
    *(f"evaluate MODEL {path}" for path in (*ODD_FILES, "TEXT")),
    *(f"{PREDICT} --image {path}" for path in (*ODD_FILES, "TEXT")),
    *(f"{PREDICT} --text {path}" for path in (*ODD_FILES[:-3], "BYTES", "MODEL", "ROWS.png")),
    *(f"{PREDICT} --manifest {path} --output NEW.csv" for path in ODD_FILES),
    *(f"{PREDICT} --manifest ROWS --output {path}" for path in
      ("FOLDER", "PIPE", "ZERO", "FILE/x", "LOOP", "LONG", "/dev/full", "ROWS", "''")),
    *(f"predict {path} --image PICTURE" for path in
      (*ODD_FILES[:-1], "TEXT", "ROWS", "''", "a/b/c", "./MODELL", "~/model", "nobody/nothing",
       "https://huggingface.co/a/b", "HURT", "TORN")),
    *(f"evaluate {path} ROWS" for path in ("FOLDER", "PIPE", "GONE", "HURT", "TORN", "ROWS")),
    *(f"export {path} NEW.pt2" for path in ("FOLDER", "PIPE", "GONE", "HURT", "ROWS")),
    *(f"serve {path}" for path in ("FOLDER", "PIPE", "GONE", "HURT", "ROWS")),
    *(f"demo {path}" for path in ("FOLDER", "PIPE", "GONE", "HURT", "ROWS")),
    "serve MODEL --engine fast", "serve MODEL --engine onnx --dtype int8",
    "serve MODEL --port 70000", "serve MODEL --wait -1",
    "serve MODEL --seconds 0", "demo MODEL --port -1", "demo MODEL GONE",
    *(f"export MODEL {path}" for path in ("FOLDER", "PIPE", "FILE/x.pt2", "LOOP", "NEW.bin", "''")),
    *(f"export MODEL NEW.pt2 --manifest {path}" for path in ("FOLDER", "PIPE", "GONE", "TEXT")),
    *(f"explain MODEL --output NEW.html --image {path}" for path in (*ODD_FILES[:3], "TEXT")),
    *(f"explain MODEL --image PICTURE --output {path}" for path in ("FOLDER", "PIPE", "''")),
    "explain MODEL", "explain MODEL --json", "explain GONE --json --image PICTURE",
    "explain MODEL --image PICTURE --json --method some",
    "explain MODEL --image PICTURE --json --words some",
    "explain MODEL --image PICTURE --json --target nobody",
    *(f"{TRAIN} --output {path}" for path in ODD_FOLDERS),
    *(f"{TRAIN} --cache {path}" for path in ODD_FOLDERS),
    *(f"{COMPARE} --output {path}" for path in ODD_FOLDERS),
    *(f"{COMPARE} --cache {path}" for path in ODD_FOLDERS),
    *(f"{COMPARE} --image-weights {path}" for path in ODD_FILES),
    *(f"{TRAIN} --image-encoder {path}" for path in ("FOLDER", "PIPE", "FILE", "./gone", "r19")),
    *(f"{TRAIN} --text-encoder {path}" for path in ("FOLDER", "PIPE", "FILE", "./gone", "a/b/c")),
    f"{TRAIN} --label nothing", f"{TRAIN} --label image", f"{TRAIN} --label label --label label",
    f"{TRAIN} --fusion concta", f"{TRAIN} --mapper liner", f"{TRAIN} --train some",
    f"{TRAIN} --epochs 0", f"{TRAIN} --epochs x", f"{TRAIN} --batch-size 0", f"{TRAIN} --seed -1",
    f"{TRAIN} --learning-rate -1", f"{TRAIN} --workers -1",
    f"{TRAIN} --template {{", f"{TRAIN} --template {{gone}}", f"{TRAIN} --template words",
    f"{TRAIN} --class-weights some", f"{TRAIN} --pos-weight balanced", f"{TRAIN} --focal-gamma -1",
    f"{TRAIN} --uncertain positive", f"{TRAIN} --unknown-label NA",
    f"{COMPARE} --class-weights some", f"{COMPARE} --pos-weight balanced",
    f"{COMPARE} --focal-gamma nan", f"{COMPARE} --unknown-label -1 --uncertain negative",
    "evaluate MODEL ROWS --unknown-label NA", "evaluate MODEL ROWS --unknown-label well",
    "audit ROWS --unknown-label NA",
    f"{COMPARE} --rows nothing", f"{COMPARE} --folds 1", f"{COMPARE} --folds 500",
    f"{PREDICT}", f"{PREDICT} --json", f"{PREDICT} --manifest ROWS", f"{PREDICT} --output NEW.csv",
    f"{PREDICT} --manifest ROWS --output NEW.csv --json",
    f"{PREDICT} --manifest ROWS --output NEW.csv --batch-size 0",
    "", "nothing", "train", "audit", "predict", "export MODEL", "--nothing", "audit --nothing",
]  # fmt: skip


@pytest.fixture(scope="module")
def names(small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "file").write_text("x")
    (folder / "empty.csv").write_text("")
    (folder / "bytes.csv").write_bytes(b"text\n\xff\x1b[31m\n")
    (folder / "text.csv").write_text("text,label\na\n\x1b[31m,b\n")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe.csv")
    (folder / "zero.csv").symlink_to("/dev/zero")
    (folder / "loop").symlink_to(folder / "loop")
    shutil.copytree(small / "model", folder / "hurt")
    weights = folder / "hurt" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    shutil.copytree(small / "model", folder / "torn")
    (folder / "torn" / "config.json").write_text('{"model_type": ')
    return {
        "FOLDER": str(folder / "folder"), "PIPE": str(folder / "pipe.csv"), "LONG": "x" * 300,
        "ZERO": str(folder / "zero.csv"), "GONE": str(folder / "gone.csv"),
        "FILE/x": str(folder / "file" / "x.csv"), "FILE/x.pt2": str(folder / "file" / "x.pt2"),
        "FILE": str(folder / "file"), "LOOP": str(folder / "loop"), "NUL.csv": "a\0b.csv",
        "BYTES": str(folder / "bytes.csv"), "EMPTY": str(folder / "empty.csv"),
        "TEXT": str(folder / "text.csv"), "MODEL": str(small / "model"),
        "./MODELL": str(small / "modell"), "ROWS": str(small / "rows.csv"), "''": "",
        "PICTURE": str(small / "0.png"), "ROWS.png": str(small / "0.png"),
        "HURT": str(folder / "hurt"), "TORN": str(folder / "torn"), "NEW": str(folder / "new"),
        "NEW.csv": str(folder / "new.csv"), "NEW.pt2": str(folder / "new.pt2"),
        "NEW.bin": str(folder / "new.bin"),
    }  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_command_is_answered_in_one_line(command: str, names: dict[str, str]) -> None:
    words = [names.get(word, word) for word in command.split()]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    said = done.stderr
    assert "Traceback" not in said
    assert "\x1b" not in done.output
    if done.exit_code == 2:
        # typer's own answer to words that it does not know.
        assert "Usage: " in done.output or "requires an argument" in done.output
        return
    assert done.exit_code == 1
    assert done.stdout == ""
    assert said.startswith("error: ")
    assert said.endswith("\n")
    assert said.count("\n") == 1
    assert len(said) < 1500


def test_two_manifests_of_one_name_are_both_audited(tmp_path: Path) -> None:
    for folder, text in (("a", "clear"), ("b", "Clear.")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.csv").write_text(f"text,label\n{text},x\n")
    paths = [str(tmp_path / folder / "rows.csv") for folder in "ab"]
    done = CliRunner().invoke(app, ["audit", *paths])
    assert done.exit_code == 1
    assert "1 texts occur in more than one split" in done.stdout
    twice = CliRunner().invoke(app, ["audit", paths[0], paths[0]])
    assert "error: manifests must be different files" in twice.stderr


def test_every_command_is_tried() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {command.split()[0] for command in COMMANDS if command} >= set(commands)
    assert len(COMMANDS) > 150
