"""Manifests that may lack a modality."""

import pytest
from PIL import Image

from mmfusion.data import present
from mmfusion.data.manifest import load_manifest
from mmfusion.data.present import load_present
from mmfusion.data.tables import read_table


@pytest.mark.parametrize(
    ("header", "template", "image", "text"),
    [
        ("image,text,label", None, "image", "text"),
        ("image,label", None, "image", None),
        ("text,label", None, None, "text"),
        ("text,sex,label", "a {sex}", None, None),
    ],
)
def test_a_column_is_read_where_it_is(header, template, image, text, tmp_path):
    path = tmp_path / "rows.csv"
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    path.write_text(header + "\n" + ",".join("x.png" for _ in header.split(",")) + "\n")
    expected = load_manifest(path, image=image, text=text, template=template)
    found = load_present(path, template)
    assert found.features == expected.features
    assert list(found) == list(expected)


def test_labels_and_a_table_that_was_read(tmp_path, monkeypatch):
    path = tmp_path / "rows.csv"
    path.write_text("text,a,b\nx,1,0\ny,,1\n")
    table = read_table(path)
    monkeypatch.setattr(present, "read_table", lambda _: pytest.fail("read again"))
    rows = load_present(path, label=["a", "b"], table=table)
    assert rows[0]["label"] == {"a": 1, "b": 0}
    named = load_present(path, label="b", label_names=["yes", "no"], table=table)
    assert named["label"][:] == [0, 1]
    assert load_present(path, label=None, table=table).column_names == ["text", "group", "a", "b"]


def test_a_table_without_both_is_refused(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("notes,label\nx,1\n")
    with pytest.raises(ValueError, match="image and text must be not both None"):
        load_present(path)
