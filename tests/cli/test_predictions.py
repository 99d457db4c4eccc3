"""The predictions of many rows: what is in the file, and what a stopped run leaves."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from mmfusion.cli import app, predictions
from mmfusion.inference import stream


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def many(small: Path, output: Path, *more: object, manifest: str = "rows.csv") -> Any:
    return run(
        "predict", small / "model", "--manifest", small / manifest, "--output", output, *more
    )


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\uff1d1",
     "--1", "-", "+", "=-3", "-3-", "+1 555"],
)  # fmt: skip
def test_a_formula_gets_a_quotation_mark(text: str) -> None:
    assert predictions.spreadsheet_cell(text) == f"'{text}"


@pytest.mark.parametrize(
    "value",
    ["-3", "+3.5", "-.5e-7", "-3.", " -3 ", -3, -0.5, None, True, "a=b", "", "2024-05-31", "肺"],
)
def test_a_number_and_a_plain_text_stay(value: object) -> None:
    assert predictions.spreadsheet_cell(value) == value


def test_control_characters_become_escapes() -> None:
    cell = predictions.spreadsheet_cell("a\x1b]8;;x\x07\x00\x9b\ud800\nb\tc")
    assert cell == "a\\x1b]8;;x\\x07\\x00\\x9b\\ud800\nb\tc"
    assert predictions.spreadsheet_cell("\x1b=1") == "\\x1b=1"


def test_no_cell_of_the_file_is_a_formula_or_obeyed_by_a_terminal(
    small: Path, tmp_path: Path
) -> None:
    rows = [
        {"text": "clear lungs", "group": "=1", "+note": "\x1b[31m", "n": -3},
        {"text": "no effusion", "group": "-7", "+note": "@x", "n": -0.5},
        {"text": "", "image": "gone\x1b.png", "group": "\t=2", "+note": "a,b\n=c", "n": None},
    ]
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text("\n".join(json.dumps({"image": None} | row) for row in rows[:2]))
    output = tmp_path / "out.csv"
    done = many(small, output, manifest=str(manifest))
    assert done.exit_code == 0, done.output
    found = read(output)
    assert [row["group"] for row in found] == ["'=1", "-7"]
    assert [row["'+note"] for row in found] == ["\\x1b[31m", "'@x"]
    assert [row["n"] for row in found] == ["-3.0", "-0.5"]
    assert {row["predicted"] for row in found} <= {"'=1+1", "\\x1b[31mred", "well"}
    everything = output.read_bytes() + done.output.encode()
    assert not set(everything) & (set(range(32)) - set(b"\t\r\n") | {127})
    # The error of a missing picture repeats the cell.
    manifest.write_text(json.dumps(rows[2]))
    said = many(small, output, manifest=str(manifest))
    assert said.exit_code == 1 and "\x1b" not in said.output
    (error,) = (row["error"] for row in read(output))
    assert "\\x1b" in error and "\x1b" not in error


def test_one_sample_prints_no_control_character(small: Path) -> None:
    done = run("predict", small / "model", "--image", small / "0.png")
    assert "\\x1b[31mred\t" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.fixture
def broken(small: Path, tmp_path: Path) -> Path:
    """Returns a copy of the samples and the model, whose image tower holds a NaN."""
    folder = tmp_path / "broken"
    shutil.copytree(small, folder)
    path = folder / "model" / "model.safetensors"
    weights = load_file(path)
    name = next(key for key in weights if "patch_embed" in key and key.endswith("weight"))
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def test_an_answer_that_is_no_number_is_no_class(broken: Path, tmp_path: Path) -> None:
    options = ("predict", broken / "model", "--image", broken / "0.png")
    for more in ([], ["--json"]):
        done = run(*options, *more)
        assert done.exit_code == 1
        assert done.stdout == ""
        # A reader of weights may refuse them already.
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert "finite" in done.stderr
    if "logits" not in done.stderr:
        return
    done = many(broken, tmp_path / "out.csv")
    assert done.exit_code == 1
    found = read(tmp_path / "out.csv")
    assert len(found) == 40
    for row in found:
        assert "finite logits, got [nan, nan, nan]" in row["error"]
        assert [row[name] for name in row if name.startswith("p_") or name == "predicted"] == [
            ""
        ] * 4


def test_all_absent_files_are_told_at_once(small: Path, tmp_path: Path) -> None:
    """The other rows get their answers, and an audit lists all faults, not the first one alone."""
    header, *lines = (small / "rows.csv").read_text().splitlines()
    lines = [line if number % 10 else f"gone/{line}" for number, line in enumerate(lines)]
    lines[5] = lines[5].replace("p5", "p6")
    for name, part in (("train.csv", lines[:6]), ("test.csv", lines[6:])):
        (small / name).write_text("\n".join([header, *part]))
    done = CliRunner().invoke(
        app,
        [
            *("predict", str(small / "model"), "--manifest", str(small / "test.csv")),
            *("--output", str(tmp_path / "out.csv")),
        ],
    )
    assert done.exit_code == 1 and "34 samples, 3 of them with an error" in done.output
    told = [row["error"] for row in read(tmp_path / "out.csv")]
    assert [number for number, error in enumerate(told) if error] == [4, 14, 24]
    assert "gone/10.png" in told[4]
    words = ["audit", str(small / "train.csv"), str(small / "test.csv"), "--json"]
    audited = json.loads(CliRunner().invoke(app, words).stdout)
    counts = {one["kind"]: one["count"] for one in audited["findings"]}
    assert counts["unreadable_image"] == 4 and counts["group_across_splits"] == 1
    # A path that leads out of the folder is refused, as before.
    (small / "out.csv").write_text(
        f"image,text,label,group\n../../x.png,a,{lines[1].split(',')[2]},1"
    )
    result = CliRunner().invoke(app, ["audit", str(small / "out.csv")])
    assert result.exit_code == 1 and "must be a path inside" in " ".join(result.output.split())


def test_a_link_stays_and_its_file_is_written(small: Path, tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    assert many(small, tmp_path / "link.csv").exit_code == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert len(read(tmp_path / "real.csv")) == 40
    assert {path.name for path in tmp_path.iterdir()} == {"real.csv", "link.csv"}


def test_the_manifest_is_not_overwritten_under_another_name(small: Path) -> None:
    os.link(small / "rows.csv", small / "other.csv")
    before = (small / "rows.csv").read_bytes()
    done = many(small, small / "other.csv")
    assert done.exit_code == 1
    assert "must be another file than --manifest" in done.output
    assert (small / "rows.csv").read_bytes() == before


def test_a_pipe_in_the_place_of_the_unfinished_file(small: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out.csv.part")
    done = many(small, tmp_path / "out.csv")
    assert done.exit_code == 1
    assert "out.csv.part', which is a pipe" in done.output


def stopped(small: Path, output: Path, *more: object) -> "subprocess.Popen[str]":
    """Returns a running prediction of very many rows, after its first rows are written."""
    lines = (small / "rows.csv").read_text().splitlines()
    (small / "many.csv").write_text("\n".join([lines[0], *lines[1:] * 150]))
    words = [
        "predict",
        small / "model",
        "--manifest",
        small / "many.csv",
        "--output",
        output,
        *more,
    ]
    running = subprocess.Popen(
        [sys.executable, "-m", "mmfusion.cli", *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that runs the tests in the background lets its children ignore the keyboard.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    part = output.with_name(f"{output.name}.part")
    while running.poll() is None and not (part.exists() and part.stat().st_size > 5000):
        time.sleep(0.05)
    return running


@pytest.mark.parametrize("what", ["keyboard", "worker", "process"])
def test_a_stopped_run_leaves_its_rows_under_another_name(
    small: Path, tmp_path: Path, what: str
) -> None:
    output = tmp_path / "out.csv"
    output.write_text("what stood there before")
    running = stopped(small, output, "--workers", 2, "--batch-size", 4)
    if what == "keyboard":
        # As a terminal does: to the whole group.
        os.killpg(running.pid, signal.SIGINT)
    elif what == "worker":
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
    else:
        running.kill()
    said = running.communicate(timeout=60)[1]
    # A shell shows both numbers of the keyboard as 130.
    codes = {"keyboard": (130, -signal.SIGINT), "worker": (1,), "process": (-signal.SIGKILL,)}
    assert running.returncode in codes[what]
    assert output.read_text() == "what stood there before"
    if what != "process":
        assert "Traceback" not in said
        last = said.strip().splitlines()[-1]
        # torch may raise while the progress bar is closed, so its line may stand in front.
        assert last.count("error: ") == 1
        assert last.endswith(f"The rows until then are in '{output}.part'.")
    rows = read(tmp_path / "out.csv.part")
    assert [row["row"] for row in rows[:-1]] == [str(number) for number in range(1, len(rows))]


@pytest.mark.parametrize("how", ["limit", "mock"])
def test_a_full_disk(
    small: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch, full_disk: Any
) -> None:
    output = tmp_path / "out.csv"
    if how == "limit":
        with full_disk(2000):
            done = many(small, output)
    else:
        real = stream.predict_stream

        def full(*args: Any, **options: Any) -> Any:
            for number, answer in enumerate(real(*args, **options)):
                if number == 5:
                    raise OSError(28, "No space left on device")
                yield answer

        monkeypatch.setattr(stream, "predict_stream", full)
        done = many(small, output)
    assert done.exit_code == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: a file could not be read or written: ")
    assert last.endswith(f"Make room on the disk. The rows until then are in '{output}.part'.")
    assert not output.exists()
    assert (tmp_path / "out.csv.part").stat().st_size > 500
