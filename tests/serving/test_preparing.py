"""Samples of several clients become one batch, whatever their windows and views."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mmfusion import FusionProcessor, ImageEncoder
from mmfusion.data.toy import word_tokenizer
from mmfusion.serving.limits import Limits
from mmfusion.serving.preparing import Preparer, joined
from mmfusion.serving.requests import RequestError, Sample

WORDS = word_tokenizer(["clear lungs no effusion"])


def test_joined_is_what_the_processor_makes_of_all() -> None:
    processor = FusionProcessor(WORDS, max_length=6, long_text="chunk")
    texts = ["clear", "no effusion clear lungs " * 3, "lungs no"]
    wanted = processor(text=texts)
    found = joined([dict(processor(text=text)) for text in texts])
    assert found.keys() == wanted.keys() and wanted["input_ids"].ndim == 3
    real = wanted["attention_mask"].bool()
    for name in ("attention_mask", "text_present"):
        assert torch.equal(found[name], wanted[name]), name
    assert torch.equal(found["input_ids"][real], wanted["input_ids"][real])


def test_several_views_and_a_missing_one(picture: Callable[..., bytes]) -> None:
    spec = ImageEncoder("resnet10t", pretrained=False).input_spec
    prepare = Preparer(FusionProcessor(WORDS, spec, num_views=2), ("image", "text"), Limits())
    found = prepare(Sample([None, picture()], None))
    assert found.inputs["image_present"].tolist() == [[False, True]]
    assert found.missing == ("text",)
    with pytest.raises(RequestError, match="at most 2"):
        prepare(Sample([picture()] * 3, None))


def test_a_template_takes_columns() -> None:
    processor = FusionProcessor(WORDS, template="lungs {state}", max_length=3)
    prepare = Preparer(processor, ("text",), Limits())
    found = prepare(Sample([], {"state": "clear"}))
    assert torch.equal(found.inputs["input_ids"], processor(text="lungs clear")["input_ids"])
    assert found.notes
    with pytest.raises(RequestError, match="must have text, got nothing"):
        prepare(Sample([], {"state": None}))
    with pytest.raises(RequestError, match="template"):
        prepare(Sample([], {"stage": "clear"}))


@pytest.mark.parametrize("name", Limits.__dataclass_fields__)
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_limit_must_be_above_zero(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a number above 0"):
        Limits(**{name: value})  # type: ignore[arg-type]


def test_threads_do_not_disturb_each_other() -> None:
    """A fast tokenizer holds its settings while it works: two threads need two of them."""
    processor = FusionProcessor(WORDS, max_length=12)
    prepare = Preparer(processor, ("text",), Limits())
    texts = ["clear lungs " * (1 + number % 300) for number in range(1500)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda text: prepare(Sample([], text)), texts))
    for text, one in zip(texts, found, strict=True):
        assert torch.equal(one.inputs["input_ids"], processor(text=text)["input_ids"])
