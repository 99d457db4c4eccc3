"""Actors of Ray answer as one process does, also when one of them is killed."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from mmfusion import FusionProcessor
from mmfusion.data.toy import word_tokenizer
from mmfusion.testing import tiny_classifier

ROWS = int(os.environ.get("MMFUSION_RAY_ROWS", "4000"))
"""The figures in the documentation are of 20,000."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    model = tiny_classifier("concat", "linear", "timm_vit", "bert")
    assert model.image_encoder is not None
    words = word_tokenizer(["clear lungs no effusion"])
    processor = FusionProcessor(words, model.image_encoder.input_spec)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    for shade in range(50):
        Image.new("L", (24, 24), 5 * shade).save(folder / f"{shade}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    lines = ["image,text,group"]
    for number in range(ROWS):
        image = "broken.png" if number == 700 else "" if number % 7 == 0 else f"{number % 50}.png"
        lines.append(f"{image},{'clear lungs ' * (1 + number % 9)}{number},p{number}")
    (folder / "rows.csv").write_text("\n".join(lines))
    return folder


def command(folder: Path, output: str, *more: str) -> list[str]:
    files = ["--manifest", str(folder / "rows.csv"), "--output", str(folder / output)]
    return [sys.executable, "-m", "mmfusion", "predict", str(folder / "model"), *files, *more]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_equal(found: list[dict[str, str]], wanted: list[dict[str, str]]) -> None:
    assert [row["row"] for row in found] == [str(number + 1) for number in range(ROWS)]
    assert sum(bool(row["error"]) for row in found) == 1 and found[700]["error"]
    for one, other in zip(found, wanted, strict=True):
        for name, value in other.items():
            if name.startswith("p_") and value:
                assert abs(float(one[name]) - float(value)) < 2e-6, (one, other)
            elif name != "error":
                assert one[name] == value


def actors(parent: int) -> list[int]:
    """Returns the numbers of the processes that hold the model."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::") and b"MapWorker" in title:
                found.append(int(entry.name))
    return found


def test_two_actors_equal_one_process_and_one_may_be_killed(folder: Path) -> None:
    done = subprocess.run(command(folder, "one.csv"), capture_output=True, text=True)
    assert done.returncode == 1, done.stderr  # one row cannot be read
    wanted = table(folder / "one.csv")
    with (folder / "log.txt").open("wb") as log:
        running = subprocess.Popen(
            command(folder, "two.csv", "--ray", "--workers", "2"), stdout=log, stderr=log
        )
        part = folder / "two.csv.part"
        # Some rows are written: the actors are at work.
        end = time.monotonic() + 240
        while not (part.exists() and part.stat().st_size > 20_000) and time.monotonic() < end:
            time.sleep(0.05)
        victims = actors(running.pid)
        assert running.poll() is None and victims, (folder / "log.txt").read_text()
        os.kill(victims[0], signal.SIGKILL)
        running.wait(300)
    assert running.returncode == 1, (folder / "log.txt").read_text()
    check_equal(table(folder / "two.csv"), wanted)


def test_ray_needs_a_table(folder: Path) -> None:
    model = str(folder / "model")
    asked = [sys.executable, "-m", "mmfusion", "predict", model, "--text", "a b", "--ray"]
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 1 and "--ray must come with --manifest" in done.stderr
