"""Words of each region of the picture, against nn.MultiheadAttention."""

import pytest
import torch
from torch import nn

from mmfusion.inference.explain_regions import attention_weights, region_words
from mmfusion.inference.explain_sample import sample_inputs
from mmfusion.inference.explain_text import windows_of
from mmfusion.inference.explain_words import read_text
from mmfusion.model.attention import Attention
from mmfusion.testing import tiny_classifier

ASKS = {"name": "cross_attention", "queries": "image"}


def test_attention_weights_are_those_of_torch():
    torch.manual_seed(0)
    attention = Attention(8, 6, num_heads=2)
    reference = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True)
    with torch.no_grad():
        reference.q_proj_weight.copy_(attention.query.weight)
        reference.k_proj_weight.copy_(attention.key.weight)
        reference.in_proj_bias.zero_()
        reference.in_proj_bias[:8] = attention.query.bias
    queries, context = torch.randn(1, 5, 8), torch.randn(1, 7, 6)
    _, expected = reference(queries, context, context)
    torch.testing.assert_close(attention_weights(attention, queries, context), expected)


def explained(model, processor, sample):
    inputs = sample_inputs(model, processor, *sample)
    reading = read_text(processor, sample[1], windows_of(inputs))
    return region_words(model, inputs, reading), reading, inputs


@pytest.mark.parametrize("image", ["timm_vit", "cnn", "opaque"])
@pytest.mark.parametrize(
    ("fusion", "mapper"),
    [
        ("cross_attention", "linear"),
        ("cross_attention", "cross_attention"),
        ("cross_attention", ASKS),
        ("concat", ASKS),
        ("joint", ASKS),
        ("late", ASKS),
    ],
)
def test_each_region_has_a_weight_for_each_word(fusion, mapper, image, processor_of, sample):
    model = tiny_classifier(fusion, mapper, image, "bert")
    (found,), reading, _ = explained(model, processor_of(model), sample)
    assert found.shape == (9, 2, 2) if image == "cnn" else (9, 4, 4)
    assert len(reading.words) == 9 and (found > 0).all()
    # What is missing to 1 is the share of the two special tokens.
    assert (found.sum(0) < 1).all()


def test_the_weights_are_those_of_the_block_in_its_order(processor_of, sample):
    """The class token is left out, patches go row by row, words in the order of the text."""
    model = tiny_classifier("cross_attention", "linear", "timm_vit", "bert")
    processor = processor_of(model)
    (found,), _, inputs = explained(model, processor, sample)
    own = model.image_encoder(inputs["pixel_values"])
    text = model.text_encoder(inputs["input_ids"], inputs["attention_mask"])
    own, text = (nn.functional.layer_norm(one.tokens, one.tokens.shape[-1:]) for one in (own, text))
    block, mapped = model.fusion.block, model.mapper.map(text)
    queries = block.attention.query(block.norm(own)).unflatten(-1, (8, -1)).transpose(1, 2)
    keys = block.attention.key(block.norm_context(mapped)).unflatten(-1, (8, -1)).transpose(1, 2)
    weights = (queries @ keys.mT / queries.shape[-1] ** 0.5).softmax(-1).mean(1)[0]
    expected = weights[1:, 1:-1].T.reshape(9, 4, 4)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("fusion", "mapper", "image"),
    [
        ("concat", "linear", "timm_vit"),
        ("concat", "cross_attention", "timm_vit"),
        ("joint", "linear", "cnn"),
        ("mmtm", "linear", "timm_vit"),
    ],
)
def test_without_regions_that_attend_there_is_nothing(fusion, mapper, image, processor_of, sample):
    model = tiny_classifier(fusion, mapper, image, "bert")
    assert explained(model, processor_of(model), sample)[0] == []
