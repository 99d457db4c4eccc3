"""Attention matrices of transformer models, their rollout, and maps over the image."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt
from typing import Any, final

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from ..model.encoder_base import Encoder
from ..model.encoder_image import ImageEncoder
from ..model.graph import evaluating


@contextmanager
def record_attention(encoder: Encoder) -> Iterator[list[Tensor]]:
    """Yields a list to which each forward pass appends one matrix [B, heads, N, N] per layer.

    Row i of a matrix holds the attention weights of token i over all tokens; the row sums to 1. In
    training mode the matrices of timm are those before the dropout of attention, and the matrices
    of transformers are those after it. Prefix tokens (the class token, registers) come first.
    Fused attention kernels keep no matrices, so the encoder runs without them inside the block. Its
    outputs are the same up to rounding.

    Args:
        encoder: an image or text encoder. It may be part of a classifier; then run the classifier
            inside the block.

    Raises:
        ValueError: if no layer of the encoder keeps its attention matrix in this form, or the
            encoder was not run.

    Example:
        >>> name = "vit_tiny_patch16_224"
        >>> encoder = ImageEncoder(name, pretrained=False, img_size=32, depth=2).eval()
        >>> with record_attention(encoder) as maps:
        ...     _ = encoder(torch.zeros(1, 3, 32, 32))
        >>> [tuple(matrix.shape) for matrix in maps]
        [(1, 3, 5, 5), (1, 3, 5, 5)]
    """
    maps: list[Tensor] = []
    is_hf = hasattr(encoder.backbone, "set_attn_implementation")
    recording = _recording_transformers if is_hf else _recording_timm
    with recording(encoder.backbone, maps), _whole_batches(encoder):
        yield maps
        if not maps:
            raise ValueError(
                "encoder must be run inside the block and keep its attention's matrices, "
                f"got none from {type(encoder.backbone).__name__}. "
                "Call it there; models such as MPNet keep none."
            )


@contextmanager
def _recording_transformers(backbone: Any, maps: list[Tensor]) -> Iterator[None]:
    """Appends the matrices of a transformers model, which returns them as second outputs."""

    def keep_output(module: Any, inputs: Any, output: Any) -> None:
        matrix = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        # A module that wraps the attention returns the same tensor again.
        is_repeated = bool(maps) and maps[-1] is matrix
        if isinstance(matrix, Tensor) and matrix.ndim == 4 and not is_repeated:
            maps.append(matrix)

    # Only the eager implementation of transformers returns the matrices.
    before = backbone.config._attn_implementation
    backbone.set_attn_implementation("eager")
    hooks = [module.register_forward_hook(keep_output) for module in backbone.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        backbone.set_attn_implementation(before)


@contextmanager
def _recording_timm(backbone: Any, maps: list[Tensor]) -> Iterator[None]:
    """Appends the matrices of a timm model, which are the inputs of its attention dropout."""
    fused = [
        module
        for module in backbone.modules()
        if hasattr(module, "fused_attn") and hasattr(module, "attn_drop")
    ]
    if not fused:
        raise ValueError(
            "encoder must be a transformer whose attention can be read, "
            f"got {type(backbone).__name__}. Choose a ViT of timm, or a model of transformers."
        )

    def keep_input(module: Any, inputs: tuple[Tensor, ...]) -> None:
        maps.append(inputs[0])

    # Fused kernels skip the dropout module, and with it the hook.
    was_fused = [module.fused_attn for module in fused]
    for module in fused:
        module.fused_attn = False
    hooks = [module.attn_drop.register_forward_pre_hook(keep_input) for module in fused]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, value in zip(fused, was_fused, strict=True):
            module.fused_attn = value


def attention_rollout(maps: Sequence[Float[Tensor, "B heads N N"]]) -> Float[Tensor, "B N N"]:
    """Returns how much of each input token reaches each token of the last layer, by attention.

    The rollout is the product of the matrices (I + A) / 2 of all layers, with the last layer on the
    left. A is the mean over the heads, and I stands for the residual connection. Each row sums to
    1. The rollout ignores values, MLPs and signs, so it is a hint and no proof.

    Args:
        maps: one matrix per layer, the first layer first, as `record_attention` yields them.

    Raises:
        ValueError: if there is no matrix, or the matrices differ in shape.

    Source: Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers" (arXiv 2005.00928),
    eq. 1.

    Example:
        >>> half = torch.full((1, 2, 2, 2), 0.5)
        >>> attention_rollout([half])[0].tolist()
        [[0.75, 0.25], [0.25, 0.75]]
    """
    # Matrices of layers with different numbers of tokens cannot be multiplied.
    shapes = sorted({tuple(matrix.shape) for matrix in maps})
    if len(shapes) != 1:
        raise ValueError(
            "maps must be one matrix per layer, all of one shape [B, heads, N, N], "
            f"got shapes {shapes}."
        )
    # The identity stands for the residual connection, which passes half of each token on unchanged.
    identity = torch.eye(shapes[0][-1], dtype=maps[0].dtype, device=maps[0].device)
    rolled = identity.expand(shapes[0][0], -1, -1)
    for matrix in maps:
        rolled = (identity + reduce(matrix, "b heads n m -> b n m", "mean")) / 2 @ rolled
    return rolled


@final
@dataclass(frozen=True, eq=False)
class ImageAttention:
    """The attention of an image encoder as small maps over the image.

    Attributes:
        heads: the attention weights of the class token over the patches, by layer and head, [B,
            layers, heads, h, w]. Without a class token, the mean weights of all patches. The
            weights of prefix tokens are left out, so the sum of a map is at most 1.
        rollout: the same for the rollout over all layers, [B, h, w].
    """

    heads: Float[Tensor, "B layers heads h w"]
    rollout: Float[Tensor, "B h w"]


def image_attention(
    encoder: ImageEncoder, pixel_values: Float[Tensor, "B C H W"]
) -> ImageAttention:
    """Returns the attention maps of an image encoder for these images.

    The encoder runs in eval mode without gradient.

    Args:
        encoder: a ViT of timm or transformers, on its own or as the `image_encoder` of a
            classifier.
        pixel_values: pixels as the processor returns them, [B, C, H, W].

    Raises:
        ValueError: if the encoder has no attention over all its tokens (a CNN, a Swin), or its
            patches form no grid.

    Example:
        >>> name = "vit_tiny_patch16_224"
        >>> encoder = ImageEncoder(name, pretrained=False, img_size=(32, 48), depth=2)
        >>> attention = image_attention(encoder, torch.zeros(1, 3, 32, 48))
        >>> tuple(attention.heads.shape), tuple(attention.rollout.shape)
        ((1, 2, 3, 2, 3), (1, 2, 3))
    """
    with evaluating(encoder), torch.no_grad(), record_attention(encoder) as maps:
        encoder(pixel_values)
    shapes = {tuple(matrix.shape) for matrix in maps}
    # A Swin attends inside windows: its batch axis counts windows, not images.
    if len(shapes) != 1 or maps[0].shape[0] != len(pixel_values):
        raise ValueError(
            "encoder must attend over all its tokens in every layer, "
            f"got matrices of shapes {sorted(shapes)} from {type(encoder.backbone).__name__}. "
            "Choose a plain ViT."
        )
    prefix, has_class_token = encoder.num_prefix, encoder.adapter.has_class_token
    height, _ = grid_of(maps[0].shape[-1] - prefix, pixel_values)

    def over_patches(matrix: Tensor) -> Tensor:
        weights = (
            matrix[..., 0, prefix:] if has_class_token else matrix[..., prefix:, prefix:].mean(-2)
        )
        return rearrange(weights, "... (h w) -> ... h w", h=height)

    heads = torch.stack([over_patches(matrix) for matrix in maps], dim=1)
    return ImageAttention(heads, over_patches(attention_rollout(maps)))


def grid_of(regions: int, pixel_values: Tensor) -> tuple[int, int]:
    """Returns how many rows and columns of regions a picture is cut into.

    Args:
        regions: the number of patches, or of cells of a feature map.
        pixel_values: pixels [..., H, W].

    Raises:
        ValueError: if so many regions form no grid.

    Example:
        >>> grid_of(8, torch.zeros(1, 3, 32, 64))
        (2, 4)
    """
    # The regions are square, so the grid has the aspect ratio of the image.
    height = round(sqrt(regions * pixel_values.shape[-2] / pixel_values.shape[-1]))
    # A backbone with other tokens between the patches would give maps with shifted pixels.
    if height < 1 or regions % height:
        raise ValueError(
            "pixel_values must be cut into a grid of patches, "
            f"got {regions} patches of {tuple(pixel_values.shape)}."
        )
    return height, regions // height


@contextmanager
def _whole_batches(encoder: Encoder) -> Iterator[None]:
    """Keeps batches whole: one that is cut into groups would append several matrices per layer."""
    before = encoder.whole_batches
    encoder.whole_batches = True
    try:
        yield
    finally:
        encoder.whole_batches = before
