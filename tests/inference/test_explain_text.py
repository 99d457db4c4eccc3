"""Weights of words, against captum, and against texts that are really written without a word."""

import captum.attr
import pytest
import torch

from mmfusion import FusionProcessor
from mmfusion.data.toy import word_tokenizer
from mmfusion.inference.explain_gradients import Scorer
from mmfusion.inference.explain_text import token_weights, windows_of, without_words, word_weights
from mmfusion.inference.explain_words import read_text
from mmfusion.testing import tiny_classifier

TEXT = "no mass or effusion in the left lung"
KINDS = ["bert", "roberta", "distilbert", "mpnet", "modernbert", "custom"]


def prepared(fusion="concat", image="custom", text="bert", **options):
    model = tiny_classifier(fusion, "linear", image, text, **options)
    processor = FusionProcessor(word_tokenizer([TEXT]))
    inputs = dict(processor(text=[TEXT]))
    if image is not None:
        pixels = torch.randn(1, 3, *model.image_encoder.input_spec["size"])
        inputs |= {"pixel_values": pixels, "image_present": torch.tensor([True])}
    return model, processor, inputs


def embedding_of(model):
    backbone = model.text_encoder.backbone
    return backbone.table if hasattr(backbone, "table") else backbone.get_input_embeddings()


@pytest.mark.filterwarnings("ignore:Input Tensor")
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_tokens_are_those_of_captum(kind):
    model, _, inputs = prepared("cross_attention", text=kind)
    with torch.no_grad():
        # captum begins at the embedding of token 0, ours at zero.
        embedding_of(model).weight[0] = 0
    others = {name: inputs[name] for name in ("pixel_values", "attention_mask")}

    def forward(ids, **rest):
        rows = {name: value.expand(len(ids), *value.shape[1:]) for name, value in others.items()}
        logits = model(input_ids=ids, **rows).logits
        return logits[:, 1] - logits[:, [0, 2]].logsumexp(1)

    ids = inputs["input_ids"]
    layer = captum.attr.LayerIntegratedGradients(forward, embedding_of(model))
    theirs = layer.attribute(
        ids, baselines=torch.zeros_like(ids), n_steps=16, method="riemann_middle"
    )
    found = token_weights(Scorer(model, 1), inputs, steps=16)
    torch.testing.assert_close(found, theirs[0].sum(-1).detach().float(), rtol=1e-3, atol=1e-5)
    product = captum.attr.LayerGradientXActivation(forward, embedding_of(model)).attribute(ids)
    one = token_weights(Scorer(model, 1), inputs, steps=1)
    torch.testing.assert_close(one, product[0].sum(-1).detach(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["gradient_x_input", "integrated_gradients", "occlusion"])
@pytest.mark.parametrize("padding", ["packed", "padded"])
def test_packing_and_freezing_change_nothing(method, padding):
    model, processor, inputs = prepared("joint", "timm_vit", "bert")
    reading = read_text(processor, TEXT, windows_of(inputs))
    expected, _ = word_weights(Scorer(model, 0), inputs, reading, method)
    model.text_encoder.padding = padding
    model.freeze("text")
    model.freeze("image")
    found, used = word_weights(Scorer(model, 0), inputs, reading, method)
    assert used == method and found.shape == (8,) and found.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    # Padding on the left, as some tokenizers write it.
    padded = dict(inputs)
    for name in ("input_ids", "attention_mask"):
        padded[name] = torch.nn.functional.pad(inputs[name], (3, 0))
    assert windows_of(padded) == windows_of(inputs)
    again, _ = word_weights(Scorer(model, 0), padded, reading, method)
    torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("image", ["custom", None])
def test_occlusion_is_the_text_written_without_the_word(image):
    model, processor, inputs = prepared("late" if image else "concat", image, "roberta")
    reading = read_text(processor, TEXT, windows_of(inputs))
    found, _ = word_weights(Scorer(model, 2), inputs, reading, "occlusion")
    words, whole = TEXT.split(), Scorer(model, 2)(inputs)
    for place in range(len(words)):
        rest = " ".join(words[:place] + words[place + 1 :])
        lost = whole - Scorer(model, 2)(inputs | dict(processor(text=[rest])))
        torch.testing.assert_close(found[place], lost[0].detach(), rtol=1e-4, atol=1e-6)


def test_words_without_an_embedding_are_left_out_one_by_one(monkeypatch):
    model, processor, inputs = prepared(text="custom")
    reading = read_text(processor, TEXT, windows_of(inputs))
    monkeypatch.setattr(model.text_encoder.backbone, "table", Lookup(embedding_of(model).weight))
    weights, used = word_weights(Scorer(model, 0), inputs, reading, "auto")
    assert used == "occlusion" and weights.shape == (8,)
    assert word_weights(Scorer(model, 0), inputs, reading, "gradient_x_input")[0] is None


class Lookup(torch.nn.Module):
    """An embedding that is no `nn.Embedding`."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, ids):
        return self.weight[ids]


def test_left_out_words_leave_the_mask_and_special_tokens_stay():
    model, processor, inputs = prepared()
    reading = read_text(processor, TEXT, windows_of(inputs))
    kept = torch.ones(2, 8, dtype=torch.bool)
    kept[1, [0, 7]] = False
    batch = without_words(inputs, reading, kept)
    assert batch["attention_mask"].tolist() == [[1] * 10, [1, 0, *[1] * 6, 0, 1]]
    assert batch["pixel_values"].shape[0] == 2 and inputs["attention_mask"].all()
    assert model(**batch).logits.shape == (2, 3)
