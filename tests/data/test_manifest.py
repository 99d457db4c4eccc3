"""`load_manifest`: its results, and its errors for bad manifests."""

import csv
import json
import math
import os
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from mmfusion.data.manifest import load_manifest


def write(folder: Path, content: str | bytes, name: str = "manifest.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


GOOD = (
    "image,text,label,group,age\nimages/a.png,Clear lungs.,normal,p1,045\nimages/b.png, ,ill,p2,\n"
)


def test_csv(folder: Path) -> None:
    rows = load_manifest(write(folder, GOOD))
    assert rows.column_names == ["image", "text", "label", "group", "age"]
    assert rows.features["label"] == datasets.ClassLabel(names=["ill", "normal"])
    assert rows[0] == {
        "image": str(folder / "images/a.png"), "text": "Clear lungs.",
        "label": 1, "group": "p1", "age": "045",
    }  # fmt: skip
    assert rows[1]["text"] is None
    assert rows[1]["age"] is None


def test_the_three_formats_agree(folder: Path) -> None:
    rows = list(csv.DictReader(GOOD.splitlines()))
    frame = pd.DataFrame(rows).astype({"label": "category"})
    frame.to_parquet(folder / "rows.parquet")
    write(folder, "\ufeff" + "\r\n\r\n".join(map(json.dumps, rows)), "rows.jsonl")
    expected = load_manifest(write(folder, GOOD)).remove_columns("age").to_dict()
    for name in ("rows.jsonl", "rows.parquet"):
        assert load_manifest(folder / name).remove_columns("age").to_dict() == expected


def test_integer_labels_keep_their_numbers(folder: Path) -> None:
    lines = [json.dumps({"text": "x", "label": label}) for label in (10, 2, 0, 2.0, None)]
    rows = load_manifest(write(folder, "\n".join(lines[:4]), "rows.jsonl"), image=None)
    assert rows.features["label"].names == ["0", "2", "10"]
    assert rows["label"][:] == [2, 1, 0, 1]


def test_label_names_give_order_and_numbers(folder: Path) -> None:
    path = write(folder, "text,label\na,normal\nb,ill\nc,0\n")
    rows = load_manifest(path, image=None, label_names=["normal", "ill", "unseen"])
    assert rows["label"][:] == [0, 1, 0]
    assert rows.features["label"].names == ["normal", "ill", "unseen"]


def test_multi_label(folder: Path) -> None:
    path = write(folder, "text,mass,fluid\na,1,0\nb,,1.0\n")
    rows = load_manifest(path, image=None, label=["fluid", "mass"])
    assert rows.column_names == ["text", "label", "group"]
    assert rows.features["label"] == dict.fromkeys(["fluid", "mass"], datasets.Value("float32"))
    assert rows[0]["label"] == {"fluid": 0, "mass": 1}
    assert rows[1]["label"]["fluid"] == 1
    assert math.isnan(rows[1]["label"]["mass"])


def test_groups(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(
        folder, '{"text": "a", "pid": 7}\n{"text": "b"}\n{"text": "c", "pid": 7}', "rows.jsonl"
    )
    named = load_manifest(path, image=None, label=None, group="pid")
    assert named["group"][:] == ["7", f"{path}:2", "7"]
    assert "1 rows without a group" in caplog.text
    unnamed = load_manifest(path, image=None, label=None)
    assert len(set(unnamed["group"])) == 3
    assert "no column 'group'" in caplog.text
    caplog.clear()
    assert (
        load_manifest(path, image=None, label=None, group=None)["group"][:] == unnamed["group"][:]
    )
    assert not caplog.text


def test_a_name_that_is_taken_gives_way(folder: Path) -> None:
    path = write(folder, "text,label,finding\nx,wrong,right\n")
    rows = load_manifest(path, image=None, label="finding")
    assert rows.features["label"].names == ["right"]
    assert "finding" not in rows.column_names


def test_root_contains_the_pictures(folder: Path) -> None:
    path = write(folder, "image\n../outside.png\nimages/a.png\na.png\n")
    outside, inside = folder.parent / "outside.png", str(folder / "images/a.png")
    with pytest.raises(ValueError, match=r"inside .*, got '../outside.png' in row 1"):
        load_manifest(path, label=None, text=None)
    with pytest.raises(ValueError, match=r"existing file in every row, got 'a.png' in row 3"):
        load_manifest(path, label=None, text=None, root=folder.parent)
    path = write(folder, f"image\n{inside}\na.png\n", "second.csv")
    assert (
        load_manifest(path, label=None, text=None, root=folder / "images")["image"][:]
        == [inside] * 2
    )
    path = write(folder, f"image\n{outside}\n", "third.csv")
    assert load_manifest(path, label=None, text=None, root=folder.parent)["image"][:] == [
        str(outside)
    ]


def test_links_are_followed_before_they_are_judged(folder: Path) -> None:
    os.symlink(folder.parent / "outside.png", folder / "images/out.png")
    os.symlink(folder / "images/a.png", folder / "in.png")
    os.symlink(folder / "loop.png", folder / "loop.png")
    good = load_manifest(write(folder, "image\nin.png\n"), text=None, label=None)
    assert good["image"][:] == [str(folder / "images/a.png")]
    with pytest.raises(ValueError, match=r"inside .*images/out\.png' in row 1"):
        load_manifest(write(folder, "image\nimages/out.png\n"), text=None, label=None)
    with pytest.raises(ValueError, match=r"existing file.*loop\.png' in row 1"):
        load_manifest(write(folder, "image\nloop.png\n"), text=None, label=None)


BAD_ROWS = {
    "missing picture": (
        "image,label\nimages/c.png,x\n", {"text": None},
        r"'image'.*existing file.*c.png' in row 1",
    ),
    "a folder": ("image,label\nimages,x\n", {"text": None}, r"existing file"),
    "an address": (
        "image,label\nhttps://a.org/b.png,x\n", {"text": None},
        r"existing file.*https://a.org",
    ),
    "absolute outside": (
        "image,label\n/etc/hostname,x\n", {"text": None},
        r"a path inside .*hostname' in row 1",
    ),
    "zero byte": ("image,label\na\x00.png,x\n", {"text": None}, r"a path inside"),
    "no such root": (
        "image,label\na.png,x\n", {"text": None, "root": "/no/such"},
        r"root must be a folder, got '/no",
    ),
    "no picture, no text": (
        "image,text,label\n,,x\n", {},
        r"a picture or a text in every row, got None in row 1",
    ),
    "no label": (
        "text,label\na,x\nb,\n", {"image": None},
        r"'label'.* a label in every row, got None in row 2",
    ),
    "unknown label": (
        "text,label\na,norml\n", {"image": None, "label_names": ["normal", "ill"]},
        r"one of \['normal', 'ill'\].*got 'norml' in row 1. Did you mean 'normal'\?",
    ),
    "label out of range": (
        "text,label\na,2\n", {"image": None, "label_names": ["normal", "ill"]},
        r"number from 0 to 1, got '2' in row 1",
    ),
    "no 0 or 1": (
        "text,a,b\nx,1,-1\n", {"image": None, "label": ["a", "b"]},
        r"'b'.*0, 1 or nothing.*got '-1' in row 1",
    ),
    "no column": (
        "text,label\na,b\n", {},
        r"image must be one of the columns \['text', 'label'\].*image=None",
    ),
    "misspelt column": (
        "text,lable\na,b\n", {"image": None},
        r"got 'label'. Did you mean 'lable'\?",
    ),
    "no group column": (
        "text,label\na,b\n", {"image": None, "group": "pid"},
        r"group must be one of.*got 'pid'",
    ),
    "a column for two": (
        "text,label\na,b\n", {"image": None, "label": "text"},
        r"must be different columns",
    ),
    "neither": (
        "text,label\na,b\n", {"image": None, "text": None},
        r"image and text must be not both None",
    ),
    "empty list": (
        "text,label\na,b\n", {"image": None, "label": []},
        r"label must be a column, a list.*got \[\]",
    ),
    "names without labels": (
        "text\na\n", {"image": None, "label": None, "label_names": ["a"]},
        r"label_names must be None",
    ),
    "names twice": (
        "text,label\na,b\n", {"image": None, "label_names": ["b", "b"]},
        r"different names",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "options", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_rows(folder: Path, content: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_manifest(write(folder, content), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": 45, "label": "a"}, r"'text'.*a text or nothing in every row, got 45 in row 1"),
        ({"text": "a", "label": ["b"]}, r"'label'.*a name or a whole number.*got \['b'\] in row 1"),
        ({"text": "a", "label": 0.5}, r"'label'.*a name or a whole number.*got 0.5 in row 1"),
        ({"text": "a", "label": "b\ud800"}, r"column 'label' of .* must be values of one kind"),
    ],
)
def test_bad_json_cells(folder: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_manifest(write(folder, json.dumps(row), "m.jsonl"), image=None)


def test_label_names_must_be_a_list(folder: Path) -> None:
    with pytest.raises(TypeError, match="label_names must be a list of strings, got 'ab'"):
        load_manifest(write(folder, GOOD), label_names="ab")


def test_many_errors_are_counted(folder: Path) -> None:
    path = write(folder, "image\n" + "\n".join(f"{number}.png" for number in range(25)))
    with pytest.raises(ValueError, match=r"'9.png' in row 10 and 15 more"):
        load_manifest(path, text=None, label=None)


def test_shenzhen() -> None:
    data = os.environ.get("MMFUSION_DATA")
    if not data:
        pytest.skip("MMFUSION_DATA names no folder of real X-rays")
    rows = load_manifest(
        Path(data, "shenzhen/labels.csv"),
        text="sex",
        label="tuberculosis",
        label_names=["normal", "ill"],
    )
    assert len(rows) == 662
    assert sum(rows["label"]) == 336


def test_further_columns_of_parquet(folder: Path) -> None:
    frame = pd.DataFrame(
        {"text": ["a", "b"], "view": ["PA", "AP"], "nothing": [None, None], "age": [45, 46]}
    )
    frame.astype({"view": "category"}).to_parquet(folder / "m.parquet")
    rows = load_manifest(folder / "m.parquet", image=None, label=None)
    assert rows.remove_columns("group").to_dict() == frame.to_dict("list")
    pa.parquet.write_table(
        pa.table({"text": ["a"], "odd": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8()))}),
        folder / "m.parquet",
    )
    with pytest.raises(ValueError, match=r"column 'odd' of .* a type that datasets knows, got map"):
        load_manifest(folder / "m.parquet", image=None, label=None)


def test_a_template_writes_the_texts_from_columns(tmp_path):
    lines = "sex,age,label,text\nmale,60,a,old\nfemale,,b,old\n,,a,old\n"
    path = tmp_path / "rows.csv"
    path.write_text(lines.replace(",,a,old", "male,1,a,old"))
    rows = load_manifest(path, image=None, template="{sex}, {age} years")
    assert rows["text"][:] == ["male, 60 years", "female", "male, 1 years"]
    assert rows["age"][:] == ["60", None, "1"]
    with pytest.raises(ValueError, match="text must be left out with a template, got 'sex'"):
        load_manifest(path, image=None, text="sex", template="{age}")
    with pytest.raises(ValueError, match=r"template must name columns .* Did you mean 'age'\?"):
        load_manifest(path, image=None, template="{ag}")


def test_warnings_hold_no_control_characters(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = "text,label,p\x1b[1m\nnan,07,\nb,7,x\n"
    path = write(folder, lines, "m\x1b[31m.csv")
    load_manifest(path, image=None)
    load_manifest(path, image=None, group="p\x1b[1m")
    assert len(caplog.messages) == 6
    for message in caplog.messages:
        assert "m\\x1b[31m.csv" in message
        assert message.isprintable()
