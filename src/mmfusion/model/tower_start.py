"""How a tower starts: from a batch's inputs, or from what a cache stored of them."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .encoder_base import Encoder
from .missing import BatchInputs
from .modalities import MODALITIES
from .parts import Parts
from .tower import Tower
from .types import CachePoint, Hidden


def tower_of(model: Any, name: str, batch: BatchInputs) -> Tower | None:
    """Returns the tower of one modality of a classifier; None without such an encoder.

    Args:
        model: a `FusionClassifier`.
        name: "image" or "text".
        batch: the completed batch.
    """
    encoder: Encoder | None = getattr(model, f"{name}_encoder")
    if encoder is None:
        return None
    return start_tower(
        encoder,
        name,
        batch,
        getattr(model, f"absent_{name}", None),
        model.cache_point(name),
        normalize=model.config.normalize_embeddings,
        view_embedding=getattr(model, "view_embedding", None) if name == "image" else None,
    )


def start_tower(
    encoder: Encoder,
    name: str,
    batch: BatchInputs,
    stand_in: Float[Tensor, " D"] | None,
    cache_point: CachePoint,
    *,
    normalize: bool = False,
    view_embedding: Float[Tensor, "V D"] | None = None,
) -> Tower:
    """Returns the tower of one modality, which starts from inputs or from what a cache stored.

    Args:
        encoder: of the modality.
        name: "image" or "text".
        batch: the completed batch.
        stand_in: as for `Tower`.
        cache_point: the block that a stored state enters, if the state has no pooled vectors.
        normalize: as for `Tower`.
        view_embedding: what is added to the pictures of a study by their place, or None.
    """
    modality, tensors, facts = MODALITIES[name], batch.tensors, batch.facts
    present = batch.present[name]
    flags = None if facts is None else facts.present.get(name, (False,) * len(present))
    lengths = None if facts is None or modality.mask is None else facts.text_lengths
    mask = None if modality.mask is None else tensors.get(modality.mask)
    mask = None if mask is None else mask.bool()
    parts = _parts_of(name, batch, flags, mask, view_embedding)
    if modality.state in tensors:
        dtype = encoder.any_weight.dtype
        state, pooled = tensors[modality.state].to(dtype), tensors.get(modality.pooled)
        if pooled is not None:
            cache_point, pooled = CachePoint(encoder.num_blocks, pooled=True), pooled.to(dtype)
            if mask is None:
                mask = torch.ones(state.shape[:-1], dtype=torch.bool, device=state.device)
                lengths = None if flags is None else (state.shape[1],) * len(flags)
        start = Hidden(state, mask, pooled)
        return Tower(
            encoder,
            None,
            present,
            stand_in,
            flags=flags,
            lengths=lengths,
            start=start,
            start_at=cache_point,
            normalize=normalize,
            parts=parts,
        )
    inputs: tuple[Tensor, ...] | None = None
    if modality.values in tensors:
        values = tensors[modality.values]
        inputs = (values,) if mask is None else (values, mask)
    return Tower(
        encoder,
        inputs,
        present,
        stand_in,
        flags=flags,
        lengths=lengths,
        normalize=normalize,
        parts=parts,
    )


def _parts_of(
    name: str,
    batch: BatchInputs,
    flags: Sequence[bool] | None,
    mask: Tensor | None,
    view_embedding: Tensor | None,
) -> Parts | None:
    """Returns the pictures or windows of the samples that have a modality; None without an axis."""
    there = batch.parts.get(name)
    if there is None:
        return None
    # Modality dropout takes all parts of a sample.
    there = there & batch.present[name].unsqueeze(1)
    of_parts, lengths = None, None
    if flags is not None and batch.facts is not None:
        known = zip(batch.facts.parts[name], flags, strict=True)
        of_parts = [[part and flag for part in row] for row, flag in known]
        lengths = batch.facts.window_lengths if name == "text" else None
    weights = None if mask is None else mask.sum(-1) * there
    return Parts(there, of_parts, embedding=view_embedding, weights=weights, lengths=lengths)
