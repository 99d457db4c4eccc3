"""Towers of dual encoders such as CLIP and SigLIP: their published pooling and projection."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .adapter_base import Adapter, OneBlock, features_to_encoded
from .load_projection import projection_of
from .load_transformers import backbone_width
from .pooling import TEXT_POOLING
from .types import Encoded

Pool = Callable[[Tensor, Tensor], Tensor]
"""(tokens [B, L, D], mask [B, L]) -> pooled [B, D]."""

Run = Callable[..., Encoded]
"""(module, *inputs) -> Encoded."""

LEGACY_EOS = 2
"""The end-of-text id in the configs of older CLIP models, whose tokenizer has another one.

Their end-of-text token is the one with the largest id (transformers' CLIPTextModel).
"""


def dual_text_adapter(module: Any, pooling: str, run: Run, pool_tokens: Pool) -> Adapter:
    """Returns the adapter of a text tower that is pooled in a way of its own, or projected.

    Args:
        module: the model; with `add_projection`, the projection is part of it.
        pooling: as `EncoderConfig.pooling`.
        run: a function (module, input_ids, mask) -> Encoded, for "mean" and "cls".
        pool_tokens: how it makes the pooled vector.
    """
    dim = text_width(module)
    if TEXT_POOLING.get(module.config.model_type) == "last":
        run = fixed_length_runner(None if pooling == "last" else pool_tokens)
    elif pooling == "eos":
        run = end_of_text_runner
    elif pooling == "pooler":
        run = text_pooler_runner
    return projected(module, dim, run)


def projected(module: Any, dim: int, run: Run) -> Adapter:
    """Returns an adapter of one block that applies the module's projection, if there is one.

    Args:
        module: the model.
        dim: width of what `run` returns.
        run: a function of the module and the inputs.
    """
    projection = projection_of(module)
    if projection is None:
        return OneBlock(module, dim, run)

    def run_projected(module: Any, *inputs: Tensor) -> Encoded:
        tokens, mask, pooled = run(module, *inputs)
        # Read it from the module: a copy of the adapter must use the copy's projection.
        project = projection_of(module)
        return Encoded(project(_normed(module, tokens)), mask, project(pooled))

    return OneBlock(module, projection.out_features, run_projected)


def end_of_text_runner(module: Any, input_ids: Tensor, mask: Tensor) -> Encoded:
    """Returns the encoded texts, pooled by the first end-of-text token.

    A text without one is pooled by its last real token. transformers would take the first token,
    which is the same for all texts.

    Args:
        module: a text model whose config has the `eos_token_id`.
        input_ids: [B, L], real tokens first.
        mask: True where a token is real [B, L].
    """
    mask = mask.bool()
    tokens = module(input_ids=input_ids, attention_mask=mask.long())[0]
    eos = module.config.eos_token_id
    # ONNX has no argmax of int64.
    ids = torch.where(mask, input_ids, -1).int()
    if eos == LEGACY_EOS and module.config.model_type in _WITH_LEGACY_EOS:
        place = ids.argmax(1)
    else:
        ends = torch.zeros_like(mask)
        for one in eos if isinstance(eos, list | tuple) else [eos]:
            ends = ends | (ids == one)
        last = (mask.sum(1) - 1).clamp(min=0)
        place = torch.where(ends.any(1), ends.int().argmax(1), last)
    rows = torch.arange(tokens.shape[0], device=tokens.device)
    return Encoded(tokens, mask, tokens[rows, place])


_WITH_LEGACY_EOS = ("clip_text_model", "clipseg_text_model", "xclip_text_model")


def text_pooler_runner(module: Any, input_ids: Tensor, mask: Tensor) -> Encoded:
    """Returns the encoded texts, pooled by the first token after the model's own pooler.

    Args:
        module: a text model with a pooler.
        input_ids: [B, L].
        mask: True where a token is real [B, L].
    """
    output = module(input_ids=input_ids, attention_mask=mask.long())
    return Encoded(output.last_hidden_state, mask.bool(), output.pooler_output)


def fixed_length_runner(pool_tokens: Pool | None) -> Run:
    """Returns a function that pads each text to the length with which the model was trained.

    SigLIP was trained without an attention mask on texts of one length. The tokens attend to the
    padding, and the pooled vector is the one at the last place. All tokens pass the model's head.

    Args:
        pool_tokens: how real tokens become the pooled vector; None takes the last place.
    """

    def run_padded(module: Any, input_ids: Tensor, mask: Tensor) -> Encoded:
        mask, rows = mask.bool(), input_ids.shape[0]
        pad_id = module.config.pad_token_id or 0
        full = input_ids.new_full((rows, module.config.max_position_embeddings), pad_id)
        # Indices instead of sizes: a graph is made for texts of any length, and a longer one fails.
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        padded = full.scatter(1, places.expand(rows, -1), torch.where(mask, input_ids, pad_id))
        tokens = module.head(module(input_ids=padded).last_hidden_state)
        last, tokens = tokens[:, -1], tokens.index_select(1, places)
        return Encoded(tokens, mask, last if pool_tokens is None else pool_tokens(tokens, mask))

    return run_padded


def image_pooler_runner(module: Any, pixels: Tensor) -> Encoded:
    """Returns the encoded pictures, pooled by the model's own last layers.

    Args:
        module: a vision model that returns a `pooler_output`.
        pixels: [B, C, H, W].
    """
    output = module(pixel_values=pixels)
    if getattr(output, "pooler_output", None) is None:
        raise ValueError(
            f"pooling must be 'tokens' for {type(module).__name__}, got 'pooler', which it does "
            "not return."
        )
    features, pooled = output.last_hidden_state, output.pooler_output
    return features_to_encoded(features, pooled.shape[-1], pooled.flatten(1))


def _normed(module: Any, tokens: Tensor) -> Tensor:
    """Returns tokens after the last norm that the pooled vector of a vision tower has passed."""
    # BLIP and SigLIP apply this norm to all tokens themselves.
    is_raw = module.config.model_type in _NORM_OF_POOLED
    return module.post_layernorm(tokens) if is_raw else tokens


_NORM_OF_POOLED = frozenset(
    {
        *("altclip_vision_model", "chinese_clip_vision_model", "clip_vision_model"),
        *("clipseg_vision_model", "metaclip_2_vision_model"),
    }
)
"""The vision families that apply their last norm to the class token alone."""


def text_width(module: Any) -> int:
    """Returns the width of a text tower's tokens, before a projection of `add_projection`."""
    config = module.config
    if config.model_type == "altclip_text_model":
        return int(config.project_dim)
    head: nn.Linear | None = getattr(module, "head", None)
    is_siglip = TEXT_POOLING.get(config.model_type) == "last"
    return head.out_features if is_siglip and head is not None else backbone_width(module)
