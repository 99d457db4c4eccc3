"""Tests of the script that reads a folder of pictures: each outcome, the table, the exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "check_pictures.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pictures = tmp_path / "pictures"
    (pictures / "inner").mkdir(parents=True)
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(ramp).save(pictures / "good.png")
    Image.fromarray(ramp).save(pictures / "inner" / "good.JPG", format="JPEG")
    content = (pictures / "good.png").read_bytes()
    (pictures / "cut.png").write_bytes(content[:-20])
    (pictures / "notes").write_text("no picture")
    return pictures


def test_the_table_counts_by_suffix(folder: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.json"
    result = run(str(folder), "--reasons", "--output", str(answers))
    assert result.returncode == 0, result.stderr
    rows = {
        cells[1]: [int(cell) for cell in cells[2:8]]
        for cells in ([c.strip() for c in line.split("│")] for line in result.stdout.splitlines())
        if len(cells) > 8
    }
    counts = {suffix: row[:5] for suffix, row in rows.items()}
    assert counts == {
        ".png": [1, 1, 0, 0, 0],
        ".jpg": [1, 0, 0, 0, 0],
        "(none)": [0, 1, 0, 0, 0],
        "all": [2, 2, 0, 0, 0],
    }
    assert "image FILE must be a complete, undamaged picture" in result.stdout
    found = json.loads(answers.read_text())
    assert {path: answer["outcome"] for path, answer in found.items()} == {
        "good.png": "read",
        "inner/good.JPG": "read",
        "cut.png": "refused",
        "notes": "refused",
    }
    assert max(row[5] for row in rows.values()) > 10


def test_pictures_are_compared_with_other_decoders(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 4)).astype(np.uint8)
    grey = picture[..., 0].astype(np.uint16) * 200
    for suffix in ("png", "webp", "bmp", "jp2"):
        Image.fromarray(picture).save(tmp_path / f"colour.{suffix}", lossless=True)
    Image.fromarray(picture[..., :3]).save(tmp_path / "colour.jpg")
    Image.fromarray(picture[..., :3]).quantize(9).save(tmp_path / "palette.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    for name, pixels in (("grey", grey), ("alpha", picture), ("bits", grey > 9000)):
        kind = "rgb" if pixels.ndim == 3 else "miniswhite"
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, photometric=kind, extrasamples=None)
    tifffile.imwrite(tmp_path / "pages.tif", np.stack([grey, grey]))
    # OpenCV leaves out the orientation of a WebP file.
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 3
    Image.fromarray(picture).save(tmp_path / "turned.webp", lossless=True, exif=turned)
    answers = tmp_path.parent / "answers.json"
    result = run(str(tmp_path), "--compare", "--output", str(answers))
    assert result.returncode == 0, result.stderr
    found = {path: answer["compared"] for path, answer in json.loads(answers.read_text()).items()}
    others = {"pages.tif": "", "turned.webp": "differs"}
    assert found == dict.fromkeys(found, "equal") | others
    assert f"differs: {tmp_path / 'turned.webp'}\n" in result.stdout
    last = next(line for line in result.stdout.splitlines() if "│ all" in line)
    assert [cell.strip() for cell in last.split("│")[7:9]] == ["10", "1"]


def test_faults_of_the_reader_are_told_apart(folder: Path, tmp_path: Path) -> None:
    # The processes of the script import this before anything else, and the faults with it.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\n"
        "import mmfusion.model.images as images\n"
        "real = images.load_image\n"
        "def faulty(path):\n"
        "    name = os.path.basename(path)\n"
        "    if name == 'notes': raise KeyError('odd')\n"
        "    if name == 'cut.png': time.sleep(60)\n"
        "    if name == 'good.JPG': os.abort()\n"
        "    if name == 'large.png': bytearray(2**31)\n"
        "    return real(path)\n"
        "images.load_image = faulty\n"
    )
    (folder / "large.png").write_bytes((folder / "good.png").read_bytes())
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *(path for path in sys.path if path)])
    }
    command = [sys.executable, str(SCRIPT), str(folder), "--seconds", "1", "--memory", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert result.returncode == 1, result.stderr
    last = next(line for line in result.stdout.splitlines() if "│ all" in line)
    assert [cell.strip() for cell in last.split("│")[2:7]] == ["1", "0", "2", "1", "1"]
    assert "hung: " in result.stdout and "cut.png (beyond 1 seconds)" in " ".join(
        result.stdout.split()
    )


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    result = run(str(tmp_path))
    assert result.returncode == 2 and "holds no file" in " ".join(result.stdout.split())
