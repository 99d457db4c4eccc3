"""The wheel holds the library, its weights with their card, its licence, and nothing else."""

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_it_holds_the_library_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    source = ROOT / "src"
    expected = {
        str(path.relative_to(source))
        for path in (source / "mmfusion").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == expected
    assert "mmfusion/py.typed" in found
    weights = {name for name in found if "/weights/" in name}
    assert {Path(name).name for name in weights} == {
        "MODEL_CARD.md",
        "lungs.json",
        "lungs.weights.h5",
    }
    small = {Path(name).name for name in found if "/phantom_model/" in name}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= small
    assert sum(entry.file_size for entry in wheel.infolist()) < 10e6
    described = {Path(name).name for name in set(wheel.namelist()) - found}
    assert described == {"METADATA", "WHEEL", "entry_points.txt", "LICENSE", "RECORD"}


def test_its_metadata_say_what_an_index_shows(wheel: zipfile.ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["Name"] == "mmfusion" and metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] and metadata["Description-Content-Type"] == "text/markdown"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert str(metadata.get_payload()).strip() == readme.strip()
    required = [one for one in metadata.get_all("Requires-Dist") or [] if "extra ==" not in one]
    heavy = ("keras", "tensorflow", "matplotlib", "pydicom", "onnx", "open_clip", "pandas")
    heavy += ("statsmodels", "gradio", "fastapi", "ray", "torchao")
    assert not [one for one in required if one.startswith(heavy)]
