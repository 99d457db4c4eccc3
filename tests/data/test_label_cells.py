"""Label columns: one table gives the same classes in every format and in every process."""

import datetime
import json
import logging
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from mmfusion.data.manifest import load_manifest

FORMATS = ("csv", "jsonl", "parquet", "pandas.csv", "pandas.jsonl", "pandas.parquet")


def write_all(folder: Path, columns: dict[str, list[Any]]) -> list[Path]:
    """Returns the files of one table, as the standard library, Arrow and pandas write them."""
    paths = [folder / f"table.{name}" for name in FORMATS]
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    pa.csv.write_csv(table, paths[0])
    rows = table.to_pylist()
    paths[1].write_text("\n".join(json.dumps(row, default=str) for row in rows))
    pa.parquet.write_table(table, paths[2])
    frame = pd.DataFrame(columns)
    frame.to_csv(paths[3], index=False)
    frame.to_json(paths[4], orient="records", lines=True, date_format="iso", date_unit="s")
    frame.to_parquet(paths[5])
    return paths


def outcome(path: Path, **options: Any) -> Any:
    """Returns the labels by name and the groups' pattern, or the part of the error on the rows."""
    try:
        rows = load_manifest(path, image=None, **options)
    except ValueError as error:
        return str(error).partition(" must be ")[2].partition(", got")[0]
    labels = rows["label"][:]
    if "label" in rows.features and hasattr(rows.features["label"], "names"):
        labels = [rows.features["label"].int2str(number) for number in labels]
    groups = [None if str(path) in name else name for name in rows["group"]]
    return labels, groups, rows["text"][:]


CLASSES = {
    "names": (["ill", "well"], ["ill", "well"]),
    "whole numbers": ([1, 0], ["1", "0"]),
    "floats": ([1.0, 10.0], ["1", "10"]),
    "texts of floats": (["1", "1.0"], ["1", "1"]),
    "zeros": (["007", "7"], ["007", "7"]),
    "booleans": ([True, False], ["True", "False"]),
    "texts of booleans": (["TRUE", "true"], ["True", "True"]),
    "decimals": ([Decimal("2.00"), Decimal("3.00")], ["2", "3"]),
    "dates": (
        [datetime.date(2024, 5, 31), datetime.date(2024, 6, 1)], ["2024-05-31", "2024-06-01"]
    ),
    "midnights": (
        [datetime.datetime(2024, 5, 31), datetime.datetime(2024, 6, 1)],
        ["2024-05-31", "2024-06-01"],
    ),
    "nan": (["ill", "nan"], "a label in every row"),
    "NA": (["ill", "NA"], "a label in every row"),
    "None": (["None", "ill"], "a label in every row"),
    "null": ([None, "ill"], "a label in every row"),
    "fractions": ([0.5, 1.0], "a name or a whole number in every row"),
    "texts of fractions": (["0.5", "1.0"], "a name or a whole number in every row"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "right"), CLASSES.values(), ids=CLASSES)
def test_every_format_gives_the_same_classes(
    tmp_path: Path, values: list[Any], right: list[str] | str
) -> None:
    for path in write_all(tmp_path, {"text": ["a", "b"], "label": values}):
        found = outcome(path)
        assert (found if isinstance(right, str) else found[0]) == right, path.name


@pytest.mark.parametrize(("values", "right"), CLASSES.values(), ids=CLASSES)
def test_every_format_gives_the_same_groups_and_sentences(
    tmp_path: Path, values: list[Any], right: list[str] | str
) -> None:
    first = None
    for path in write_all(tmp_path, {"patient": values, "label": ["x", "y"]}):
        found = outcome(path, group="patient", text=None, template="{patient}. By {label}.")
        first = first or found
        assert found == first, path.name
        _, groups, texts = found
        written = [text.removesuffix("By x.").removesuffix("By y.") for text in texts]
        assert written == ["" if group is None else f"{group}. " for group in groups]
        if not isinstance(right, str):
            assert groups == right


def test_an_infinite_number_is_no_class(tmp_path: Path) -> None:
    for path in write_all(tmp_path, {"text": ["a", "b"], "label": [math.inf, 1.0]}):
        # pandas itself writes null for it in JSON.
        right = "a label" if path.name == "table.pandas.jsonl" else "a name or a whole number"
        assert outcome(path) == f"{right} in every row"


@pytest.mark.parametrize(
    "values",
    [[1, 0, 1], [1.0, None, 0.0], [True, False, True], ["1", "nan", "0"], ["TRUE", "NA", "false"]],
    ids=str,
)
def test_every_format_gives_the_same_answers(tmp_path: Path, values: list[Any]) -> None:
    columns = {"text": ["a", "b", "c"], "mass": values, "fluid": ["0.0", "1.0", "None"]}
    meaning = {"1": 1.0, "true": 1.0, "0": 0.0, "false": 0.0, "1.0": 1.0, "0.0": 0.0}
    right = [meaning.get(str(value).lower()) for value in values]
    for path in write_all(tmp_path, columns):
        found = load_manifest(path, image=None, label=["mass", "fluid"])["label"][:]
        masses = [row["mass"] for row in found]
        assert [None if math.isnan(one) else one for one in masses] == right, path.name
        assert [row["fluid"] for row in found[:2]] == [0, 1]
        assert math.isnan(found[2]["fluid"])


@pytest.mark.parametrize("column", ["image", "text"])
def test_missing_words_of_the_modalities(
    tmp_path: Path, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {"image": [None, None], "text": ["seen", "seen"], "label": ["x", "y"]}
    columns[column] = ["nan", None] if column == "image" else ["None", "seen"]
    for path in write_all(tmp_path, columns):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            rows = load_manifest(path, group=None)
        assert rows["image"][:] == [None, None]
        assert rows["text"][:] == columns["text"]
        # A text "None" may be what a person wrote, so it stays, but not in silence.
        assert ("hold a word such as 'None'" in caplog.text) == (column == "text")


def test_the_order_of_classes_is_the_same_in_every_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    zeros = ["0" * count + "7" for count in range(12, -1, -1)]
    names = ["-7", "0", *zeros, "10", "9" * 5000]
    path = tmp_path / "m.csv"
    path.write_text("text,label\n" + "\n".join(f"x,{name}" for name in reversed(names)))
    rows = load_manifest(path, image=None)
    assert rows.features["label"].names == names
    assert "00007, 0007, 007, 07, 7 count as different classes" in caplog.text


def test_names_that_are_listed_are_classes(tmp_path: Path) -> None:
    for path in write_all(tmp_path, {"text": ["a", "b"], "label": ["None", "mild"]}):
        rows = load_manifest(path, image=None, label_names=["mild", "None"])
        assert rows["label"][:] == [1, 0]
    for path in write_all(tmp_path, {"text": ["a", "b"], "label": [1.0, 2.0]}):
        rows = load_manifest(path, image=None, label_names=["2.0", "1.0"])
        assert rows["label"][:] == [1, 0]
    for path in write_all(tmp_path, {"text": ["a", "b"], "label": [True, False]}):
        assert load_manifest(path, image=None, label_names=["no", "yes"])["label"][:] == [1, 0]
        assert load_manifest(path, image=None, label_names=["true", "false"])["label"][:] == [0, 1]
        assert load_manifest(path, image=None, label_names=["1", "0"])["label"][:] == [0, 1]


def test_a_number_is_no_place_among_names_that_are_numbers(tmp_path: Path) -> None:
    for path in write_all(tmp_path, {"text": ["a", "b"], "label": [1, 0]}):
        with pytest.raises(ValueError, match=r"one of \['1', '2'\], got '?0'? in row 2"):
            load_manifest(path, image=None, label_names=["1", "2"])
    with pytest.raises(ValueError, match=r"differ as cells of a table do, got \['1', '1.0'\]"):
        load_manifest(path, image=None, label_names=["1", "1.0"])


def test_a_word_for_nothing_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("text,label\na,ill\nb,None\n")
    with pytest.raises(ValueError, match=r"got 'None' in row 2\. .* list it in label_names"):
        load_manifest(path, image=None)


@pytest.mark.parametrize("cell", [b"ill", [1], {"a": 1}, datetime.timedelta(1)], ids=str)
@pytest.mark.parametrize("role", ["label", "group", "template", "several"])
def test_cells_that_are_no_single_value_are_refused(
    tmp_path: Path, cell: object, role: str
) -> None:
    options: dict[str, Any] = {"label": None}
    if role == "template":
        options |= {"text": None, "template": "{odd}"}
    else:
        wanted = {"label": "odd", "several": ["odd"], "group": "odd"}[role]
        options["group" if role == "group" else "label"] = wanted
    path = tmp_path / "m.parquet"
    pa.parquet.write_table(pa.table({"text": ["a"], "odd": pa.array([cell])}), path)
    with pytest.raises(ValueError, match=r"column 'odd' of .* must be .* in row 1"):
        load_manifest(path, image=None, **options)


def test_a_categorical_of_numbers_and_small_floats(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["a", "b"], "label": [10, 9], "dose": [0.1, 2.0]})
    frame = frame.astype({"label": "category", "dose": "float32"})
    frame.to_parquet(tmp_path / "m.parquet")
    frame.to_csv(tmp_path / "m.csv", index=False)
    for name in ("m.parquet", "m.csv"):
        rows = load_manifest(tmp_path / name, image=None, group="dose")
        assert rows.features["label"].names == ["9", "10"]
        assert rows["group"][:] == ["0.1", "2"]


def written(value: Any) -> str:
    """Returns what a cell means: "unknown" for -1 however it is written, else yes, no, nothing."""
    if value is None or value in ("", "nan"):
        return "nothing"
    return {-1: "unknown", 0: "no", 1: "yes"}[int(float(value))]


@pytest.mark.parametrize(
    "values", [[1, -1, 0, -1], [1.0, -1.0, None, 0.0], ["1", "-1", "-1.0", "nan"]], ids=str
)
@pytest.mark.parametrize("unknown", [-1, -1.0, "-1", "-1.0"])
@pytest.mark.parametrize("policy", ["ignore", "negative", "positive"])
def test_uncertain_labels_count_as_the_policy_says(
    tmp_path: Path, values: list[Any], unknown: object, policy: str
) -> None:
    """U-Ignore, U-Zeros and U-Ones of CheXpert; what is blank stays unknown under each of them."""
    uncertain = {"ignore": math.nan, "negative": 0.0, "positive": 1.0}[policy]
    meaning = {"yes": 1.0, "no": 0.0, "nothing": math.nan, "unknown": uncertain}
    right = [meaning[written(value)] for value in values]
    columns = {"text": list("abcd"), "mass": values, "fluid": [1, 0, 1, 0]}
    for path in write_all(tmp_path, columns):
        rows = load_manifest(
            path, image=None, label=["mass", "fluid"], unknown_label=unknown, uncertain=policy
        )
        found = [row["mass"] for row in rows["label"]]
        np.testing.assert_array_equal(found, right, err_msg=path.name)
        assert [row["fluid"] for row in rows["label"]] == [1, 0, 1, 0]


def test_uncertain_labels_that_count_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.csv"
    path.write_text("text,mass\na,-1\nb,1\nc,-1\n")
    load_manifest(path, image=None, label=["mass"], unknown_label=-1)
    assert "labels count as" not in caplog.text
    load_manifest(path, image=None, label=["mass"], unknown_label=-1, uncertain="positive")
    assert "2 uncertain labels count as positive" in caplog.text


@pytest.mark.parametrize("listed", [None, ["well", "ill"]])
@pytest.mark.parametrize("unknown", ["-1", -1])
def test_rows_of_an_unknown_class_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, listed: list[str] | None, unknown: object
) -> None:
    columns = {"text": list("abcd"), "label": ["ill", "-1", "well", "-1.0"], "dose": [1, 2, 3, 4]}
    for path in write_all(tmp_path, columns):
        caplog.clear()
        rows = load_manifest(
            path, image=None, group=None, label_names=listed, unknown_label=unknown
        )
        classes = rows.features["label"]
        assert [classes.int2str(number) for number in rows["label"]] == ["ill", "well"]
        assert sorted(classes.names) == ["ill", "well"] and rows["text"][:] == ["a", "c"]
        assert [int(dose) for dose in rows["dose"]] == [1, 3]
        # The row of the manifest, not that of the result, names a group.
        assert [name.rpartition(":")[2] for name in rows["group"]] == ["1", "3"]
        assert "2 of 4 rows are left out, because their label is unknown (-1)" in caplog.text


def test_messages_count_the_rows_that_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("text,label\na,-1\nb,ill\nc,\n")
    with pytest.raises(ValueError, match=r"a label in every row, got None in row 3"):
        load_manifest(path, image=None, unknown_label=-1)
    path.write_text("text,label\na,-1\nb,il\n")
    with pytest.raises(ValueError, match=r"got 'il' in row 2. Did you mean 'ill'"):
        load_manifest(path, image=None, unknown_label=-1, label_names=["ill", "well"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uncertain": "positive"}, "uncertain must be 'ignore' without an unknown_label"),
        ({"uncertain": "postive", "unknown_label": -1}, "Did you mean 'positive'"),
        ({"unknown_label": -1, "uncertain": "negative"}, "'ignore' for one label column, got"),
        ({"unknown_label": -1, "label": None}, "must be None without a label column, got -1"),
        ({"unknown_label": "NA"}, "a text or a number that is not missing, got 'NA'"),
        ({"unknown_label": math.nan}, "a text or a number that is not missing, got nan"),
        ({"unknown_label": 1.0, "label": ["label"]}, "must be neither 0 nor 1, got 1.0"),
        ({"unknown_label": False, "label": ["label"]}, "must be neither 0 nor 1, got False"),
        ({"unknown_label": 1, "label_names": ["a", "b"]}, "none of the classes .* or their num"),
        ({"unknown_label": "a", "label_names": ["a", "b"]}, "none of the classes"),
        ({"unknown_label": "x"}, r"a label in at least one row, got 'x' in all of 2"),
        ({"label": ["label"]}, "got 'x' in row 1, 'x' in row 2.* name it: unknown_label="),
    ],
)
def test_wrong_options_of_unknown_labels(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    path = tmp_path / "m.csv"
    path.write_text("text,label\na,x\nb,x\n")
    with pytest.raises(ValueError, match=message):
        load_manifest(path, image=None, **options)


def test_a_class_of_minus_one_is_not_taken_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.csv"
    path.write_text("text,label\na,-1\nb,0\nc,1\n")
    assert load_manifest(path, image=None).features["label"].names == ["-1", "0", "1"]
    assert "-1 counts as a class. If it stands for unknown, pass unknown_label=-1" in caplog.text
    caplog.clear()
    assert load_manifest(path, image=None, unknown_label=-1).features["label"].names == ["0", "1"]
    assert "counts as a class" not in caplog.text
