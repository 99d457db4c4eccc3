"""`film`, `gated`, `low_rank` and `tokens`, compared with the papers' formulas in numpy."""

import numpy as np
import pytest
import torch
from fusion_formulas import (
    Array,
    affine,
    array,
    attention_block,
    batch,
    classifier,
    close,
    encoded,
    head,
    mapped,
    plain_norm,
    probe,
    real,
    sigmoid,
)

from mmfusion.model.encoder_image import ImageEncoder
from mmfusion.model.modeling import FusionClassifier
from mmfusion.model.types import Hidden


def vectors(model: FusionClassifier, inputs: dict[str, torch.Tensor]) -> list[tuple[Array, ...]]:
    """Returns of each sample the image's vector, that of the mapped text, and the text's own."""
    image, text = encoded(model, inputs)
    return [
        (
            array(image.pooled[row]),
            mapped(model, real(text, row)).mean(0),
            array(text.pooled[row]),
        )
        for row in range(3)
    ]


def test_gated() -> None:
    model, inputs = classifier(fusion={"name": "gated", "dim": 5}), batch()
    fusion, expected = model.fusion, []
    for image, text, words in vectors(model, inputs):
        z = sigmoid(affine(np.concatenate([image, text]), fusion.gate))
        h = z * np.tanh(affine(image, fusion.image)) + (1 - z) * np.tanh(affine(text, fusion.text))
        expected.append(head(fusion.head, h) + probe(model.probe, image, words))
    assert len(h) == 5
    close(model(**inputs).logits, expected)


def test_low_rank_is_a_bilinear_form_for_each_channel() -> None:
    model, inputs = classifier(fusion={"name": "low_rank", "rank": 3, "dim": 4}), batch()
    fusion, expected = model.fusion, []
    factors = [
        np.concatenate([array(layer.weight), array(layer.bias)[:, None]], 1).reshape(3, 4, -1)
        for layer in (fusion.image, fusion.text)
    ]
    for image, text, words in vectors(model, inputs):
        v, t = np.append(image, 1), np.append(text, 1)
        h = np.zeros(4)
        for channel in range(4):
            form = sum(np.outer(factors[0][r, channel], factors[1][r, channel]) for r in range(3))
            assert np.linalg.matrix_rank(form) == 3
            h[channel] = v @ form @ t
        expected.append(head(fusion.head, h) + probe(model.probe, image, words))
    close(model(**inputs).logits, expected)


def test_tokens() -> None:
    options = {"name": "tokens", "dim": 12, "layers": 2, "num_heads": 3}
    model, inputs = classifier(fusion=options), batch()
    image, text = encoded(model, inputs)
    fusion, expected = model.fusion, []
    for row in range(3):
        sequence = np.concatenate(
            [
                array(fusion.first)[None],
                affine(real(image, row), fusion.from_image),
                affine(mapped(model, real(text, row)), fusion.from_text),
            ]
        )
        for block in fusion.blocks:
            sequence = attention_block(block, sequence, sequence, heads=3)
        start = probe(model.probe, array(image.pooled[row]), array(text.pooled[row]))
        expected.append(head(fusion.head, sequence[0]) + start)
    close(model(**inputs).logits, expected)


@pytest.mark.parametrize("with_image", [False, True])
@pytest.mark.parametrize("backbone", ["vit", "cnn"])
def test_film(backbone: str, with_image: bool) -> None:
    # The reference takes one sample at a time, and walks to the block by itself.
    options: dict[str, object] = {"name": "film", "at": 1, "with_image": with_image}
    side = 16
    if backbone == "cnn":
        encoder, side = ImageEncoder("resnet10t", pretrained=False), 32
        model, inputs = classifier(image_encoder=encoder, fusion=options), batch(side)
        # With random batch norms the values of a CNN explode. Those of a new network do not.
        encoder.backbone.load_state_dict(
            ImageEncoder("resnet10t", pretrained=False).backbone.state_dict()
        )
    else:
        model, inputs = classifier(fusion=options), batch(side)
    image_encoder, fusion, expected = model.image_encoder, model.fusion, []
    _, text = encoded(model, inputs)
    with torch.no_grad():
        for row in range(3):
            words = array(text.pooled[row])
            state = image_encoder.block(
                0, image_encoder.embed(inputs["pixel_values"][row : row + 1])
            )
            values = array(state.values[0])
            channels = values if backbone == "cnn" else values.T
            mean = channels.reshape(len(channels), -1).mean(1)
            read = np.concatenate([mean, words]) if with_image else words
            change = affine(np.maximum(affine(read, fusion.squeeze), 0), fusion.change)
            moved = np.empty_like(channels)
            for channel, of_channel in enumerate(channels):
                moved[channel] = (
                    of_channel * (1 + change[channel]) + change[len(channels) + channel]
                )
            after = torch.from_numpy(moved if backbone == "cnn" else moved.T).float()[None]
            state = Hidden(after, state.mask)
            for block in range(1, image_encoder.num_blocks):
                state = image_encoder.block(block, state)
            seen = plain_norm(array(image_encoder.pool(state).pooled[0]))
            meant = mapped(model, real(text, row)).mean(0)
            expected.append(head(fusion.head, seen, meant) + probe(model.probe, seen, words))
    close(model(**inputs).logits, expected)


def test_film_after_the_tower() -> None:
    model, inputs = classifier(fusion={"name": "film", "at": 3}), batch()
    fusion, expected = model.fusion, []
    for image, text, words in vectors(model, inputs):
        change = affine(np.maximum(affine(words, fusion.squeeze), 0), fusion.change)
        scale, shift = np.split(change, 2)
        seen = image * (1 + scale) + shift
        expected.append(head(fusion.head, seen, text) + probe(model.probe, image, words))
    close(model(**inputs).logits, expected)
