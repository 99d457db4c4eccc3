"""Padding-free batches: the tokens of several sequences in one row, and batches cut by length.

Linear layers and normalisations act on tokens one by one. They need no padding: when the sequences
of a batch lie one after the other in a single row, only real tokens are computed. Attention must
know where a sequence ends. `packed_attention` reads this from a `Packing`.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from .graph import is_exporting, is_tracing, runs_in_several_processes
from .types import Lengths, on_device

WORTH_PACKING = 0.9
""""auto" packs a batch in which less than this share of the places holds a token.

Groups by length are made under the same condition.
"""

GROUPS, SMALLEST_GROUP = 4, 4
"""`GROUPS`: the most groups per batch. `SMALLEST_GROUP`: the fewest samples of a group."""


@final
class Packing:
    """How the sequences of a padded batch lie in one row, one after the other, without padding.

    Args:
        mask: True where a token is real [B, L].
        lengths: how many real tokens each sequence has; None: counted here, which waits for the
            device (in a graph they stay unknown).
        places: how long the row is, where that is not the number of real tokens: at least as long.
            A graph can then have rows of a few fixed lengths. What stands behind the last token
            means nothing.

    Attributes:
        mask: as it was given.
        is_longer: whether places were given.
        positions: the place of each token in its row of the batch [1, T], T tokens in all.
        row_mask: the attention mask for the row: a single True, because nothing is masked.

    Example:
        >>> packing = Packing(torch.tensor([[True, True, False], [True, True, True]]))
        >>> row = packing.pack(torch.tensor([[5, 6, 0], [7, 8, 9]]))
        >>> row.tolist(), packing.positions.tolist()
        ([[5, 6, 7, 8, 9]], [[0, 1, 0, 1, 2]])
        >>> packing.unpack(row.unsqueeze(-1)).squeeze(-1).tolist()
        [[5, 6, 0], [7, 8, 9]]
    """

    def __init__(
        self, mask: Bool[Tensor, "B L"], lengths: Lengths = None, *, places: int | None = None
    ):
        self.batch, self.width = mask.shape
        self.mask = mask
        self.is_longer = places is not None
        if lengths is None and not is_tracing():
            lengths = row_lengths(mask)
        self._lengths = lengths
        self._ends: Tensor | None = None
        if places is not None:
            rows, columns = torch.nonzero_static(mask, size=places, fill_value=-1).unbind(1)
            # The places behind the last token get the number behind the padded batch.
            rows = torch.where(rows < 0, self.batch, rows)
            columns = columns.clamp(min=0)
        elif lengths is None:
            rows, columns = mask.nonzero().unbind(1)
        else:
            # With `size` given, nonzero_static does not wait for the device to count.
            rows, columns = torch.nonzero_static(mask, size=sum(lengths)).unbind(1)
        self._places = rows * self.width + columns
        self.positions: Int[Tensor, "1 T"] = columns.unsqueeze(0)
        # transformers hands on a mask of four axes as it is, for every model and layer.
        self.row_mask = mask.new_ones(1, 1, 1, 1)

    @property
    def lengths(self) -> list[int]:
        """How many tokens each sequence has; B integers."""
        assert self._lengths is not None, "a graph does not know lengths"
        return list(self._lengths)

    @property
    def share(self) -> float:
        """The share of the padded batch's places that hold a token; 1 of an empty batch."""
        places = self.batch * self.width
        return sum(self.lengths) / places if places else 1.0

    @property
    def cu_seqlens(self) -> Int[Tensor, " N"]:
        """Where each sequence begins in the row, and where the last one ends: int32 [B + 1]."""
        # Kept here: in Python 3.11, cached_property has a lock, which a graph cannot hold.
        if self._ends is None:
            if self._lengths is None:
                ends = F.pad(self.mask.sum(1).cumsum(0), (1, 0))
            else:
                starts = list(accumulate(self._lengths, initial=0))
                ends = on_device(starts, self._places.device)
            self._ends = ends.to(torch.int32)
        return self._ends

    def pack(self, values: Shaped[Tensor, "B L ..."]) -> Shaped[Tensor, "1 T ..."]:
        """Returns the real tokens of a padded batch, in one row.

        Args:
            values: [B, L, ...].
        """
        places = self._places.to(values.device)
        if self.is_longer:
            places = places.clamp(max=self.batch * self.width - 1)
        return values.flatten(0, 1).index_select(0, places).unsqueeze(0)

    def unpack(self, row: Shaped[Tensor, "1 T ..."]) -> Shaped[Tensor, "B L ..."]:
        """Returns the padded batch again, zero where there is no token.

        Args:
            row: [1, T, ...].
        """
        size = self.batch * self.width
        # One place more, for what stands behind the last token. (A symbol of a graph plus a truth
        # value is an error in torch 2.11.)
        padded = row.new_zeros(size + int(self.is_longer), *row.shape[2:])
        padded = padded.index_copy_(0, self._places.to(row.device), row[0])
        return padded[:size].unflatten(0, (self.batch, self.width))


def row_lengths(mask: Bool[Tensor, "B L"]) -> tuple[int, ...]:
    """Returns how many real tokens each row has, as numbers on the host; it waits for the device.

    Args:
        mask: True where a token is real [B, L].
    """
    return tuple(mask.sum(1).tolist())


def packing_of(
    mask: Bool[Tensor, "B L"],
    *,
    lengths: Lengths = None,
    always: bool,
    in_graphs: bool = False,
    left_out: int | None = None,
) -> Packing | None:
    """Returns how to pack a batch; None where it is faster padded.

    A graph cannot look at lengths. An exported graph, which takes any number of tokens, is always
    packed. A compiled graph is packed only with `in_graphs` and at least two sequences.

    Args:
        mask: True where a token is real [B, L], at least one per row.
        lengths: how many real tokens each row has; None: counted here, which waits for the device.
        always: pack even where less than a tenth is padding.
        in_graphs: pack in a compiled graph.
        left_out: how many places of the padding a compiled graph leaves out, of at least as many;
            None: all, where torch may compile shapes that depend on values.
    """
    if is_exporting():
        return Packing(mask)
    if is_tracing():
        if not in_graphs or mask.shape[0] == 1:
            return None
        if left_out is None:
            return _packing_in_a_graph(mask)
        return Packing(mask, places=mask.shape[0] * mask.shape[1] - left_out)
    lengths = row_lengths(mask) if lengths is None else lengths
    places = mask.shape[0] * mask.shape[1]
    share = sum(lengths) / places if places else 1.0
    return Packing(mask, lengths) if always or 0 < share < WORTH_PACKING else None


def _packing_in_a_graph(mask: Tensor) -> Packing:
    packing = Packing(mask)
    # Rule out a row of one token: its memory layout is ambiguous for the compiler.
    torch._check(packing.positions.shape[1] >= mask.shape[0])
    return packing


def token_by_token(
    run: Callable[[Tensor], Tensor],
    tokens: Float[Tensor, "B L D"],
    mask: Bool[Tensor, "B L"],
    lengths: Lengths = None,
) -> Float[Tensor, "B L E"]:
    """Returns what `run` makes of each token, computed for real tokens alone where that is faster.

    Values in the padding have no meaning.

    Args:
        run: a function of tokens one by one: [..., D] -> [..., E].
        tokens: [B, L, D].
        mask: True where a token is real [B, L].
        lengths: how many real tokens each row has; None: counted here, which waits for the device.

    Example:
        >>> tokens, mask = torch.ones(1, 4, 1), torch.tensor([[True, True, False, False]])
        >>> token_by_token(lambda real: real * len(real[0]), tokens, mask).flatten().tolist()
        [2.0, 2.0, 0.0, 0.0]
    """
    # With one place per row (a text's mean) there is no padding to leave out.
    if is_tracing() or mask.shape[1] == 1:
        return run(tokens)
    packing = packing_of(mask, lengths=lengths, always=False)
    return run(tokens) if packing is None else packing.unpack(run(packing.pack(tokens)))


def groups_by_length(
    mask: Bool[Tensor, "B L"], ends: Lengths = None, *, whole: bool = False
) -> list[tuple[Any, int]]:
    """Returns groups of samples that are about equally long, and the places each group needs.

    Image and text tokens in one sequence run through layers that need padding. Group by group, such
    a batch loses most of its padding.

    Args:
        mask: True where a token is real [B, L].
        ends: the place behind the last real token of each row; None: read from `mask`, which waits
            for the device.
        whole: keep the batch in one group.

    Returns:
        Per group: the row indices, and the number of places to keep (at most L).
        There is one group with every row where groups are no faster, while a graph is traced, and
        where several processes run.

    Example:
        >>> mask = torch.arange(6) < torch.tensor([1, 6, 1, 1, 6, 6, 1, 6]).unsqueeze(1)
        >>> [(rows.tolist(), places) for rows, places in groups_by_length(mask)]
        [([1, 4, 5, 7], 6), ([0, 2, 3, 6], 1)]
    """
    batch, width = mask.shape
    if whole or is_tracing() or runs_in_several_processes() or batch < 2 * SMALLEST_GROUP:
        return one_group(mask)
    if ends is None:
        ends = (mask * torch.arange(1, width + 1, device=mask.device)).amax(1).tolist()
    order = longest_first(ends)
    groups = on_device(order, mask.device).tensor_split(min(GROUPS, batch // SMALLEST_GROUP))
    # The first row of a group is its longest.
    firsts = accumulate((len(rows) for rows in groups[:-1]), initial=0)
    places = [max(1, ends[order[first]]) for first in firsts]
    needed = sum(len(rows) * length for rows, length in zip(groups, places, strict=True))
    if needed >= WORTH_PACKING * batch * width:
        return one_group(mask)
    return list(zip(groups, places, strict=True))


def longest_first(ends: Sequence[int]) -> list[int]:
    """Returns the rows of a batch from the longest to the shortest, equal ones in their order.

    Args:
        ends: the place behind the last real token of each row.
    """
    return sorted(range(len(ends)), key=lambda row: -ends[row])


def one_group(mask: Bool[Tensor, "B L"]) -> list[tuple[Any, int]]:
    """Returns the whole batch as the only group, as `groups_by_length` returns groups.

    Args:
        mask: True where a token is real [B, L].
    """
    return [(slice(None), mask.shape[1])]


def ungrouped(groups: list[tuple[Any, int]], values: list[Tensor]) -> Tensor:
    """Returns the groups' results in the order of the batch.

    Args:
        groups: from `groups_by_length`.
        values: one tensor per group, a row per sample.
    """
    if len(groups) == 1:
        return values[0]
    return torch.cat(values)[torch.cat([rows for rows, _ in groups]).argsort()]


def attends_one_by_one(device: torch.device) -> bool:
    """Returns whether one attention call per sample is faster: on a CPU, outside a graph.

    Args:
        device: where the batch is.
    """
    return device.type == "cpu" and not is_tracing()
