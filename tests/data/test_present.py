"""The columns of a manifest that may lack a modality."""

import pytest

from mmfusion.data.manifest import load_manifest
from mmfusion.data.present import present_columns


@pytest.mark.parametrize(
    ("header", "template", "image", "text"),
    [
        ("image,text,label", None, "image", "text"),
        ("image,label", None, "image", None),
        ("text,label", None, None, "text"),
        ("text,sex,label", "{sex}", None, None),
    ],
)
def test_a_column_is_named_where_it_is(header, template, image, text, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(header + "\n" + ",".join("x" for _ in header.split(",")) + "\n")
    options = present_columns(path, template)
    assert options == {"image": image, "text": text, "template": template}


def test_load_manifest_takes_them(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("sex,label\nmale,a\nfemale,b\n")
    rows = load_manifest(path, **present_columns(path, "a {sex}"))
    assert rows["text"][:] == ["a male", "a female"]
