"""Samples as users have them: the same rows whatever form they come in."""

import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mmfusion import as_dataset, load_manifest, split
from mmfusion.data.toy import draw_shapes

ROWS: list[dict[str, Any]] = [
    {"image": "a.png", "text": "clear", "label": "well", "group": 7, "age": 40.0},
    {"image": None, "text": "nan", "label": "ill", "group": "8", "age": None},
    {"image": "b.png", "text": None, "label": "well", "group": None, "age": 3.5},
]
EXPECTED = [
    {"image": "a.png", "text": "clear", "label": 1, "group": "7", "age": 40.0},
    {"image": None, "text": "nan", "label": 0, "group": "8", "age": None},
    {"image": "b.png", "text": None, "label": 1, "group": "row 2", "age": 3.5},
]


class Torch(torch.utils.data.Dataset[dict[str, Any]]):
    """A torch dataset of mappings."""

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return ROWS[index]


@pytest.mark.parametrize(
    "samples",
    [
        ROWS,
        tuple(ROWS),
        {name: [row[name] for row in ROWS] for name in ROWS[0]},
        pd.DataFrame(ROWS),
        pd.DataFrame(ROWS, index=[5, 1, 9]),
        pd.DataFrame(ROWS).convert_dtypes(),
        Torch(),
    ],
    ids=["list", "tuple", "columns", "frame", "frame with an index", "frame with NA", "torch"],
)
def test_every_form_gives_the_same_rows(samples: Any) -> None:
    table = as_dataset(samples)
    assert list(table) == EXPECTED
    assert table.features["label"].names == ["ill", "well"]
    # What comes back is taken as it is.
    assert as_dataset(table) is table


def test_pictures_in_memory_keep_their_pixels() -> None:
    draw = np.random.default_rng(0)
    grey, colour = (draw.integers(0, 256, shape, np.uint8) for shape in ((9, 7), (9, 7, 3)))
    # A tensor has its channels first.
    views = [Image.fromarray(grey), torch.from_numpy(colour).permute(2, 0, 1)]
    one = as_dataset({"image": [grey, Image.fromarray(colour), None, math.nan]})["image"]
    assert (np.asarray(one[0]) == grey).all() and (np.asarray(one[1]) == colour).all()
    assert one[2] is None and one[3] is None
    several = as_dataset([{"image": views}, {"image": None}, {"image": grey}])["image"]
    assert (np.asarray(several[0][0]) == grey).all() and (np.asarray(several[0][1]) == colour).all()
    assert several[1] is None and len(several[2]) == 1
    paths = as_dataset([{"image": [Path("a.png"), None]}, {"image": ["b.png", "c.png"]}])
    assert list(paths["image"]) == [["a.png", None], ["b.png", "c.png"]]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([np.int64(1), 0], [1, 0]),
        ([1.0, 0.0], [1, 0]),
        ([True, False], [1, 0]),
        ([{"mass": 1.0, "fluid": None}, {"mass": 0.0, "fluid": 1.0}],) * 2,
        ([[1.0, 0.0], [0.0, 1.0]],) * 2,
    ],
)
def test_labels(labels: list[Any], expected: list[Any]) -> None:
    table = as_dataset({"text": ["a", "b"], "label": labels})
    assert list(table["label"]) == expected


def test_a_key_that_is_no_text_keeps_its_values() -> None:
    assert list(as_dataset([{"text": "a", 5: 1.5}, {"text": "b", 5: 2.5}])["5"]) == [1.5, 2.5]


def test_names_of_classes_in_a_dataset_become_numbers() -> None:
    table = datasets.Dataset.from_dict({"label": ["b", "a", "b"], "text": ["x", "y", "z"]})
    made = as_dataset(table.select([2, 1]))
    assert made.column_names == ["label", "text"] and list(made["text"]) == ["z", "y"]
    assert list(made["label"]) == [1, 0] and made.features["label"].names == ["a", "b"]


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        ("rows.csv", TypeError, "samples must be a datasets.Dataset, .*, got str"),
        (iter(ROWS), TypeError, "got list_iterator"),
        (datasets.DatasetDict(), TypeError, "got DatasetDict"),
        (["clear"], TypeError, "got str at 0"),
        (
            {"text": "clear", "label": "x"},
            TypeError,
            "column 'text' must be a list .*, got 'clear'",
        ),
        ({"text": ["a"], "age": 40}, TypeError, "column 'age' must be a list of values, got 40"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), ValueError, "unlike names"),
        ({"text": ["a"], "label": [1, 2]}, ValueError, "one length, got .*'label': 2"),
        ([{"text": 5}], TypeError, "text must be a text or None, got 5 in row 0"),
        ([{"text": "a", "label": "x"}, {"text": "b"}], ValueError, "got none in row 1"),
        ([{"text": "a", "note": 1}, {"text": "b", "note": "x"}], ValueError, "column 'note'"),
    ],
)
def test_what_is_refused(samples: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_dataset(samples)


def test_a_frame_is_divided_as_the_manifest_is(tmp_path: Path) -> None:
    rows = load_manifest(draw_shapes(tmp_path, 60))
    frame = rows.to_pandas()
    names = rows.features["label"].names
    frame["label"] = [names[number] for number in frame["label"]]
    for name, part in split(frame).items():
        assert list(part["image"]) == list(split(rows)[name]["image"])
