"""Samples of several parts: the pictures of one study, or the windows of one long text.

Each part passes the encoder by itself. Behind the encoder, the tokens of a sample's parts stand
side by side under one mask, so that mappers and strategies need to know nothing of parts. Absent
parts are not encoded.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import final

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from .types import Encoded, Hidden, on_device

Pool = Callable[[Hidden], Encoded]
"""What an encoder makes of the state that leaves its last block."""

Flags = Sequence[Sequence[bool]]
"""Per sample, one flag per part, on the host."""


@final
class Parts:
    """Which parts the present samples of a batch have, and how parts become samples.

    The letters: B samples, P of them present, V places for parts, R parts that are encoded, K the
    most parts of a sample. In a graph, which cannot look at flags, P is B, R is B V and K is V.

    Args:
        present: True where a sample has the part [B, V]. Nothing is true of an absent sample.
        flags: `present` on the host; None in a graph.
        embedding: a vector for each place, added to the tokens and the pooled vectors of the part
            there [V or more, D]; None adds nothing.
        weights: how many real tokens each part has, if the parts are windows of a text [B, V]. The
            pooled vector of a sample is the mean over its parts. That of windows is weighted by
            their lengths, so that a mean over tokens stays one.
        lengths: `weights` on the host, where it is known.
    """

    def __init__(
        self,
        present: Bool[Tensor, "B V"],
        flags: Flags | None,
        *,
        embedding: Float[Tensor, "V D"] | None = None,
        weights: Int[Tensor, "B V"] | None = None,
        lengths: Sequence[Sequence[int]] | None = None,
    ):
        self.present = present
        self.embedding = embedding
        self.weights = weights
        self._flags = flags
        self._lengths = lengths
        places = [[place for place, flag in enumerate(row) if flag] for row in flags or ()]
        # Per present sample, the places of its parts.
        self._chosen = [row for row in places if row]
        # Not cached properties: torch.compile cannot trace their lock.
        self._rows = self._encoded_rows()
        self._table = self._rows_by_sample()

    @property
    def counts(self) -> list[int] | None:
        """How many parts each present sample has; None in a graph."""
        return None if self._flags is None else [len(row) for row in self._chosen]

    @property
    def most(self) -> int:
        """K, how many parts stand side by side in each sample behind `join`."""
        return self._table[0].shape[1]

    @property
    def lengths(self) -> list[int] | None:
        """How many real tokens each encoded part has [R], where the host knows."""
        if self._flags is None or self._lengths is None:
            return None
        pairs = zip(self._flags, self._lengths, strict=True)
        return [n for flags, row in pairs for flag, n in zip(flags, row, strict=True) if flag]

    @property
    def sample_lengths(self) -> list[int] | None:
        """How many real tokens each present sample has in all its parts, where the host knows."""
        lengths, counts = self.lengths, self.counts
        if lengths is None or counts is None:
            return None
        ends = list(accumulate(counts))
        return [sum(lengths[end - n : end]) for end, n in zip(ends, counts, strict=True)]

    def select(self, values: Shaped[Tensor, "B V ..."]) -> Shaped[Tensor, "R ..."]:
        """Returns the parts that are encoded, one behind the other.

        Args:
            values: [B, V, ...].
        """
        flat = values.flatten(0, 1)
        return flat if self._rows is None else flat[self._rows]

    def _encoded_rows(self) -> Tensor | None:
        """Returns the encoded parts among all places [R]; None where all are encoded."""
        if self._flags is None or all(all(row) for row in self._flags):
            return None
        size = sum(len(row) for row in self._chosen)
        # With `size` given, nonzero_static does not wait for the device to count.
        return torch.nonzero_static(self.present.flatten(), size=size).squeeze(1)

    def _rows_by_sample(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the parts of each sample, those that are there first.

        Their rows among the encoded ones, whether there is such a part, and its place: [P, K] each.
        """
        device = self.present.device
        if self._flags is None:
            samples, places = self.present.shape
            every = torch.arange(samples * places, device=device)
            own = torch.arange(places, device=device).expand(samples, -1)
            return rearrange(every, "(b v) -> b v", v=places), self.present, own
        most = max(map(len, self._chosen), default=1)
        starts = accumulate(map(len, self._chosen), initial=0)
        rows: list[list[int]] = []
        there: list[list[bool]] = []
        place: list[list[int]] = []
        for start, chosen in zip(starts, self._chosen, strict=False):
            left = most - len(chosen)
            # A part that is not there repeats the first one, and is masked.
            rows.append([*range(start, start + len(chosen)), *[start] * left])
            there.append([True] * len(chosen) + [False] * left)
            place.append(chosen + [chosen[0]] * left)
        return (
            on_device(rows, device),
            on_device(there, device, torch.bool),
            on_device(place, device),
        )

    def join(self, encoded: Encoded) -> Encoded:
        """Returns the encoded samples: tokens side by side, pooled vectors averaged.

        Args:
            encoded: of the encoded parts: tokens [R, N, D], mask [R, N], pooled [R, D].

        Shape:
            tokens [P, K N, D], mask [P, K N], pooled [P, D]. Windows of a text have their real
            tokens first, without the places that no sample needs.
        """
        rows, there, place = self._table
        tokens, mask, pooled = encoded.tokens[rows], encoded.mask[rows], encoded.pooled[rows]
        mask = mask & there.unsqueeze(-1)
        if self.embedding is not None:
            added = self.embedding[place].to(tokens.dtype)
            tokens, pooled = tokens + added.unsqueeze(2), pooled + added
        weights = there if self.weights is None else mask.sum(-1)
        joined = Encoded(
            rearrange(tokens, "p k n d -> p (k n) d"),
            rearrange(mask, "p k n -> p (k n)"),
            _mean(pooled, there, weights),
        )
        if self.weights is None:
            return joined
        return _real_tokens_first(joined, self.sample_lengths)

    def mean(self, vectors: Float[Tensor, "R D"]) -> Float[Tensor, "P D"]:
        """Returns the mean of a vector over the parts of each sample.

        Args:
            vectors: of the encoded parts [R, D].
        """
        rows, there, _ = self._table
        weights = there if self.weights is None else self.select(self.weights)[rows] * there
        return _mean(vectors[rows], there, weights)

    def spread(self, vectors: Shaped[Tensor, "P D"]) -> Shaped[Tensor, "R D"]:
        """Returns the vector of its sample for each encoded part.

        Args:
            vectors: of the present samples [P, D].
        """
        if self._flags is None:
            # ONNX repeats by a fixed number. The number of windows is free.
            places = self.present.shape[1]
            return vectors.unsqueeze(1).expand(-1, places, -1).flatten(0, 1)
        owners = [sample for sample, row in enumerate(self._chosen) for _ in row]
        return vectors[on_device(owners, vectors.device)]


def pool_each(hidden: Hidden, parts: int, pool: Pool) -> Float[Tensor, "B D"]:
    """Returns the mean of the pooled vectors of each sample's parts.

    Args:
        hidden: tokens of parts side by side [B, K N, D], with the mask of the real ones.
        parts: K.
        pool: of the encoder.
    """
    mask = hidden.mask
    assert mask is not None
    # Without a mask: an image's tokens are all real, or all equal where a stand-in is there.
    encoded = pool(Hidden(rearrange(hidden.values, "b (k n) d -> (b k) n d", k=parts)))
    there = rearrange(mask, "b (k n) -> b k n", k=parts).any(-1)
    return _mean(rearrange(encoded.pooled, "(b k) d -> b k d", k=parts), there, there)


def _mean(vectors: Tensor, there: Tensor, weights: Tensor) -> Tensor:
    """Returns the weighted mean over the parts [P, D] of vectors [P, K, D]."""
    # In float32, because half precision does not hold every number of tokens.
    share = weights.float()
    share = (share / share.sum(1, keepdim=True).clamp(min=1)).to(vectors.dtype)
    kept = torch.where(there.unsqueeze(-1), vectors, vectors.new_zeros(()))
    return (kept * share.unsqueeze(-1)).sum(1)


def _real_tokens_first(encoded: Encoded, lengths: Sequence[int] | None) -> Encoded:
    """Returns encoded texts with their real tokens first, as the code behind expects them."""
    mask = encoded.mask
    counts = mask.sum(1, keepdim=True)
    # Each token's new place is counted instead of found by sorting, because ONNX has no stable
    # sort.
    places = torch.where(mask, mask.long().cumsum(1), counts + (~mask).long().cumsum(1)) - 1
    index = places.unsqueeze(-1).expand_as(encoded.tokens)
    moved = torch.zeros_like(encoded.tokens).scatter(1, index, encoded.tokens)
    first = torch.arange(mask.shape[1], device=mask.device) < counts
    if lengths is not None:
        longest = max(lengths, default=1)
        moved, first = moved[:, :longest], first[:, :longest]
    return Encoded(moved, first, encoded.pooled)
