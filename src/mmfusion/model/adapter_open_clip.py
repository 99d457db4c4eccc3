"""Towers of open_clip: pooled and projected as `encode_image` and `encode_text` do it."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, final

import torch
from einops import rearrange
from torch import Tensor, nn

from .adapter_base import Adapter, OneBlock, features_to_encoded
from .types import Encoded


@final
class OpenClipTower(nn.Module):
    """One tower of an open_clip model, with or without its projection.

    Args:
        tower: open_clip's VisionTransformer, TimmModel, TextTransformer or HFTextEncoder.
        dim: width of its pooled vector.
        projects: whether pooled vector and tokens pass the projection into the shared space.
        pad_id: token id with which texts are padded.
        context_length: the most tokens of a text; None for a tower of pictures.

    Attributes:
        kind: "vit", "timm", "text" or "hf".
        config: what a `TextEncoder` asks a backbone for.

    Source: Ilharco et al. 2021, OpenCLIP (doi 10.5281/zenodo.5143773).
    """

    def __init__(
        self, tower: Any, dim: int, projects: bool, pad_id: int, context_length: int | None
    ):
        super().__init__()
        self.tower = tower
        self.dim = dim
        self.kind = _KINDS[type(tower).__name__]
        if not projects:
            _drop_projection(tower, self.kind)
        if self.kind in ("vit", "text"):
            # Otherwise its forward gives the pooled vector alone.
            tower.output_tokens = True
        size = getattr(tower, "vocab_size", None)
        self.config = SimpleNamespace(
            model_type="open_clip",
            vocab_size=size,
            pad_token_id=pad_id,
            max_position_embeddings=context_length,
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Sets whether activations are recomputed in the backward pass.

        Args:
            enable: True recomputes them.
        """
        self.tower.set_grad_checkpointing(enable)


_KINDS = {
    "VisionTransformer": "vit",
    "TimmModel": "timm",
    "TextTransformer": "text",
    "HFTextEncoder": "hf",
}


def open_clip_adapter(module: Any) -> Adapter:
    """Returns the adapter of a tower: one block, because open_clip's blocks are not walked.

    Args:
        module: an `OpenClipTower`.
    """
    runs: dict[str, Callable[..., Encoded]] = {
        "vit": _run_vit,
        "timm": _run_timm,
        "text": _run_text,
        "hf": _run_hf,
    }
    return OneBlock(module, module.dim, runs[module.kind])


def _drop_projection(tower: Any, kind: str) -> None:
    """Replaces the projection by nothing, so that the vectors keep the tower's own width."""
    if kind == "vit":
        tower.proj = None
    elif kind == "text":
        tower.text_projection = None
    elif kind == "hf":
        tower.proj = nn.Identity()
    elif len(tower.head):
        tower.head = nn.Sequential()
    else:
        # The classifier of the network is the projection.
        tower.trunk.reset_classifier(0)


def _run_vit(module: Any, pixels: Tensor) -> Encoded:
    """Returns the encoded pictures of open_clip's own vision transformer; tokens are patches."""
    pooled, tokens = module.tower(pixels)
    if module.tower.proj is not None:
        tokens = tokens @ module.tower.proj
    return features_to_encoded(tokens, module.dim, pooled)


def _run_timm(module: Any, pixels: Tensor) -> Encoded:
    """Returns the encoded pictures of a timm network with open_clip's head."""
    trunk, head = module.tower.trunk, module.tower.head
    features = trunk.forward_features(pixels)
    pooled = head(trunk.forward_head(features))
    if features.ndim == 4:
        is_last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
        axes = "b h w d" if is_last else "b d h w"
        features = rearrange(features, f"{axes} -> b (h w) d")
    # The projection is either open_clip's head or the network's classifier. The other is empty.
    tokens = head(features) if len(head) else trunk.get_classifier()(features)
    return features_to_encoded(tokens, module.dim, pooled)


def _run_text(module: Any, input_ids: Tensor, mask: Tensor) -> Encoded:
    """Returns the encoded texts of open_clip's own text transformer."""
    tower, mask = module.tower, mask.bool()
    pad_id = module.config.pad_token_id
    # open_clip takes texts of the trained length alone. Some models attend to the padding.
    # Indices instead of sizes: a graph is made for texts of any length, and a longer one fails.
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    full = input_ids.new_full((input_ids.shape[0], tower.context_length), pad_id)
    ids = full.scatter(
        1, places.expand(input_ids.shape[0], -1), torch.where(mask, input_ids, pad_id)
    )
    pooled, tokens = tower(ids)
    tokens = tokens.index_select(1, places)
    if tower.cls_emb is not None:
        # open_clip normalises the class token alone.
        tokens = tower.ln_final(tokens)
    projection = tower.text_projection
    if projection is not None:
        is_layer = isinstance(projection, nn.Linear)
        tokens = projection(tokens) if is_layer else tokens @ projection
    return Encoded(tokens, mask, pooled)


def _run_hf(module: Any, input_ids: Tensor, mask: Tensor) -> Encoded:
    """Returns the encoded texts of a transformers model with open_clip's pooler and projection."""
    tower, mask = module.tower, mask.bool()
    output = tower.transformer(input_ids=input_ids, attention_mask=mask.long())
    pooled = tower.proj(tower.pooler(output, mask.long()))
    return Encoded(tower.proj(output.last_hidden_state), mask, pooled)
