"""transformers' text encoders: those built like BERT are walked by layer, others are one block."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, final

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
)

from .adapter_base import Adapter
from .adapter_dual import Pool, dual_text_adapter
from .adapter_vit import first_output
from .encoder_families import WITH_PADDING
from .graph import is_tracing
from .load_projection import projection_of
from .masking import masked_mean
from .packing import Packing, row_lengths
from .pooling import TEXT_POOLING
from .types import Encoded, Hidden, Lengths, is_full
from .validation import closest


class BertLike(Adapter, ABC):
    """A text encoder built like BERT: embeddings, then a list of layers.

    Texts arrive with their real tokens first (see `TextEncoder`). The positions are therefore 0, 1,
    2 ... plus the offset of the family.

    Args:
        module: the model, without its pooler.
        pool_tokens: how tokens become the pooled vector.
    """

    def __init__(self, module: Any, pool_tokens: Pool):
        self.module = module
        self.layers = self._find_layers()
        self.pool_tokens = pool_tokens
        super().__init__(module, module.config.hidden_size, len(self.layers))

    @abstractmethod
    def _find_layers(self) -> Any:
        """Returns the list of layers."""

    @abstractmethod
    def _layer_options(self, layer: Any, values: Tensor, positions: Tensor) -> dict[str, Any]:
        """Returns what a layer takes besides hidden states and mask.

        Args:
            layer: the layer.
            values: the hidden states that enter it.
            positions: the place of each token in its text, from 0.
        """

    @abstractmethod
    def _layer_mask(self, layer: Any, hidden: Hidden) -> Tensor | None:
        """Returns the attention mask that a layer takes for a padded batch."""

    def forward(self, *inputs: Tensor, lengths: Lengths = None) -> Encoded:
        input_ids, mask = inputs
        positions = self._positions(input_ids)
        attended = self._model_mask(mask, lengths)
        output = self.module(input_ids=input_ids, attention_mask=attended, position_ids=positions)
        return Encoded(output[0], mask, self._pooled(output[0], mask))

    def _model_mask(self, mask: Tensor, lengths: Lengths) -> Tensor | None:
        """Returns the attention mask that the model takes for a padded batch."""
        return None if is_full(lengths, mask.shape[1]) else mask

    def forward_packed(self, input_ids: Tensor, mask: Tensor, packing: Packing) -> Encoded:
        row = self.module(
            input_ids=packing.pack(input_ids),
            attention_mask=packing.row_mask,
            position_ids=packing.positions + position_offset(self.module),
            packing=packing,
        )[0]
        tokens = packing.unpack(row)
        return Encoded(tokens, mask, self._pooled(tokens, mask))

    def walk_packed(self, start: int, stop: int, hidden: Hidden, packing: Packing) -> Hidden:
        row = packing.pack(hidden.values)
        for layer in self.layers[start:stop]:
            options = self._layer_options(layer, row, packing.positions)
            output = layer(row, attention_mask=packing.row_mask, packing=packing, **options)
            row = first_output(output)
        return hidden._replace(values=packing.unpack(row))

    def embed(self, *inputs: Tensor) -> Hidden:
        input_ids, mask = inputs
        positions = self._positions(input_ids)
        return Hidden(self.module.embeddings(input_ids=input_ids, position_ids=positions), mask)

    def block(self, index: int, hidden: Hidden) -> Hidden:
        layer, values = self.layers[index], hidden.values
        positions = torch.arange(values.shape[1], device=values.device).unsqueeze(0)
        mask = self._layer_mask(layer, hidden)
        options = self._layer_options(layer, values, positions)
        return hidden._replace(values=first_output(layer(values, attention_mask=mask, **options)))

    def pool(self, hidden: Hidden) -> Encoded:
        assert hidden.mask is not None
        return Encoded(hidden.values, hidden.mask, self._pooled(hidden.values, hidden.mask))

    def parts(self) -> tuple[list[list[nn.Module]], list[nn.Module]]:
        pooler = getattr(self.module, "pooler", None)
        return [[layer] for layer in self.layers], [] if pooler is None else [pooler]

    def block_dims(self) -> list[int]:
        return [self.dim] * self.num_blocks

    def _pooled(self, tokens: Tensor, mask: Tensor) -> Tensor:
        pooler = getattr(self.module, "pooler", None)
        pooled: Tensor = self.pool_tokens(tokens, mask) if pooler is None else pooler(tokens)
        return pooled

    def _positions(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        return (positions + position_offset(self.module)).unsqueeze(0).expand(input_ids.shape)


@final
class Bert(BertLike):
    """BERT, RoBERTa and its kin, DistilBERT."""

    # Its layers know no positions: they were added to the embeddings.
    takes_tokens = True
    packs = True

    def _find_layers(self) -> Any:
        # DistilBERT calls its encoder a transformer.
        holder = getattr(self.module, "encoder", None) or self.module.transformer
        return holder.layer

    def _layer_options(self, layer: Any, values: Tensor, positions: Tensor) -> dict[str, Any]:
        return {}

    def _layer_mask(self, layer: Any, hidden: Hidden) -> Tensor | None:
        config, values = self.module.config, hidden.values
        mask: Tensor | None = create_bidirectional_mask(config, values, hidden.attended)
        return mask


@final
class MPNet(BertLike):
    """MPNet, whose layers take a position bias and a mask that is added to the scores."""

    def _find_layers(self) -> Any:
        return self.module.encoder.layer

    def _layer_options(self, layer: Any, values: Tensor, positions: Tensor) -> dict[str, Any]:
        return {"position_bias": self.module.encoder.compute_position_bias(values)}

    def _layer_mask(self, layer: Any, hidden: Hidden) -> Tensor | None:
        assert hidden.mask is not None
        return _added_to_scores(hidden.mask, hidden.values.dtype)

    def _model_mask(self, mask: Tensor, lengths: Lengths) -> Tensor | None:
        # With a mask of two axes, transformers would ask the device whether anything is masked.
        dtype = self.module.embeddings.word_embeddings.weight.dtype
        return _added_to_scores(mask, dtype)


@final
class ModernBert(BertLike):
    """ModernBERT: rotary positions, some local-attention layers, and a final norm."""

    packs = True

    def _find_layers(self) -> Any:
        return self.module.layers

    def _layer_options(self, layer: Any, values: Tensor, positions: Tensor) -> dict[str, Any]:
        rotary = self.module.rotary_emb(values, positions, layer.attention_type)
        return {"position_embeddings": rotary}

    def _layer_mask(self, layer: Any, hidden: Hidden) -> Tensor | None:
        is_local = layer.attention_type == "sliding_attention"
        make = create_bidirectional_sliding_window_mask if is_local else create_bidirectional_mask
        mask: Tensor | None = make(self.module.config, hidden.values, hidden.attended)
        return mask

    def embed(self, *inputs: Tensor) -> Hidden:
        input_ids, mask = inputs
        return Hidden(self.module.embeddings(input_ids=input_ids), mask)

    def pool(self, hidden: Hidden) -> Encoded:
        return super().pool(hidden._replace(values=self.module.final_norm(hidden.values)))

    def parts(self) -> tuple[list[list[nn.Module]], list[nn.Module]]:
        blocks, tail = super().parts()
        return blocks, [*tail, self.module.final_norm]


def _added_to_scores(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the mask [B, 1, 1, L] that is added to attention scores."""
    added = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    return rearrange(added, "b l -> b 1 1 l")


WALKED_TEXT: dict[str, type[BertLike]] = {
    "bert": Bert,
    "roberta": Bert,
    "xlm-roberta": Bert,
    "camembert": Bert,
    "distilbert": Bert,
    "mpnet": MPNet,
    "modernbert": ModernBert,
}
"""transformers' model types whose text encoder is walked layer by layer; any other is one block."""


def transformers_text_adapter(module: Any, pooling: str) -> Adapter:
    """Returns the adapter for a transformers text encoder.

    Args:
        module: the model, with a pooler if that is its pooling.
        pooling: as `EncoderConfig.pooling`.
    """
    family = module.config.model_type
    if family in WALKED_TEXT and projection_of(module) is None:
        return WALKED_TEXT[family](module, pool_by("cls" if pooling == "pooler" else pooling))
    pool_tokens = pool_by(pooling if pooling in POOLS else "cls")
    is_padded = family in WITH_PADDING or family in TEXT_POOLING
    run = text_runner(pool_tokens) if is_padded else equal_length_runner(pool_tokens)
    return dual_text_adapter(module, pooling, run, pool_tokens)


def text_runner(pool_tokens: Pool) -> Callable[..., Encoded]:
    """Returns a function (module, input_ids, mask) -> Encoded.

    Args:
        pool_tokens: how tokens become the pooled vector.

    Returns:
        A function of a module that returns tokens [B, L, D], one vector [B, D] (the only token), an
        `Encoded` or a transformers output.
    """

    def run(module: nn.Module, input_ids: Tensor, mask: Tensor) -> Encoded:
        output = module(input_ids=input_ids, attention_mask=mask.long())
        if isinstance(output, Encoded):
            return output
        tokens = output if isinstance(output, Tensor) else output[0]
        if tokens.ndim == 2:
            return Encoded(tokens.unsqueeze(1), mask.any(1, keepdim=True), tokens)
        return Encoded(tokens, mask.bool(), pool_tokens(tokens, mask.bool()))

    return run


def equal_length_runner(pool_tokens: Pool) -> Callable[..., Encoded]:
    """Returns a function (module, input_ids, mask) -> Encoded that computes no padding.

    Texts of equal length run together. This is slower than one padded batch, and it is right for
    every family that treats the texts of a batch one by one: convolutions, Fourier transforms and
    sums over the sequence find no padding that they could mix into the real tokens.

    Args:
        pool_tokens: how tokens become the pooled vector.

    Returns:
        A function of a transformers module. It raises a ValueError while a graph is traced, because
        a graph cannot look at lengths.
    """

    def run(module: Any, input_ids: Tensor, mask: Tensor) -> Encoded:
        if is_tracing():
            raise ValueError(
                f"{type(module).__name__} must run eagerly, because it computes texts of equal "
                "length together. Leave out compiling and exporting, or choose another text "
                "encoder."
            )
        takes_mask = "attention_mask" in inspect.signature(module.forward).parameters
        rows_of: dict[int, list[int]] = {}
        for row, length in enumerate(row_lengths(mask)):
            rows_of.setdefault(length, []).append(row)
        groups, places = [], mask.shape[1]
        for length, rows in rows_of.items():
            ids = input_ids[rows, :length]
            masks = {"attention_mask": torch.ones_like(ids)} if takes_mask else {}
            tokens = module(input_ids=ids, **masks)[0]
            groups.append(torch.nn.functional.pad(tokens, (0, 0, 0, places - length)))
        order = [row for rows in rows_of.values() for row in rows]
        tokens = torch.cat(groups)[torch.tensor(order).argsort().to(mask.device)]
        return Encoded(tokens, mask.bool(), pool_tokens(tokens, mask.bool()))

    return run


POOLS: dict[str, Pool] = {"mean": masked_mean, "cls": lambda tokens, mask: tokens[:, 0]}
"""The poolings of any text model."""


def pool_by(kind: str) -> Pool:
    """Returns the pooling: the mean over real tokens, or the first real token.

    Args:
        kind: "mean" or "cls".

    Raises:
        ValueError: for another kind.
    """
    if kind not in POOLS:
        raise ValueError(f"pooling must be 'mean' or 'cls', got {kind!r}. {closest(kind, POOLS)}")
    return POOLS[kind]


def position_offset(module: nn.Module) -> int:
    """Returns the position id of a first token: 0, or the padding id plus 1 (RoBERTa, MPNet).

    Args:
        module: a text backbone.
    """
    # AltCLIP holds its RoBERTa as a part.
    holder = getattr(module, "roberta", module)
    padding = getattr(getattr(holder, "embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1
