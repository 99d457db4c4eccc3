"""The fusion strategies, compared with the papers' formulas in plain numpy loops."""

from typing import Any

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
    softmax,
)
from torch import Tensor

from mmfusion.model.encoder_image import ImageEncoder
from mmfusion.model.fusion_late import Late
from mmfusion.model.modeling import FusionClassifier
from mmfusion.model.types import Encoded, Hidden


def test_concat() -> None:
    model, inputs = classifier(fusion="concat"), batch()
    image, text = encoded(model, inputs)
    expected = [
        head(model.fusion.head, array(image.pooled[row]), mapped(model, real(text, row)).mean(0))
        + probe(model.probe, array(image.pooled[row]), array(text.pooled[row]))
        for row in range(3)
    ]
    close(model(**inputs).logits, expected)


def test_cross_attention() -> None:
    model, inputs = classifier(fusion={"name": "cross_attention", "num_heads": 4}), batch()
    image, text = encoded(model, inputs)
    expected = []
    for row in range(3):
        x = real(image, row)
        moved = attention_block(model.fusion.block, x, mapped(model, real(text, row)), heads=4)
        gated = x + np.tanh(array(model.fusion.gate)) * (moved - x)
        expected.append(
            head(model.fusion.head, array(image.pooled[row]) + gated.mean(0) - x.mean(0))
            + probe(model.probe, array(image.pooled[row]), array(text.pooled[row]))
        )
    close(model(**inputs).logits, expected)


def test_joint_after_the_tower() -> None:
    model, inputs = (
        classifier(fusion={"name": "joint", "at": 3, "shared_blocks": 2, "num_heads": 4}),
        batch(),
    )
    image, text = encoded(model, inputs)
    expected = []
    for row in range(3):
        sequence = np.concatenate([real(image, row), mapped(model, real(text, row))])
        for block in model.fusion.blocks:
            sequence = attention_block(block, sequence, sequence, heads=4)
        start = probe(model.probe, array(image.pooled[row]), array(text.pooled[row]))
        expected.append(head(model.fusion.head, sequence.mean(0)) + start)
    close(model(**inputs).logits, expected)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_joint_inside_the_tower(at: int) -> None:
    # The reference takes one sample at a time without padding, so the remaining layers of the image
    # tower see one plain sequence.
    model, inputs = classifier(fusion={"name": "joint", "at": at}), batch()
    _, text = encoded(model, inputs)
    vit, expected = model.image_encoder.backbone, []
    with torch.no_grad():
        for row in range(3):
            sequence = vit.embeddings(inputs["pixel_values"][row : row + 1])
            for layer in vit.layers[:at]:
                sequence = layer(sequence)
            words = torch.from_numpy(mapped(model, real(text, row))).float().unsqueeze(0)
            sequence = torch.cat([sequence, words], 1)
            for layer in vit.layers[at:]:
                sequence = layer(sequence)
            embedding = array(vit.layernorm(sequence)[0, 0])
            start = probe(model.probe, embedding, array(text.pooled[row]))
            expected.append(head(model.fusion.head, embedding) + start)
    close(model(**inputs).logits, expected)


def gates(unit: Any, image: Array, text: Array) -> tuple[Array, Array]:
    """Returns the gates of MMTM for the image and the text, by equations 1 to 4.

    From the joint squeeze Z follows a gate in (0, 2) for every channel of each modality.
    """
    z = np.maximum(affine(np.concatenate([image, text]), unit.squeeze), 0)
    return 2 * sigmoid(affine(z, unit.excite_image)), 2 * sigmoid(affine(z, unit.excite_text))


def _side_by_side(model: FusionClassifier, image: Tensor, text: Encoded) -> Array:
    """Returns the logits of one sample after both towers."""
    own, words = plain_norm(array(image)), plain_norm(array(text.pooled[0]))
    meant = mapped(model, plain_norm(array(text.tokens[0]))).mean(0)
    return head(model.fusion.head, own, meant) + probe(model.probe, own, words)


def test_mmtm_with_a_vit() -> None:
    model, inputs = classifier(fusion={"name": "mmtm", "blocks": [[0, 1], [2, 2]]}), batch()
    image_encoder, text_encoder, expected = model.image_encoder, model.text_encoder, []
    with torch.no_grad():
        for row in range(3):
            length = int(inputs["attention_mask"][row].sum())
            image = image_encoder.embed(inputs["pixel_values"][row : row + 1])
            text = text_encoder.embed(inputs["input_ids"][row : row + 1, :length])
            walked = [0, 0]
            for (i, j), unit in zip([(0, 1), (2, 2)], model.fusion.units, strict=True):
                for block in range(walked[0], i):
                    image = image_encoder.block(block, image)
                for block in range(walked[1], j):
                    text = text_encoder.block(block, text)
                walked = [i, j]
                for_image, for_text = gates(
                    unit, array(image.values[0]).mean(0), array(text.values[0]).mean(0)
                )
                image = image._replace(values=image.values * torch.from_numpy(for_image).float())
                text = text._replace(values=text.values * torch.from_numpy(for_text).float())
            seen = image_encoder.pool(image_encoder.block(2, image)).pooled[0]
            read = text_encoder.pool(text_encoder.block(2, text))
            expected.append(_side_by_side(model, seen, read))
    close(model(**inputs).logits, expected)


def test_mmtm_scales_the_channels_of_a_cnn() -> None:
    encoder = ImageEncoder("resnet10t", pretrained=False)
    model, inputs = (
        classifier(image_encoder=encoder, fusion={"name": "mmtm", "blocks": [[3, 2]]}),
        batch(32),
    )
    # With random batch norms the values of a CNN explode. Those of a new network do not.
    encoder.backbone.load_state_dict(
        ImageEncoder("resnet10t", pretrained=False).backbone.state_dict()
    )
    unit, expected = model.fusion.units[0], []
    with torch.no_grad():
        for row in range(3):
            length = int(inputs["attention_mask"][row].sum())
            image = encoder.embed(inputs["pixel_values"][row : row + 1])
            for block in range(3):
                image = encoder.block(block, image)
            text = model.text_encoder.embed(inputs["input_ids"][row : row + 1, :length])
            for block in range(2):
                text = model.text_encoder.block(block, text)
            for_image, for_text = gates(
                unit, array(image.values[0]).mean((1, 2)), array(text.values[0]).mean(0)
            )
            scaled = np.empty_like(array(image.values[0]))
            for channel in range(len(for_image)):
                scaled[channel] = array(image.values[0, channel]) * for_image[channel]
            seen = encoder.pool(
                encoder.block(3, Hidden(torch.from_numpy(scaled).float().unsqueeze(0)))
            ).pooled[0]
            text = text._replace(values=text.values * torch.from_numpy(for_text).float())
            read = model.text_encoder.pool(model.text_encoder.block(2, text))
            expected.append(_side_by_side(model, seen, read))
    close(model(**inputs).logits, expected)


def probabilities(scores: Array, multi_label: bool) -> Array:
    return sigmoid(scores) if multi_label else softmax(scores)


def joined(
    combine: str,
    experts: list[Array],
    weights: list[float],
    multi_label: bool,
    prior: Array,
    absence: list[Array],
) -> Array:
    """Returns the joint probabilities of the modalities that are present.

    A product divides the prior out, once for each modality but the first.
    """
    if combine == "product":
        if multi_label:
            odds = [p / (1 - p) for p in experts] + absence
            product = np.prod(odds, axis=0) / (prior / (1 - prior)) ** (len(experts) - 1)
            return product / (1 + product)
        product = np.prod(experts + absence, axis=0) / prior ** (len(experts) - 1)
        return product / product.sum()
    if combine == "mean":
        weights = [1.0] * len(experts)
    share = (
        np.exp(weights) / np.exp(weights).sum()
        if combine == "learned"
        else np.array(weights) / len(weights)
    )
    return sum(w * p for w, p in zip(share, experts, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
@pytest.mark.parametrize("combine", ["mean", "learned", "product"])
def test_late(combine: str, problem: str) -> None:
    multi_label = problem.startswith("multi")
    model, inputs = (
        classifier(fusion={"name": "late", "combine": combine}, problem_type=problem),
        batch(),
    )
    image, text = encoded(model, inputs)
    prior = np.array([0.2, 0.3, 0.5])
    absence = np.array([[0.5, 2.0, 1.5], [3.0, 0.25, 1.0]])
    with torch.no_grad():
        log_prior = np.log(prior / (1 - prior)) if multi_label else np.log(prior)
        model.fusion.log_prior.copy_(torch.from_numpy(log_prior))
        model.fusion.log_absence.copy_(torch.from_numpy(np.log(absence)))
    present = {
        "image_present": torch.tensor([True, False, True]),
        "text_present": torch.tensor([True, True, False]),
    }
    logits = model(**inputs, **present).logits
    learned = array(model.fusion.weights) if combine == "learned" else np.zeros(2)
    for row in range(3):
        scores = [
            probe(model.fusion.image_probe, array(image.pooled[row])),
            probe(model.fusion.text_probe, array(text.pooled[row]))
            + head(model.fusion.text_head, mapped(model, real(text, row)).mean(0)),
        ]
        here = [i for i, name in enumerate(("image_present", "text_present")) if present[name][row]]
        experts = [probabilities(scores[i], multi_label) for i in here]
        gone = [absence[i] for i in (0, 1) if i not in here]
        expected = joined(combine, experts, [learned[i] for i in here], multi_label, prior, gone)
        ours = probabilities(array(logits[row]), multi_label)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)
        if not multi_label:
            np.testing.assert_allclose(expected.sum(), 1)


def test_late_is_exact_where_probabilities_underflow() -> None:
    late = Late("mean")
    late.multi_label = False
    scores = torch.tensor([[[0.0, -300.0]], [[0.0, -200.0]]])
    joint = late.combined(scores, torch.ones(2, 1, dtype=torch.bool)).log_softmax(-1)
    torch.testing.assert_close(
        joint[0, 1], torch.tensor(-200.0 - float(np.log(2))), rtol=1e-6, atol=0
    )
