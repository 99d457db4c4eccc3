"""The formulas that the references of the fusion strategies share, in plain numpy loops."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmfusion.model.modeling import FusionClassifier
from mmfusion.model.types import Encoded
from mmfusion.testing import tiny_config

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
Array = NDArray[np.float64]


def classifier(**options: Any) -> FusionClassifier:
    """Returns a small classifier with random parameters.

    Initial zeros and ones would hide errors.
    """
    torch.manual_seed(0)
    image = options.pop("image_encoder", tiny_config("vit", **SMALL, image_size=16, patch_size=8))
    text = tiny_config("bert", **SMALL, vocab_size=30, max_position_embeddings=20)
    model = FusionClassifier(image_encoder=image, text_encoder=text, num_labels=3, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def batch(size: int = 16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    return {
        "pixel_values": torch.randn(3, 3, size, size, generator=generator),
        "input_ids": torch.randint(3, 30, (3, 5), generator=generator) * mask,
        "attention_mask": mask,
    }


def array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def layer_norm(x: Array, norm: nn.LayerNorm) -> Array:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + norm.eps) * array(norm.weight) + array(norm.bias)


def plain_norm(x: Array) -> Array:
    """Returns x after a LayerNorm without parameters."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def affine(x: Array, layer: nn.Linear) -> Array:
    return x @ array(layer.weight).T + (array(layer.bias) if layer.bias is not None else 0)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max())
    return e / e.sum()


def head(part: Any, *vectors: Array) -> Array:
    normed = [layer_norm(vector, norm) for vector, norm in zip(vectors, part.norms, strict=True)]
    return affine(np.concatenate(normed, -1), part.out)


def probe(part: Any, *vectors: Array | None) -> Array:
    """Returns the logits of a probe; None stands for an absent modality."""
    features = [
        np.zeros(dim) if vector is None else plain_norm(vector)
        for vector, dim in zip(vectors, part.dims, strict=True)
    ]
    flags = [
        np.sqrt(dim) if vector is None else 0.0
        for vector, dim in zip(vectors, part.dims, strict=True)
    ]
    return affine(np.concatenate([*features, flags]), part.out)


def attend(attention: Any, x: Array, context: Array, heads: int) -> Array:
    """Returns what each of one sample's tokens [N, D] takes from a context without padding."""
    q, k, v = (
        affine(x, attention.query),
        affine(context, attention.key),
        affine(context, attention.value),
    )
    width = q.shape[-1] // heads
    taken = np.zeros_like(q)
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        for n in range(len(x)):
            scores = np.array(
                [q[n, part] @ k[m, part] / np.sqrt(width) for m in range(len(context))]
            )
            taken[n, part] = softmax(scores) @ v[:, part]
    return affine(taken, attention.out)


def attention_block(block: Any, x: Array, context: Array, heads: int) -> Array:
    """Returns one sample's tokens [N, D] after a pre-norm block; the context has no padding."""
    seen = layer_norm(context, block.norm_context or block.norm)
    x = x + attend(block.attention, layer_norm(x, block.norm), seen, heads)
    inner = affine(layer_norm(x, block.norm_out), block.feed_forward[0])
    gelu = inner * 0.5 * (1 + array(torch.erf(torch.from_numpy(inner / np.sqrt(2)))))
    return x + affine(gelu, block.feed_forward[3])


def encoded(model: FusionClassifier, inputs: dict[str, Tensor]) -> tuple[Encoded, Encoded]:
    """Returns what both towers hand on: each token and each pooled vector is normalised."""
    with torch.no_grad():
        both = (
            model.image_encoder(inputs["pixel_values"]),
            model.text_encoder(inputs["input_ids"], inputs["attention_mask"]),
        )
    image, text = (
        Encoded(
            torch.from_numpy(plain_norm(array(one.tokens))),
            one.mask,
            torch.from_numpy(plain_norm(array(one.pooled))),
        )
        for one in both
    )
    return image, text


def real(encoded: Encoded, row: int) -> Array:
    return array(encoded.tokens[row][encoded.mask[row]])


def close(logits: Tensor, expected: list[Array]) -> None:
    np.testing.assert_allclose(array(logits), np.stack(expected), rtol=1e-4, atol=1e-5)


def mapped(model: FusionClassifier, tokens: Array) -> Array:
    return affine(tokens, model.mapper.map[0])
