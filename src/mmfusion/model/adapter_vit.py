"""transformers' vision models: ViT and DeiT are walked by layer, any other one is one block."""

from typing import Any, final

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask

from .adapter_base import Adapter, OneBlock, features_to_encoded, prefix_tokens
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
        return Encoded(tokens, mask, tokens[:, 0])

    def parts(self) -> tuple[list[list[nn.Module]], list[nn.Module]]:
        return [[layer] for layer in self.layers], [self.module.layernorm]

    def block_dims(self) -> list[int]:
        return [self.dim] * self.num_blocks


def transformers_image_adapter(module: Any) -> Adapter:
    """Returns the adapter for a transformers vision model.

    Args:
        module: the model, without its pooler.
    """
    if module.config.model_type in WALKED_VIT:
        return HfViT(module)
    dim = backbone_width(module)
    has_prefix = prefix_tokens(module)[0] > 0

    def run(module: nn.Module, pixels: Tensor) -> Encoded:
        features = module(pixels).last_hidden_state
        encoded = features_to_encoded(features, dim)
        # A model with a class token is pooled by it.
        is_sequence = has_prefix and features.ndim == 3
        return encoded._replace(pooled=features[:, 0]) if is_sequence else encoded

    return OneBlock(module, dim, run)


def first_output(output: Any) -> Tensor:
    """Returns the hidden states of a layer that returns them alone or as the first of a tuple."""
    return output[0] if isinstance(output, tuple) else output
