"""Several pictures per row: several columns, or lists in one column, in every format."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mmfusion import FusionProcessor, ImageEncoder, load_manifest
from mmfusion import testing as kit
from mmfusion.data.audit import audit
from mmfusion.data.collate import Augmented, FusionCollator
from mmfusion.training.rows import first_views, most_views


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate("abcd"):
        pixels = np.full((8, 8), 40 * number + 20, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return tmp_path


def manifest(folder: Path, kind: str) -> tuple[Path, Any]:
    """Returns a table of three studies, in one of four ways, and the columns of its pictures."""
    views = [["a.png", "b.png"], ["c.png", None], [None, "d.png"]]
    if kind == "columns":
        rows = [{"frontal": f or "", "lateral": s or "", "label": "x"} for f, s in views]
        pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
        return folder / "rows.csv", ["frontal", "lateral"]
    table = pd.DataFrame({"image": views, "label": "x"})
    if kind == "parquet":
        table.to_parquet(folder / "rows.parquet")
        return folder / "rows.parquet", "image"
    lines = [json.dumps({"image": one, "label": "x"}) for one in views]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder / "rows.jsonl", "image"


@pytest.mark.parametrize("kind", ["columns", "parquet", "jsonl"])
def test_a_study_is_a_list_of_pictures(kind: str, folder: Path) -> None:
    path, image = manifest(folder, kind)
    rows = load_manifest(path, image=image, text=None)
    a, b, c, d = (str(folder / f"{name}.png") for name in "abcd")
    assert list(rows["image"]) == [[a, b], [c, None], [None, d]]
    assert rows.features["image"] == datasets.List(datasets.Value("string"))
    assert most_views(rows) == 2
    assert list(first_views(rows, 1)["image"]) == [a, c, None]
    assert most_views(first_views(rows, 1)) == 1


def test_cells_that_are_no_pictures(folder: Path) -> None:
    pd.DataFrame({"a": ["a.png", "lost.png"], "b": ["", "../x.png"]}).to_csv(folder / "t.csv")
    with pytest.raises(ValueError, match=r"column 'a' of .* got 'lost.png' in row 2"):
        load_manifest(folder / "t.csv", image=["a", "b"], text=None, label=None)
    with pytest.raises(ValueError, match=r"image must be one of the columns .* got 'c'"):
        load_manifest(folder / "t.csv", image=["a", "c"], text=None, label=None)
    with pytest.raises(ValueError, match="must be different columns, got"):
        load_manifest(folder / "t.csv", image=["a", "a"], text=None, label=None)
    with pytest.raises(ValueError, match=r"image must be a column, a list of columns or None"):
        load_manifest(folder / "t.csv", image=[], text=None, label=None)
    for cells, message in ((["a.png", "lost.png"], "got 'lost.png' in row 1"), (3, "a path or")):
        (folder / "t.jsonl").write_text(json.dumps({"image": cells}))
        with pytest.raises(ValueError, match=message):
            load_manifest(folder / "t.jsonl", text=None, label=None)
    # A row whose list holds nothing has no picture.
    (folder / "t.jsonl").write_text('{"image": ["a.png"], "text": "x"}\n{"image": [], "text": "y"}')
    rows = load_manifest(folder / "t.jsonl", label=None)
    assert list(rows["image"]) == [[str(folder / "a.png")], None]


def test_the_collator_makes_an_axis_of_views(folder: Path) -> None:
    path, image = manifest(folder, "columns")
    rows = load_manifest(path, image=image, text=None)
    encoder = ImageEncoder("resnet10t", pretrained=False)
    processor = FusionProcessor.from_encoders(encoder, None, num_views=2)
    batch = FusionCollator(processor)(list(rows))
    assert batch["image_present"].tolist() == [[True, True], [True, False], [False, True]]
    assert batch["pixel_values"].shape[:2] == (3, 2)
    alone = processor(images=[rows[2]["image"][1]])["pixel_values"][0, 0]
    assert torch.equal(batch["pixel_values"][2, 1], alone)
    assert not batch["pixel_values"][1, 1].any()
    assert batch["facts"].parts["image"] == ((True, True), (True, False), (False, True))
    # A processor of one picture refuses two.
    with pytest.raises(ValueError, match="at most 1 pictures per sample, got 2 in row 0"):
        FusionCollator(FusionProcessor.from_encoders(encoder, None))(list(rows))


def test_each_picture_of_a_study_is_augmented_in_its_own_way(folder: Path) -> None:
    path, image = manifest(folder, "columns")
    rows = load_manifest(path, image=image, text=None)
    seen: list[float] = []

    def augment(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        seen.append(float(rng.random()))
        return picture

    encoder = ImageEncoder("resnet10t", pretrained=False)
    processor = FusionProcessor.from_encoders(encoder, None, num_views=2)
    own = Augmented(rows, seed=3)
    FusionCollator(processor, augment=augment)([own[0], own[1]])
    expected = [
        np.random.default_rng(s).random() for s in ([3, 0, 0, 0], [3, 0, 0, 1], [3, 0, 1, 0])
    ]
    assert seen == expected


def test_a_copied_picture_inside_lists_is_found(folder: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "b.png").read_bytes())
    pd.DataFrame({"f": ["a.png", "c.png"], "s": ["b.png", "copy.png"], "label": [0, 1]}).to_csv(
        folder / "t.csv"
    )
    rows = load_manifest(folder / "t.csv", image=["f", "s"], text=None)
    parts = {"train": rows.select([0]), "test": rows.select([1])}
    report = audit(parts)
    assert [f.kind for f in report.findings if f.severity == "error"] == ["image_across_splits"]


def test_tiny_classifiers_of_views_take_the_batch(folder: Path) -> None:
    path, image = manifest(folder, "parquet")
    rows = load_manifest(path, image=image, text=None)
    config = kit.tiny_classifier(image="cnn", text=None).config
    config.num_views = 2
    model = type(kit.tiny_classifier(image="cnn", text=None))(config).eval()
    processor = FusionProcessor.from_encoders(model.image_encoder, None, num_views=2)
    batch = FusionCollator(processor)(list(rows))
    assert model(**batch).logits.shape == (3, 3)
