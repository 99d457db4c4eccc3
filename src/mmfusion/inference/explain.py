"""Where a transformer looks: its attention matrices, per layer and head, rolled out, and laid over the picture."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from ..model.adapter_bert import prefix_tokens
from ..model.encoder_base import Encoder
from ..model.encoder_image import ImageEncoder
from ..model.graph import evaluating, whole_batches


@contextmanager
def record_attention(encoder: Encoder) -> Iterator[list[Tensor]]:
    """A list that every forward pass inside the block appends to: one attention matrix per layer, [B, heads, N, N].

    Row i of a matrix says how much token i takes from each token; it sums to 1 (in training mode,
    before timm's and after transformers' dropout of attention). Prefix tokens (the class token,
    registers) come first. Inside the block the encoder computes attention without fused kernels,
    which keep no matrices; its outputs are the same up to rounding.

    Args:
        encoder: an image or text encoder; it may be part of a classifier, which is then run inside
            the block.

    Raises:
        ValueError: if nothing in the encoder is an attention that keeps its matrix in this form, or
            the encoder was not run.

    Example:
        >>> encoder = ImageEncoder("vit_tiny_patch16_224", pretrained=False, img_size=32, depth=2).eval()
        >>> with record_attention(encoder) as maps:
        ...     _ = encoder(torch.zeros(1, 3, 32, 32))
        >>> [tuple(found.shape) for found in maps]
        [(1, 3, 5, 5), (1, 3, 5, 5)]
    """
    maps: list[Tensor] = []
    is_hf = hasattr(encoder.backbone, "set_attn_implementation")
    fused = (
        []
        if is_hf
        else [
            m
            for m in encoder.backbone.modules()
            if hasattr(m, "fused_attn") and hasattr(m, "attn_drop")
        ]
    )
    if not is_hf and not fused:
        raise ValueError(
            f"encoder must be a transformer whose attention can be read, got {type(encoder.backbone).__name__}. "
            "Choose a ViT of timm, or a model of transformers."
        )

    def keep_output(module: Any, inputs: Any, output: Any) -> None:
        found = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        # A module that wraps the attention hands on the same tensor.
        if isinstance(found, Tensor) and found.ndim == 4 and not (maps and maps[-1] is found):
            maps.append(found)

    def keep_input(module: Any, inputs: tuple[Tensor, ...]) -> None:
        maps.append(inputs[0])

    if is_hf:
        before = encoder.backbone.config._attn_implementation
        encoder.backbone.set_attn_implementation("eager")
        hooks = [module.register_forward_hook(keep_output) for module in encoder.backbone.modules()]
    else:
        was_fused = [module.fused_attn for module in fused]
        for module in fused:
            module.fused_attn = False
        hooks = [module.attn_drop.register_forward_pre_hook(keep_input) for module in fused]
    try:
        with whole_batches():
            yield maps
        if not maps:
            raise ValueError(
                f"encoder must be run inside the block and keep its attention's matrices, got none from "
                f"{type(encoder.backbone).__name__}. Call it there; models such as MPNet keep none."
            )
    finally:
        for hook in hooks:
            hook.remove()
        if is_hf:
            encoder.backbone.set_attn_implementation(before)
        else:
            for module, value in zip(fused, was_fused, strict=True):
                module.fused_attn = value


def attention_rollout(maps: Sequence[Float[Tensor, "B heads N N"]]) -> Float[Tensor, "B N N"]:
    """How much of each input token arrives at each token of the last layer, if attention alone moved them.

    The product of the layers' matrices (I + A) / 2, the last layer leftmost, where A is the mean
    over the heads and I stands for the residual connection. Each row sums to 1. It knows nothing of
    values, MLPs and signs: a hint, no proof.

    Args:
        maps: one matrix per layer, from the first, as `record_attention` gives them.

    Raises:
        ValueError: if there is no matrix, or they differ in shape.

    Source: Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers" (arXiv 2005.00928),
    eq. 1.

    Example:
        >>> half = torch.full((1, 2, 2, 2), 0.5)
        >>> attention_rollout([half])[0].tolist()
        [[0.75, 0.25], [0.25, 0.75]]
    """
    shapes = sorted({tuple(found.shape) for found in maps})
    if len(shapes) != 1:
        raise ValueError(
            f"maps must be one matrix per layer, all of one shape [B, heads, N, N], got shapes {shapes}."
        )
    identity = torch.eye(shapes[0][-1], dtype=maps[0].dtype, device=maps[0].device)
    rolled = identity.expand(shapes[0][0], -1, -1)
    for found in maps:
        rolled = (identity + reduce(found, "b heads n m -> b n m", "mean")) / 2 @ rolled
    return rolled


@dataclass(frozen=True, eq=False)
class ImageAttention:
    """Where an image encoder looks, as small maps over the picture.

    Attributes:
        heads: what the class token takes from each patch, by layer and head [B, layers, heads, h,
            w]; without a class token, what all patches take on average. What it takes from prefix
            tokens is left out, so a map sums to at most 1.
        rollout: the same, rolled out over all layers [B, h, w].
    """

    heads: Float[Tensor, "B layers heads h w"]
    rollout: Float[Tensor, "B h w"]


def image_attention(
    encoder: ImageEncoder, pixel_values: Float[Tensor, "B C H W"]
) -> ImageAttention:
    """Where an image encoder looks in these pictures, without gradient; the encoder runs in eval mode.

    Args:
        encoder: a ViT of timm or transformers, alone or a classifier's `image_encoder`.
        pixel_values: pixels as the processor gives them [B, C, H, W].

    Raises:
        ValueError: if the encoder has no attention over all its tokens (a CNN, a Swin), or its
            patches make no grid.

    Example:
        >>> encoder = ImageEncoder("vit_tiny_patch16_224", pretrained=False, img_size=(32, 48), depth=2)
        >>> found = image_attention(encoder, torch.zeros(1, 3, 32, 48))
        >>> tuple(found.heads.shape), tuple(found.rollout.shape)
        ((1, 2, 3, 2, 3), (1, 2, 3))
    """
    with evaluating(encoder), torch.no_grad(), record_attention(encoder) as maps:
        encoder(pixel_values)
    shapes = {tuple(found.shape) for found in maps}
    if len(shapes) != 1 or maps[0].shape[0] != len(pixel_values):
        raise ValueError(
            f"encoder must attend over all its tokens in every layer, got matrices of shapes {sorted(shapes)} from "
            f"{type(encoder.backbone).__name__}. Choose a plain ViT."
        )
    prefix, has_class_token = _prefix(encoder.backbone)
    patches = maps[0].shape[-1] - prefix
    height = round(sqrt(patches * pixel_values.shape[-2] / pixel_values.shape[-1]))
    if height < 1 or patches % height:
        raise ValueError(
            f"pixel_values must be cut into a grid of patches, got {patches} patches of {tuple(pixel_values.shape)}."
        )

    def over_patches(matrix: Tensor) -> Tensor:
        taken = (
            matrix[..., 0, prefix:] if has_class_token else matrix[..., prefix:, prefix:].mean(-2)
        )
        return rearrange(taken, "... (h w) -> ... h w", h=height)

    heads = torch.stack([over_patches(found) for found in maps], dim=1)
    return ImageAttention(heads, over_patches(attention_rollout(maps)))


def _prefix(backbone: Any) -> tuple[int, bool]:
    """How many tokens stand before the patches, and whether the first of them is a class token."""
    embeddings = getattr(backbone, "embeddings", backbone)
    has_class_token = any(
        getattr(embeddings, name, None) is not None for name in ("cls_token", "class_embedding")
    )
    count = getattr(backbone, "num_prefix_tokens", None)
    return prefix_tokens(backbone) if count is None else int(count), has_class_token
