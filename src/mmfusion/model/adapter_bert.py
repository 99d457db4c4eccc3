"""transformers' families of backbones: ViT and the text encoders that are built like BERT are walked by layer."""

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
)

from .adapter_base import Family, OneBlock, features_to_encoded
from .configuration import closest
from .packing import Packing
from .types import Encoded, Hidden, masked_mean

WALKED_TEXT = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet", "modernbert")
"""transformers' model types whose text encoder is walked layer by layer; any other one is one block."""

WALKED_VIT = ("vit", "deit")
"""transformers' model types whose vision encoder is walked layer by layer; any other one is one block."""


class HfViT(Family):
    """transformers' ViT and DeiT."""

    takes_tokens = True

    def __init__(self, module: Any):
        self.layers = module.layers if hasattr(module, "layers") else module.encoder.layer
        super().__init__(module, module.config.hidden_size, len(self.layers))
        self.num_prefix = prefix_tokens(module)

    def forward(self, *inputs: Tensor) -> Encoded:
        return self._encoded(self.module(*inputs).last_hidden_state)

    def embed(self, *inputs: Tensor) -> Hidden:
        return Hidden(self.module.embeddings(*inputs))

    def block(self, index: int, hidden: Hidden) -> Hidden:
        mask = None
        if hidden.mask is not None:
            mask = create_bidirectional_mask(self.module.config, hidden.values, hidden.mask)
        return hidden._replace(values=_first(self.layers[index](hidden.values, mask)))

    def walk_packed(self, start: int, stop: int, hidden: Hidden, packing: Packing) -> Hidden:
        """What `walk` gives, computed on the real tokens alone; zero in the padding."""
        row = packing.pack(hidden.values)
        for layer in self.layers[start:stop]:
            row = _first(layer(row, packing.row_mask, packing=packing))
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


class HfText(Family):
    """transformers' BERT-like text encoders: embeddings, layers, and (ModernBERT) a final norm.

    Texts arrive with their real tokens first (see `TextEncoder`), so the positions are 0, 1, 2 ...
    plus the offset of the family.

    Args:
        module: BertModel, RobertaModel, DistilBertModel, MPNetModel, ModernBertModel or a model of
            the same build.
        pool_tokens: (tokens, mask) -> pooled.
    """

    def __init__(self, module: Any, pool_tokens: Callable[[Tensor, Tensor], Tensor]):
        layers = {
            "distilbert": lambda: module.transformer.layer,
            "modernbert": lambda: module.layers,
        }
        self.kind = module.config.model_type
        self.layers = layers.get(self.kind, lambda: module.encoder.layer)()
        self.pool_tokens = pool_tokens
        super().__init__(module, module.config.hidden_size, len(self.layers))

    def forward(self, *inputs: Tensor) -> Encoded:
        input_ids, mask = inputs
        tokens = self.module(
            input_ids=input_ids, attention_mask=mask, position_ids=self._positions(input_ids)
        )[0]
        return Encoded(tokens, mask, self.pool_tokens(tokens, mask))

    def forward_packed(self, input_ids: Tensor, mask: Tensor, packing: Packing) -> Encoded:
        """What `forward` gives, computed on the real tokens alone; zero in the padding."""
        row = self.module(
            input_ids=packing.pack(input_ids),
            attention_mask=packing.row_mask,
            position_ids=packing.positions + position_offset(self.module),
            packing=packing,
        )[0]
        tokens = packing.unpack(row)
        return Encoded(tokens, mask, self.pool_tokens(tokens, mask))

    def walk_packed(self, start: int, stop: int, hidden: Hidden, packing: Packing) -> Hidden:
        """What `walk` gives, computed on the real tokens alone; zero in the padding."""
        row = packing.pack(hidden.values)
        for layer in self.layers[start:stop]:
            options = self._rotary(layer, row, packing.positions)
            row = _first(layer(row, attention_mask=packing.row_mask, packing=packing, **options))
        return hidden._replace(values=packing.unpack(row))

    def embed(self, *inputs: Tensor) -> Hidden:
        input_ids, mask = inputs
        # ModernBERT's positions are rotary: they enter in its layers.
        options = {} if self.kind == "modernbert" else {"position_ids": self._positions(input_ids)}
        return Hidden(self.module.embeddings(input_ids=input_ids, **options), mask)

    def block(self, index: int, hidden: Hidden) -> Hidden:
        layer, values = self.layers[index], hidden.values
        options = self._rotary(
            layer, values, torch.arange(values.shape[1], device=values.device).unsqueeze(0)
        )
        if self.kind == "mpnet":
            options["position_bias"] = self.module.encoder.compute_position_bias(values)
            assert hidden.mask is not None
            mask: Any = torch.zeros_like(hidden.mask, dtype=values.dtype).masked_fill(
                ~hidden.mask, torch.finfo(values.dtype).min
            )
            mask = rearrange(mask, "b l -> b 1 1 l")
        else:
            is_local = self.kind == "modernbert" and layer.attention_type == "sliding_attention"
            make_mask = (
                create_bidirectional_sliding_window_mask if is_local else create_bidirectional_mask
            )
            mask = make_mask(self.module.config, values, hidden.mask)
        return hidden._replace(values=_first(layer(values, attention_mask=mask, **options)))

    def _rotary(self, layer: Any, values: Tensor, positions: Tensor) -> dict[str, Any]:
        """The rotary embedding that ModernBERT's layers are given; nothing for the others."""
        if self.kind != "modernbert":
            return {}
        return {
            "position_embeddings": self.module.rotary_emb(values, positions, layer.attention_type)
        }

    def pool(self, hidden: Hidden) -> Encoded:
        assert hidden.mask is not None
        tokens = (
            self.module.final_norm(hidden.values) if self.kind == "modernbert" else hidden.values
        )
        return Encoded(tokens, hidden.mask, self.pool_tokens(tokens, hidden.mask))

    def parts(self) -> tuple[list[list[nn.Module]], list[nn.Module]]:
        return [[layer] for layer in self.layers], [
            self.module.final_norm
        ] if self.kind == "modernbert" else []

    def block_dims(self) -> list[int]:
        return [self.dim] * self.num_blocks

    def _positions(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device) + position_offset(
            self.module
        )
        return positions.unsqueeze(0).expand(input_ids.shape)


def hf_image_family(module: Any) -> Family:
    """The adapter for a transformers vision model."""
    if module.config.model_type in WALKED_VIT:
        return HfViT(module)
    dim = hf_width(module)
    prefix = prefix_tokens(module)

    def run(module: nn.Module, pixels: Tensor) -> Encoded:
        features = module(pixels).last_hidden_state
        encoded = features_to_encoded(features, dim)
        return encoded._replace(pooled=features[:, 0]) if prefix and features.ndim == 3 else encoded

    return OneBlock(module, dim, run)


def hf_text_family(module: Any, pool_tokens: Callable[[Tensor, Tensor], Tensor]) -> Family:
    """The adapter for a transformers text encoder."""
    if module.config.model_type in WALKED_TEXT:
        return HfText(module, pool_tokens)
    return OneBlock(module, hf_width(module), text_runner(pool_tokens))


def text_runner(pool_tokens: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Encoded]:
    """(module, input_ids, mask) -> Encoded, by a module that returns tokens [B, L, D], an `Encoded` or a transformers output."""

    def run(module: nn.Module, input_ids: Tensor, mask: Tensor) -> Encoded:
        output = module(input_ids=input_ids, attention_mask=mask.long())
        if isinstance(output, Encoded):
            return output
        tokens = output if isinstance(output, Tensor) else output[0]
        return Encoded(tokens, mask.bool(), pool_tokens(tokens, mask.bool()))

    return run


def hf_width(module: Any) -> int:
    """The width of a transformers model's last hidden state."""
    config = module.config
    if getattr(config, "hidden_sizes", None):
        return int(config.hidden_sizes[-1])
    for name in ("hidden_size", "hidden_dim", "num_features", "d_model"):
        if isinstance(getattr(config, name, None), int):
            return int(getattr(config, name))
    raise ValueError(
        f"{type(module).__name__} must be a backbone whose config tells its width (hidden_size), got {type(config).__name__}. "
        "Wrap it in a module of your own and register that with register_backbone."
    )


def pool_by(kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """(tokens, mask) -> pooled: the mean over real tokens, or the first real token.

    Raises:
        ValueError: when `kind` is neither "mean" nor "cls".
    """
    pools: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "mean": masked_mean,
        "cls": lambda tokens, mask: tokens[:, 0],
    }
    if kind not in pools:
        raise ValueError(
            f"pooling must be 'mean' or 'cls', got {kind!r}. {closest(kind, list(pools))}"
        )
    return pools[kind]


def position_offset(module: nn.Module) -> int:
    """The position id of a text's first token: 0, or (RoBERTa and its kin) one more than the padding id."""
    padding = getattr(getattr(module, "embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def prefix_tokens(module: Any) -> int:
    """How many tokens (class token, registers) a transformers vision model puts before its patches."""
    embeddings = getattr(module, "embeddings", module)
    names = ("cls_token", "class_embedding", "distillation_token")
    registers = getattr(module.config, "num_register_tokens", 0) or 0
    return sum(getattr(embeddings, name, None) is not None for name in names) + registers


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
