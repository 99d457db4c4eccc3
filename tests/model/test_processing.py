"""FusionProcessor: from pictures and texts to model inputs, with either of them missing."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoProcessor, PreTrainedConfig, PreTrainedTokenizerFast

from mmfusion import ImageError
from mmfusion import testing as kit
from mmfusion.data.toy import word_tokenizer
from mmfusion.model.encoder_image import ImageEncoder
from mmfusion.model.encoder_text import TextEncoder
from mmfusion.model.processing import FusionProcessor

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "no", "lung", "disease", "clear", "##er"]
SPEC = {
    "size": [8, 12],
    "channels": 3,
    "mean": [0.1, 0.2, 0.3],
    "std": [0.5, 0.6, 0.7],
    "interpolation": "bilinear",
}


def tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    model = Tokenizer(
        WordPiece({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    model.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    model.post_processor = TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=model, **(names | options))


def picture(width: int = 24, height: int = 10, mode: str = "RGB") -> Image.Image:
    array = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(array).convert(mode)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logger = logging.getLogger("mmfusion.model.processing")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_a_batch_with_everything() -> None:
    processor = FusionProcessor(tokenizer(), SPEC)
    inputs = processor(images=[picture(), picture()], text=["no lung disease", "clear"])
    assert (
        inputs["pixel_values"].shape == (2, 3, 8, 12)
        and inputs["pixel_values"].dtype == torch.float32
    )
    assert inputs["input_ids"].tolist() == [[2, 4, 5, 6, 3], [2, 7, 3, 0, 0]]
    assert inputs["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert inputs["image_present"].tolist() == inputs["text_present"].tolist() == [True, True]
    assert set(inputs) == set(processor.model_input_names)


def test_one_sample_needs_no_list() -> None:
    inputs = FusionProcessor(tokenizer(), SPEC)(images=picture(), text="lung")
    assert inputs["pixel_values"].shape[0] == inputs["input_ids"].shape[0] == 1


@pytest.mark.parametrize("missing", [None, "", "  \n\t "])
def test_a_missing_text(missing: str | None) -> None:
    inputs = FusionProcessor(tokenizer(), SPEC)(
        images=[picture(), picture()], text=["lung", missing]
    )
    assert inputs["text_present"].tolist() == [True, False] and inputs[
        "image_present"
    ].tolist() == [True, True]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 0]]


def test_a_missing_image_and_a_whole_modality_left_out() -> None:
    processor = FusionProcessor(tokenizer(), SPEC)
    inputs = processor(images=[None, picture()], text=["lung", None])
    assert inputs["image_present"].tolist() == [False, True] and not inputs["pixel_values"][0].any()
    inputs = processor(text=["lung", "no"])
    assert inputs["image_present"].tolist() == [False, False] and inputs["pixel_values"].shape == (
        2,
        3,
        8,
        12,
    )
    inputs = processor(images=[picture()])
    assert inputs["text_present"].tolist() == [False] and not inputs["attention_mask"].any()


@pytest.mark.parametrize(
    ("images", "text", "error", "message"),
    [
        (
            [None, None],
            ["lung", " "],
            ValueError,
            r"every sample must have an image or a text, got neither in rows \[1\]",
        ),
        (None, None, ValueError, "images or text must be given, got neither"),
        ([], None, ValueError, "images must be at least one sample, got an empty list"),
        ([None], ["a", "b"], ValueError, "images and text must be equally many, got 1 and 2"),
        (None, ["lung", 3], TypeError, "text must be a string or None, got 3 in row 1"),
        (["/no/such/file.png"], None, ImageError, "/no/such/file.png"),
    ],
)
def test_what_cannot_be_processed(
    images: Any, text: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        FusionProcessor(tokenizer(), SPEC)(images=images, text=text)


def test_a_processor_of_one_modality() -> None:
    image, text = FusionProcessor(input_spec=SPEC), FusionProcessor(tokenizer())
    assert (
        set(image(images=picture()))
        == {"pixel_values", "image_present"}
        == set(image.model_input_names)
    )
    assert (
        set(text(text="lung"))
        == {"input_ids", "attention_mask", "text_present"}
        == set(text.model_input_names)
    )
    with pytest.raises(
        ValueError, match="text must be left out of a processor without that part, got 1"
    ):
        image(images=picture(), text="lung")
    with pytest.raises(
        ValueError, match="images must be left out of a processor without that part, got 1"
    ):
        text(images=picture(), text="lung")
    with pytest.raises(ValueError, match=r"got neither in rows \[0\]"):
        image(images=[None])
    with pytest.raises(ValueError, match="input_spec must be given for images, got None"):
        text.pixel_values(picture())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "tokenizer or input_spec must be given, got neither"),
        (
            {"input_spec": SPEC, "fit": "sqash"},
            "fit must be one of .* got 'sqash'. Did you mean 'squash'",
        ),
        (
            {"input_spec": SPEC | {"interpolation": "bicubik"}},
            "interpolation must be one of .* got 'bicubik'. Did you mean 'bicubic'",
        ),
        (
            {"input_spec": SPEC | {"sise": 3}},
            "input_spec has an unknown entry 'sise'. Did you mean 'size'",
        ),
        (
            {"input_spec": {key: value for key, value in SPEC.items() if key != "std"}},
            "input_spec lacks entry 'std'",
        ),
        (
            {"input_spec": SPEC | {"channels": 2}},
            "channels must be 1 or 3 with a mean and std for each",
        ),
        (
            {"input_spec": SPEC | {"mean": [0.5]}},
            "channels must be 1 or 3 with a mean and std for each",
        ),
    ],
)
def test_what_cannot_be_built(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FusionProcessor(**arguments)


def test_a_tokenizer_must_be_able_to_pad() -> None:
    with pytest.raises(ValueError, match="tokenizer must have a padding token, got none"):
        FusionProcessor(tokenizer(pad_token=None))


def test_pixels_are_normalised_by_the_formula() -> None:
    spec = SPEC | {"size": [10, 24]}
    ours = FusionProcessor(input_spec=spec)(images=picture())["pixel_values"][0]
    for channel in range(3):
        plane = np.asarray(picture())[..., channel] / 255
        expected = (plane - spec["mean"][channel]) / spec["std"][channel]  # type: ignore[index]
        np.testing.assert_allclose(ours[channel].numpy(), expected, atol=1e-5)


def test_one_channel() -> None:
    spec = {
        "size": [10, 24],
        "channels": 1,
        "mean": [0.5],
        "std": [0.25],
        "interpolation": "nearest",
    }
    pixels = FusionProcessor(input_spec=spec)(images=[picture(), picture(mode="L")])["pixel_values"]
    assert pixels.shape == (2, 1, 10, 24)
    expected = (np.asarray(picture(mode="L")) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(pixels[0, 0].numpy(), expected, atol=1e-5)
    torch.testing.assert_close(pixels[0], pixels[1])


def test_long_texts_are_cut_and_the_log_says_so(log: pytest.LogCaptureFixture) -> None:
    processor = FusionProcessor(tokenizer(), max_length=5)
    assert processor(text="no lung disease")["input_ids"].shape == (1, 5)
    assert "cut" not in log.text
    inputs = processor(text=["no lung disease clear", "no"])
    assert inputs["input_ids"].tolist() == [[2, 4, 5, 6, 3], [2, 4, 3, 0, 0]]
    assert "Texts are cut to the text encoder's limit of 5 tokens." in log.text


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokenizers_padding_side_is_kept(side: str) -> None:
    inputs = FusionProcessor(tokenizer(padding_side=side), SPEC)(
        images=[picture()] * 3, text=["no lung", "no", None]
    )
    rows = inputs["attention_mask"].tolist()
    assert rows[1] == ([0, 1, 1, 1] if side == "left" else [1, 1, 1, 0]) and rows[2] == [0] * 4


def small_bert(**options: Any) -> PreTrainedConfig:
    small = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    words = {"vocab_size": 9, "max_position_embeddings": 6}
    return kit.tiny_config("bert", **(small | words | options))


def test_made_from_encoders() -> None:
    image = ImageEncoder("resnet10t", pretrained=False, in_chans=1)
    text = TextEncoder(small_bert())
    processor = FusionProcessor.from_encoders(image, text, tokenizer=tokenizer())
    assert (
        processor.input_spec == image.input_spec
        and processor.max_length == 6
        and processor.fit == "squash"
    )
    assert (
        FusionProcessor.from_encoders(image, text, tokenizer=tokenizer(), max_length=4).max_length
        == 4
    )
    assert (
        FusionProcessor.from_encoders(image, text, tokenizer=tokenizer(), max_length=99).max_length
        == 6
    )
    assert FusionProcessor.from_encoders(image, None, fit="pad").fit == "pad"
    assert FusionProcessor.from_encoders(None, text, tokenizer=tokenizer()).input_spec is None
    with pytest.raises(ValueError, match="tokenizer or input_spec must be given"):
        FusionProcessor.from_encoders(None, None)


def test_the_tokenizer_must_be_the_text_encoders() -> None:
    with pytest.raises(
        ValueError, match="tokenizer must know at most the text encoder's 5 tokens, got 9"
    ):
        FusionProcessor.from_encoders(
            None, TextEncoder(small_bert(vocab_size=5)), tokenizer=tokenizer()
        )
    with pytest.raises(
        ValueError,
        match="tokenizer must be given for a text encoder without a checkpoint, "
        "and 'bert' has none",
    ):
        FusionProcessor.from_encoders(None, TextEncoder(small_bert()))


def test_the_tokenizer_may_be_a_folder(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    for folder in (tmp_path, str(tmp_path)):
        processor = FusionProcessor.from_encoders(None, TextEncoder(small_bert()), tokenizer=folder)
        assert processor(text="no lung")["input_ids"].tolist() == [[2, 4, 5, 3]]


@pytest.mark.parametrize("parts", ["both", "image", "text"])
def test_saved_and_read_again(tmp_path: Path, parts: str) -> None:
    words = tokenizer() if parts != "image" else None
    spec = SPEC if parts != "text" else None
    processor = FusionProcessor(words, spec, max_length=None if parts == "image" else 5, fit="crop")
    files = processor.save_pretrained(tmp_path)
    assert files and all(Path(file).suffix in (".json", ".jinja", ".txt") for file in files)
    again = FusionProcessor.from_pretrained(tmp_path)
    assert (again.input_spec, again.max_length, again.fit) == (
        processor.input_spec,
        processor.max_length,
        processor.fit,
    )
    given: dict[str, Any] = {"images": [picture()]} if spec else {}
    given |= {"text": ["no lung disease clear"]} if words else {}
    first, second = processor(**given), again(**given)
    assert first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )
    assert repr(again).startswith("FusionProcessor({") and '"fit": "crop"' in repr(again)


def test_a_misspelt_entry_of_a_saved_processor_is_refused(tmp_path: Path) -> None:
    FusionProcessor(input_spec=SPEC).save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fitt": "pad"}))
    with pytest.raises(
        ValueError, match=r"processor_config\.json has an unknown entry 'fitt'\. Did you mean 'fit'"
    ):
        FusionProcessor.from_pretrained(tmp_path)


def test_options_given_while_reading_go_before_the_saved_ones(tmp_path: Path) -> None:
    FusionProcessor(tokenizer(), SPEC, max_length=5).save_pretrained(tmp_path)
    assert FusionProcessor.from_pretrained(tmp_path, fit="pad").fit == "pad"


def test_auto_processor_finds_it_beside_the_model(tmp_path: Path) -> None:
    from mmfusion import FusionClassifier

    model = FusionClassifier(
        image_encoder=ImageEncoder("test_vit", pretrained=False), text_encoder=small_bert()
    )
    model.save_pretrained(tmp_path)
    FusionProcessor.from_encoders(
        model.image_encoder, model.text_encoder, tokenizer=tokenizer()
    ).save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(processor, FusionProcessor)
    outputs = model.eval()(**processor(images=[picture(), None], text=["no lung", "clear"]))
    assert outputs.logits.shape == (2, 2)


def test_a_template_writes_texts_from_columns(tmp_path):
    tokenizer = word_tokenizer(["male female 60 years , cough"])
    processor = FusionProcessor(tokenizer, template="{sex}, {age} years")
    mixed = [{"sex": "male", "age": 60.0}, "female cough", {"sex": None, "age": 7}]
    inputs = processor(text=mixed)
    plain = processor(text=["male, 60 years", "female cough", "7 years"])
    with pytest.raises(ValueError, match=r"got neither in rows \[0\]"):
        processor(text=[{"sex": None, "age": None}])
    for name in plain:
        assert torch.equal(inputs[name], plain[name])
    processor.save_pretrained(tmp_path)
    again = FusionProcessor.from_pretrained(tmp_path)
    assert torch.equal(again(text=mixed)["input_ids"], inputs["input_ids"])
    with pytest.raises(TypeError, match="text must be a string"):
        FusionProcessor(tokenizer)(text=mixed[:1])
    with pytest.raises(ValueError, match="template must name a column"):
        FusionProcessor(tokenizer, template="no column")


def test_familiar_keywords_work_or_are_refused_by_name() -> None:
    processor = FusionProcessor(tokenizer(), SPEC)
    plain = processor(images=[picture(), None], text=["no lung", "clear"])
    same = {"return_tensors": "pt", "padding": "longest", "truncation": True}
    for name, value in processor(
        images=[picture(), None], text=["no lung", "clear"], **same
    ).items():
        assert torch.equal(value, plain[name])
    wrong = {"return_tensors": "np", "padding": "max_length", "truncation": False}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"{name} must be .*, got {value!r}"):
            processor(text="no lung", images=picture(), **{name: value})
