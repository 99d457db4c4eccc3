"""The strategy `bottleneck`, compared with its equations sample by sample, without padding."""

from typing import Any

import numpy as np
import pytest
import torch
from fusion_formulas import (
    Array,
    affine,
    array,
    attend,
    attention_block,
    batch,
    classifier,
    close,
    head,
    layer_norm,
    mapped,
    plain_norm,
    probe,
)
from torch import Tensor, nn

from mmfusion.model.encoder_image import ImageEncoder
from mmfusion.model.modeling import FusionClassifier
from mmfusion.model.types import Encoded, Hidden


def tensor(values: Array) -> Tensor:
    return torch.from_numpy(values).float().unsqueeze(0)


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def through(layer: Any, x: Array, z: Array) -> tuple[Array, Array]:
    """Returns [x, y] = layer([x, z]), with the foreign tokens behind the layer's own."""
    together = array(first(layer(tensor(np.concatenate([x, z]))))[0])
    return together[: len(x)], together[len(x) :]


def projected(z: Array, layer: nn.Module) -> Array:
    return affine(z, layer) if isinstance(layer, nn.Linear) else z


def answer(model: FusionClassifier, image: Tensor, text: Encoded, z: Array) -> Array:
    own, words = plain_norm(array(image)), plain_norm(array(text.pooled[0]))
    meant = mapped(model, plain_norm(array(text.tokens[0]))).mean(0)
    return head(model.fusion.head, own, meant, z.mean(0)) + probe(model.probe, own, words)


@pytest.mark.parametrize("dim", [None, 12])
def test_a_vit_and_a_bert_pass_the_tokens_through_their_own_blocks(dim: int | None) -> None:
    options = {"name": "bottleneck", "layers": 2, "num_tokens": 3, "dim": dim}
    model, inputs = classifier(fusion=options), batch()
    vit, bert = model.image_encoder.backbone, model.text_encoder.backbone
    sides, expected = (model.fusion.image_side, model.fusion.text_side), []
    with torch.no_grad():
        for row in range(3):
            length = int(inputs["attention_mask"][row].sum())
            x = [
                array(vit.layers[0](vit.embeddings(inputs["pixel_values"][row : row + 1]))[0]),
                array(
                    first(
                        bert.encoder.layer[0](
                            bert.embeddings(inputs["input_ids"][row : row + 1, :length])
                        )
                    )[0]
                ),
            ]
            z = array(model.fusion.start)
            for block in (1, 2):
                changes = []
                for i, layers in enumerate((vit.layers, bert.encoder.layer)):
                    entering = projected(z, sides[i].enter)
                    x[i], left = through(layers[block], x[i], entering)
                    changes.append(projected(left - entering, sides[i].leave))
                z = z + (changes[0] + changes[1]) / 2
            seen = vit.layernorm(tensor(x[0]))[0, 0]
            read = model.text_encoder.pool(Hidden(tensor(x[1]), torch.ones(1, length) > 0))
            expected.append(answer(model, seen, read, z))
    close(model(**inputs).logits, expected)


def test_with_towers_of_one_width_the_tokens_are_the_mean_of_what_both_blocks_make_of_them() -> (
    None
):
    model = classifier(fusion={"name": "bottleneck", "layers": 1})
    inputs, seen = batch(), []
    for encoder in (model.image_encoder.backbone.layers, model.text_encoder.backbone.encoder.layer):
        encoder[2].register_forward_hook(lambda *call: seen.append(first(call[2])[0]))
    row = {name: value[:1] for name, value in inputs.items()}
    embedding = model(**row, output_embeddings=True).embedding
    image, text = seen[0][-4:], seen[1][-4:]
    torch.testing.assert_close(embedding[0, -16:], (image + text).mean(0) / 2)


def unit(part: Any, x: Array, z: Array, heads: int) -> tuple[Array, Array]:
    """Returns what a unit makes of the places x and of the bottleneck tokens z."""
    taken = attend(
        part.write, layer_norm(x, part.norm), layer_norm(z, part.norm_tokens), heads=heads
    )
    return x + np.tanh(array(part.gate)) * taken, attention_block(part.read, z, x, heads)


@pytest.mark.parametrize("missing", [None, "image", "text"])
def test_the_cells_of_a_cnn_pass_as_tokens(missing: str | None) -> None:
    encoder = ImageEncoder("resnet10t", pretrained=False)
    options = {"name": "bottleneck", "layers": 2, "num_heads": 2, "num_tokens": 3, "dim": 16}
    model, inputs = classifier(image_encoder=encoder, fusion=options), batch(32)
    # With random batch norms the values of a CNN explode. Those of a new network do not.
    encoder.backbone.load_state_dict(
        ImageEncoder("resnet10t", pretrained=False).backbone.state_dict()
    )
    bert, fusion, expected = model.text_encoder.backbone, model.fusion, []
    with torch.no_grad():
        for row in range(3):
            length = int(inputs["attention_mask"][row].sum())
            image = encoder.embed(inputs["pixel_values"][row : row + 1])
            image = encoder.walk(0, 2, image)
            words = bert.embeddings(inputs["input_ids"][row : row + 1, :length])
            x = array(first(bert.encoder.layer[0](words))[0])
            z = array(fusion.start)
            for layer in range(2):
                changes = []
                if missing != "image":
                    channels, height, width = image.values.shape[1:]
                    cells = array(image.values[0]).reshape(channels, -1).T
                    cells, left = unit(fusion.image_side.units[layer], cells, z, heads=2)
                    changes.append(left - z)
                    values = tensor(cells.T.reshape(channels, height, width))
                    image = encoder.block(2 + layer, Hidden(values))
                if missing != "text":
                    x, left = through(bert.encoder.layer[1 + layer], x, z)
                    changes.append(left - z)
                z = z + sum(changes) / len(changes)
            expected.append(_answer(model, encoder, image, x, z, missing))
    if missing:
        inputs[f"{missing}_present"] = torch.zeros(3, dtype=torch.bool)
    close(model(**inputs).logits, expected)


def _answer(
    model: FusionClassifier,
    encoder: ImageEncoder,
    image: Hidden,
    x: Array,
    z: Array,
    missing: str | None,
) -> Array:
    if missing == "image":
        own = array(model.absent_image)
    else:
        own = plain_norm(array(encoder.pool(image).pooled[0]))
    meant = array(model.absent_text)[None] if missing == "text" else plain_norm(x)
    logits = head(model.fusion.head, own, mapped(model, meant).mean(0), z.mean(0))
    return logits + probe(
        model.probe,
        None if missing == "image" else own,
        None if missing == "text" else plain_norm(x.mean(0)),
    )
