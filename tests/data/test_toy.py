"""The made-up samples and the tokenizer of their words."""

import pytest
from PIL import Image

from mmfusion import audit, load_manifest
from mmfusion.data.toy import draw_shapes, word_tokenizer


def test_the_samples_are_sound(tmp_path):
    rows = load_manifest(draw_shapes(tmp_path, 40, missing=0.2))
    assert audit(rows).ok
    assert rows.features["label"].names == [
        "blue circle",
        "blue square",
        "red circle",
        "red square",
    ]
    assert (
        sum(image is None for image in rows["image"]) > 0
        and sum(text is None for text in rows["text"]) > 0
    )
    for text, label in zip(rows["text"], rows["label"], strict=True):
        assert text is None or rows.features["label"].int2str(label).split()[0] in text


def test_the_same_seed_draws_the_same(tmp_path):
    for name in ("one", "two"):
        draw_shapes(tmp_path / name, 5, seed=3)
    assert (tmp_path / "one" / "manifest.csv").read_bytes() == (
        tmp_path / "two" / "manifest.csv"
    ).read_bytes()
    assert Image.open(tmp_path / "one" / "00004.png") == Image.open(tmp_path / "two" / "00004.png")


@pytest.mark.parametrize("options", [{"n": 0}, {"missing": 0.6}, {"missing": -0.1}])
def test_numbers_out_of_range(options, tmp_path):
    with pytest.raises(ValueError, match="n must be at least 1 and missing in"):
        draw_shapes(tmp_path, **({"n": 4} | options))


def test_unknown_words_are_one_token():
    tokenizer = word_tokenizer(["a red circle"])
    assert tokenizer("A green circle", padding="max_length", max_length=6)["input_ids"] == [
        2,
        4,
        1,
        5,
        3,
        0,
    ]
