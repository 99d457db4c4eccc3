"""transformers' vision models: ViT and DeiT are walked by layer, any other one is one block."""

import copy
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask

from .adapter_base import Adapter, features_to_encoded, prefix_tokens
from .adapter_dual import image_pooler_runner, projected
from .load_projection import projection_of
from .load_transformers import backbone_width
from .packing import Packing
from .types import Encoded, Hidden, Lengths

WALKED_VIT = ("vit", "deit")
"""transformers' model types whose vision encoder is walked by layer; any other is one block."""


@final
class HfViT(Adapter):
    """transformers' ViT and DeiT."""

    takes_tokens = True
    packs = True

    def __init__(self, module: Any):
        self.layers = module.layers if hasattr(module, "layers") else module.encoder.layer
        super().__init__(module, module.config.hidden_size, len(self.layers))

    def forward(self, *inputs: Tensor, lengths: Lengths = None) -> Encoded:
        return self._encoded(self.module(*inputs).last_hidden_state)

    def embed(self, *inputs: Tensor) -> Hidden:
        return Hidden(self.module.embeddings(*inputs))

    def block(self, index: int, hidden: Hidden) -> Hidden:
        mask = hidden.attended
        if mask is not None:
            mask = create_bidirectional_mask(self.module.config, hidden.values, mask)
        return hidden._replace(values=first_output(self.layers[index](hidden.values, mask)))

    def walk_packed(self, start: int, stop: int, hidden: Hidden, packing: Packing) -> Hidden:
        row = packing.pack(hidden.values)
        for layer in self.layers[start:stop]:
            row = first_output(layer(row, packing.row_mask, packing=packing))
        return hidden._replace(values=packing.unpack(row))

    def pool(self, hidden: Hidden) -> Encoded:
        return self._encoded(self.module.layernorm(hidden.values))

    def _encoded(self, tokens: Tensor) -> Encoded:
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        pooler = getattr(self.module, "pooler", None)
        return Encoded(tokens, mask, tokens[:, 0] if pooler is None else pooler(tokens))

    def parts(self) -> tuple[list[list[nn.Module]], list[nn.Module]]:
        pooler = getattr(self.module, "pooler", None)
        tail = [self.module.layernorm, *([] if pooler is None else [pooler])]
        return [[layer] for layer in self.layers], tail

    def block_dims(self) -> list[int]:
        return [self.dim] * self.num_blocks


def transformers_image_adapter(
    module: Any, pooling: str | None = None, dim: int | None = None
) -> Adapter:
    """Returns the adapter for a transformers vision model.

    Args:
        module: the model, with a pooler if that is its pooling.
        pooling: "pooler", or None for the class token or the mean of the tokens.
        dim: the width of its features, where it is known. None: found out here, which takes time.
    """
    if module.config.model_type in WALKED_VIT and projection_of(module) is None:
        return HfViT(module)
    dim = feature_width(module) if dim is None else dim
    if pooling == "pooler":
        return projected(module, dim, image_pooler_runner)
    has_prefix = prefix_tokens(module)[0] > 0

    def run(module: nn.Module, pixels: Tensor) -> Encoded:
        features = _features(module, pixels)
        encoded = features_to_encoded(features, dim)
        # A model with a class token is pooled by it.
        is_sequence = has_prefix and features.ndim == 3
        return encoded._replace(pooled=features[:, 0]) if is_sequence else encoded

    return projected(module, dim, run)


def _features(module: Any, pixels: Tensor) -> Tensor:
    if module.config.model_type != "vit_mae":
        features: Tensor = module(pixels).last_hidden_state
        return features
    # It sorts its patches by this noise. By default the noise is random.
    places = torch.arange(module.embeddings.patch_embeddings.num_patches, device=pixels.device)
    return module(pixels, noise=places.expand(len(pixels), -1)).last_hidden_state


def feature_width(module: Any) -> int:
    """Returns the width of a vision model's features.

    Configs of families with stages name widths of many parts. So a twin without weights is run on
    the meta device, which computes shapes alone.
    """
    size = getattr(module.config, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    try:
        with torch.device("meta"), torch.no_grad():
            twin = type(module)(copy.deepcopy(module.config)).eval()
            channels = getattr(module.config, "num_channels", 3)
            features = _features(twin, torch.zeros(1, channels, height, width))
    # A model may read values, which the meta device does not have, and fail in any way.
    except Exception:
        return backbone_width(module)
    return features.shape[1 if features.ndim == 4 else -1]


def first_output(output: Any) -> Tensor:
    """Returns the hidden states of a layer that returns them alone or as the first of a tuple."""
    return output[0] if isinstance(output, tuple) else output
