"""Explanations of several pictures and of texts in windows."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmfusion import FusionClassifier, FusionProcessor, deletion_curve, explain
from mmfusion import testing as kit
from mmfusion.data.toy import word_tokenizer
from mmfusion.inference.explain_gradients import log_odds

WORDS = [f"w{number}" for number in range(12)]


def made(fusion: str, image: str, text: str) -> tuple[FusionClassifier, FusionProcessor]:
    """Returns a classifier of three pictures, and a processor with windows of six tokens."""
    mapper = "cross_attention" if fusion == "cross_attention" else "linear"
    config = kit.tiny_classifier(fusion, mapper, image, text).config
    config.num_views = 3
    model = FusionClassifier(config).eval()
    kit.redraw_parameters(model, 0)
    assert model.image_encoder is not None
    processor = FusionProcessor(
        word_tokenizer([" ".join(WORDS)]),
        model.image_encoder.input_spec,
        max_length=6,
        num_views=3,
        long_text="chunk",
    )
    return model, processor


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, size).astype(np.uint8))


@pytest.mark.parametrize(
    ("fusion", "image", "text"),
    [
        ("concat", "timm_vit", "bert"),
        ("joint", "transformers_vit", "modernbert"),
        ("cross_attention", "cnn", "roberta"),
        ("mmtm", "cnn", "distilbert"),
        ("late", "opaque", "custom"),
        ("guarded", "timm_vit", "mpnet"),
    ],
)
def test_each_picture_and_each_word_is_explained(fusion: str, image: str, text: str) -> None:
    model, processor = made(fusion, image, text)
    pictures = [picture(0), None, picture(1, (30, 50))]
    found = explain(model, processor, pictures, " ".join(WORDS), words="occlusion")
    assert [one.values.shape for one in found.heat] == [(40, 30), (30, 50)]
    assert [one.picture for one in found.heat] == [pictures[0], pictures[2]]
    assert [word.text for word in found.words] == WORDS
    assert sum(found.contributions.values()) == pytest.approx(found.log_odds - found.base, abs=1e-4)
    if fusion == "cross_attention":
        # Each region of each picture attends to the words, and to special tokens.
        for one in found.heat:
            assert one.words is not None and one.words.shape == (len(WORDS), *one.grid.shape)
            assert one.words.min() > 0 and one.words.sum(0).max() <= 1 + 1e-5
    # Word by word, in all windows that hold it, by the ids of the tokenizer.
    inputs = dict(processor(images=[pictures], text=[" ".join(WORDS)]))
    assert inputs["input_ids"].ndim == 3
    target = list(found.probabilities).index(found.target)

    def score(mask: torch.Tensor) -> float:
        with torch.no_grad():
            logits = model(**inputs | {"attention_mask": mask}).logits
        return float(log_odds(logits, target, multi_label=False))

    mask = inputs["attention_mask"]
    for word in found.words[::4]:
        (own,) = processor.tokenizer(word.text, add_special_tokens=False)["input_ids"]
        lost = score(mask) - score(mask * (inputs["input_ids"] != own))
        assert word.weight == pytest.approx(lost, abs=1e-4)


def test_maps_follow_their_pictures() -> None:
    model, processor = made("concat", "cnn", "bert")
    with torch.no_grad():
        # Places that were not learned yet.
        model.view_embedding.zero_()
    one, other = picture(0), picture(1)
    maps = explain(model, processor, [one, other, None], "w1", target=0).heat
    swapped = explain(model, processor, [other, None, one], "w1", target=0).heat
    np.testing.assert_allclose(maps[0].grid, swapped[1].grid, atol=1e-5)
    np.testing.assert_allclose(maps[1].grid, swapped[0].grid, atol=1e-5)
    assert np.abs(maps[0].grid - maps[1].grid).max() > 1e-4


def test_nothing_but_missing_pictures_is_no_picture(tmp_path: Any) -> None:
    model, processor = made("late", "cnn", "bert")
    found = explain(model, processor, [None, None], "w1 w2")
    assert found.missing == ("image",) and found.heat == ()
    shown = found.to_html(tmp_path / "page.html").read_text()
    assert "The image is missing." in shown


@pytest.mark.parametrize("over", ["image", "words"])
def test_deletion_takes_the_parts_of_all_pictures_and_windows(over: str) -> None:
    model, processor = made("concat", "cnn", "bert")
    pictures = [picture(0), None, picture(1, (30, 50))]
    text = " ".join(WORDS)
    found = explain(model, processor, pictures, text, target=1, words="occlusion")
    curve = deletion_curve(
        model, processor, pictures, text,
        over=over, explanation=found, steps=4, orders=2, cells=3, fill="mean",
    )  # fmt: skip
    assert curve.top[0] == pytest.approx(found.probabilities[found.target], abs=1e-5)
    assert np.allclose(curve.random[:, [0, -1]], curve.top[[0, -1]], atol=1e-6)

    def probability(**changed: Any) -> float:
        given = {"images": [pictures], "text": [text]} | changed
        inputs = dict(processor(**given))
        if over == "words":
            # Without words the special tokens of each window are left.
            special = torch.tensor(processor.tokenizer.all_special_ids)
            kept = torch.isin(inputs["input_ids"], special)
            inputs["attention_mask"] = inputs["attention_mask"] * kept
        with torch.no_grad():
            return float(model(**inputs).logits.softmax(-1)[0, 1])

    means = [
        None if one is None else Image.new("L", one.size, round(float(np.asarray(one).mean())))
        for one in pictures
    ]
    nothing = probability(images=[means]) if over == "image" else probability()
    assert curve.top[-1] == pytest.approx(nothing, abs=1e-5)
