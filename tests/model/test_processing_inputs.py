"""What a processor is given: one sample or many of whatever kind, numbers, tokenizers by name."""

import json
from collections import deque
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import BertConfig, XLNetConfig

from mmfusion.data.toy import word_tokenizer
from mmfusion.model.encoder_text import TextEncoder
from mmfusion.model.processing import FusionProcessor
from mmfusion.model.processing_inputs import as_list, checked_max_length, load_tokenizer

SPEC = {"size": [6, 8], "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
SPEC |= {"interpolation": "bilinear"}
TEXTS = ["no lung disease", "clear", "lung"]


def pictures() -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (9, 11, 3), dtype=np.uint8)) for _ in range(3)]


@pytest.fixture(scope="module")
def processor() -> FusionProcessor:
    return FusionProcessor(word_tokenizer(TEXTS), SPEC)


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": pictures(), "text": TEXTS}, features=features)


@pytest.mark.parametrize("kind", [None, "numpy", "torch", "pandas", "arrow"])
def test_texts_of_a_dataset_in_any_format(
    kind: Any, processor: FusionProcessor, rows: datasets.Dataset
) -> None:
    column = rows.select_columns("text").with_format(kind)
    expected = processor(text=TEXTS)
    for given in (column["text"], column[:]["text"]):
        inputs = processor(text=given)
        assert torch.equal(inputs["input_ids"], expected["input_ids"]), type(given)


@pytest.mark.parametrize("kind", [None, "numpy", "torch"])
def test_pictures_of_a_dataset_in_any_format(
    kind: Any, processor: FusionProcessor, rows: datasets.Dataset
) -> None:
    column = rows.with_format(kind)
    expected = processor(images=pictures())["pixel_values"]
    # The second is one array of four axes in the formats of numpy and torch.
    for given in (column["image"], column[:]["image"], column[0]["image"]):
        pixels = processor(images=given)["pixel_values"]
        assert torch.equal(pixels, expected[: len(pixels)]), type(given)
        assert len(pixels) == (1 if given is not None and len(pixels) == 1 else 3)


@pytest.mark.parametrize(
    "collection",
    [
        tuple,
        deque,
        iter,
        np.array,
        pd.Series,
        pd.Index,
        lambda values: pd.Series(values, index=[7, 8, 9]),
        lambda values: pd.Series(values, dtype="category"),
        lambda values: dict.fromkeys(values).keys(),
        lambda values: (value for value in values),
    ],
)
def test_any_sequence_is_a_list_of_samples(
    collection: Any, processor: FusionProcessor, tmp_path: Path
) -> None:
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    for path, picture in zip(paths, pictures(), strict=True):
        picture.save(path)
    expected = processor(images=pictures(), text=TEXTS)
    inputs = processor(images=collection(paths), text=collection(TEXTS))
    for name, value in expected.items():
        assert torch.equal(inputs[name], value)


def test_cells_without_a_value_are_missing_samples(processor: FusionProcessor) -> None:
    texts: list[Any] = ["lung", None, float("nan"), pd.NA, np.float64("nan")]
    for given in (texts, pd.Series(texts), pd.Series(["lung", None], dtype="string")):
        inputs = processor(images=[pictures()[0]] * len(given), text=given)
        assert inputs["text_present"].tolist() == [True] + [False] * (len(given) - 1)
    images = pd.Series([None, pictures()[0], float("nan")])
    inputs = processor(images=images, text=["lung"] * 3)
    assert inputs["image_present"].tolist() == [False, True, False]


def test_single_samples_stay_single(tmp_path: Path) -> None:
    array = np.zeros((5, 4, 3), np.uint8)
    for one in (tmp_path, "text", b"bytes", {"a": 1}, pictures()[0], array, array[..., 0]):
        listed = as_list(one, "images")
        assert listed is not None and len(listed) == 1 and listed[0] is one
    for one in (torch.zeros(3, 5, 4), np.array("text"), 3, np.float64(2)):
        listed = as_list(one, "images")
        assert listed is not None and len(listed) == 1
    assert len(as_list(torch.zeros(2, 3, 5, 4), "images") or []) == 2
    assert as_list(None, "images") is None


def test_what_is_no_list_of_samples() -> None:
    with pytest.raises(TypeError, match="text must be one sample or a list of samples, got set"):
        as_list({"a", "b"}, "text")
    table = pd.DataFrame({"text": TEXTS})
    with pytest.raises(TypeError, match="got DataFrame. Pass a list, or one column"):
        as_list(table, "text")
    for empty in ([], (), pd.Series([], dtype=object), np.array([], dtype=object)):
        with pytest.raises(ValueError, match="text must be at least one sample"):
            as_list(empty, "text")


def test_a_dicom_object_is_one_picture() -> None:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.Dataset()
    dataset.Rows = 4
    listed = as_list(dataset, "images")
    assert listed is not None and len(listed) == 1 and listed[0] is dataset


def test_numpys_numbers_are_numbers(tmp_path: Path) -> None:
    spec = {
        "size": np.array([6, 8]),
        "channels": np.int64(3),
        "mean": np.array([0.5] * 3, np.float32),
        "std": torch.tensor([0.5] * 3),
        "interpolation": "bilinear",
    }
    processor = FusionProcessor(word_tokenizer(TEXTS), spec, max_length=np.int64(8))
    processor.save_pretrained(tmp_path)
    again = FusionProcessor.from_pretrained(tmp_path)
    assert again.input_spec == SPEC == processor.input_spec and again.max_length == 8
    text = TextEncoder(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )
    made = FusionProcessor.from_encoders(
        None, text, tokenizer=word_tokenizer(TEXTS), max_length=np.int32(5)
    )
    assert type(made.max_length) is int and made.max_length == 5


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "8", float("nan")])
def test_a_largest_number_of_tokens_that_is_none(value: Any) -> None:
    with pytest.raises(ValueError, match="max_length must be a whole number above 0, got"):
        checked_max_length(value)


def test_a_text_encoder_without_a_limit() -> None:
    config = XLNetConfig(d_model=8, n_layer=1, n_head=1, d_inner=8, vocab_size=99)
    made = FusionProcessor.from_encoders(None, TextEncoder(config), tokenizer=word_tokenizer(TEXTS))
    assert made.max_length is None and made(text="lung " * 700)["input_ids"].shape[1] > 700


@pytest.mark.parametrize("entry", ["auto_map", "auto_map and a class of its own"])
def test_the_code_of_a_tokenizer_is_never_run(
    entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers asks on standard input, and a piped "y" would be its answer.
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    sign = tmp_path / "sign"
    word_tokenizer(TEXTS).save_pretrained(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(sign)!r}, 'w')\nclass Evil: pass\n")
    file = tmp_path / "tokenizer_config.json"
    changes: dict[str, Any] = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    if entry != "auto_map":
        changes["tokenizer_class"] = "Evil"
    settings = json.loads(file.read_text())
    del settings["tokenizer_class"]
    file.write_text(json.dumps(settings | changes))
    calls = [
        lambda: load_tokenizer(tmp_path),
        lambda: FusionProcessor.from_pretrained(tmp_path),
        lambda: FusionProcessor.from_encoders(None, text_encoder(), tokenizer=str(tmp_path)),
    ]
    (tmp_path / "processor_config.json").write_text('{"processor_class": "FusionProcessor"}')
    for call in calls:
        with pytest.raises(ValueError, match="Code of a checkpoint is never run"):
            call()
    assert not sign.exists()


def text_encoder() -> TextEncoder:
    return TextEncoder(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )


def test_a_damaged_tokenizer_is_a_sentence(tmp_path: Path) -> None:
    word_tokenizer(TEXTS).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=rf"tokenizer must be given .* '{tmp_path}' has none"):
        load_tokenizer(tmp_path)
