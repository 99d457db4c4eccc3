"""Which rows a model was trained on: known again by patient, picture or text."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmfusion import load_manifest, split
from mmfusion.training.split_record import SPLIT_FILE, part_of_rows, split_record
from mmfusion.training.stored import write_json


def table(folder: Path, lines: list[str], name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(["image,text,label,group", *lines]))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a folder with 40 different pictures, and rows of 20 patients."""
    draw = np.random.default_rng(0)
    for number in range(40):
        pixels = draw.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    table(tmp_path, [f"{n}.png,clear lungs,{n % 2},p{n // 2}" for n in range(40)])
    return tmp_path


def test_the_parts_are_known_again_in_any_order_and_from_any_folder(folder: Path) -> None:
    manifest = folder / "rows.csv"
    rows = load_manifest(manifest)
    parts = split(rows, text=None)
    write_json(folder / "model" / SPLIT_FILE, split_record(parts, manifest, {"seed": 0}))
    truth = {path: name for name, part in parts.items() for path in part["image"]}
    turned = table(folder, [f"{n}.png,other words,0,x{n}" for n in reversed(range(40))], "t.csv")
    for path in (manifest, turned):
        again = load_manifest(path)
        found = part_of_rows(folder / "model", again, path)
        assert found.tolist() == [truth[image] for image in again["image"]]
        assert set(found) == {"train", "validation", "test"}
    stored = (folder / "model" / SPLIT_FILE).read_text()
    assert json.loads(stored)["rows"] == {name: len(part) for name, part in parts.items()}
    assert not any(word in stored for word in ("clear", "p1", ".png", str(folder)))


def test_a_new_picture_of_a_known_patient_is_not_new(folder: Path) -> None:
    first = table(folder, [f"{n}.png,clear lungs,{n % 2},p{n}" for n in range(30)])
    parts = split(load_manifest(first), text=None)
    write_json(folder / "model" / SPLIT_FILE, split_record(parts, first, {}))
    trained, tested = (parts[name]["group"][0] for name in ("train", "test"))
    lines = [f"30.png,new,0,{trained}", f"31.png,new,0,{tested}", "32.png,clear lungs,0,new"]
    # The picture was trained on, whoever is named beside it.
    lines.append(f"{Path(parts['train']['image'][0]).name},new,0,{tested}")
    second = table(folder, lines, "second.csv")
    rows = load_manifest(second)
    found = part_of_rows(folder / "model", rows, second)
    assert found.tolist() == ["train", "test", "new", "train"]


def test_rows_without_patients_and_pictures_are_known_by_their_texts(folder: Path) -> None:
    first = folder / "first.csv"
    first.write_text("text,label\n" + "".join(f"words {n},{n % 2}\n" for n in range(20)))
    parts = split(load_manifest(first, image=None))
    write_json(folder / "model" / SPLIT_FILE, split_record(parts, first, {}))
    # The rows of the file are other ones now: the numbers that stand in for patients do not count.
    lines = ["other 1,0", "other 2,0", *(f"words {n},0" for n in range(20))]
    first.write_text("\n".join(["text,label", *lines]))
    rows = load_manifest(first, image=None)
    found = part_of_rows(folder / "model", rows, first)
    truth = {text: name for name, part in parts.items() for text in part["text"]}
    assert found.tolist() == [truth.get(text, "new") for text in rows["text"]]


def test_a_model_without_a_record_knows_no_row(folder: Path) -> None:
    manifest = folder / "rows.csv"
    found = part_of_rows(folder / "model", load_manifest(manifest), manifest)
    assert set(found) == {"new"}
    (folder / "model").mkdir()
    (folder / "model" / SPLIT_FILE).write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object, got list"):
        part_of_rows(folder / "model", load_manifest(manifest), manifest)
