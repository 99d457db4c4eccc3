"""Tower: one modality's pass through its encoder, walked as far as a strategy asks.

Absent samples are left out: only the rows that are present go through the encoder (in `joint`, up
to the block where the text joins). A learned token or zeros stand in for the others. A compiled or
exported graph, whose shapes may not depend on values, encodes every row and replaces the absent
ones afterwards. The result is the same, but every row is computed.
"""

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from .encoder_base import Encoder
from .graph import is_tracing
from .masking import normalized
from .parts import Parts, pool_each
from .tower_rows import chosen, first_place, rows_of, selected, selected_state
from .types import CachePoint, Encoded, Hidden, Lengths


@final
class Tower:
    """One modality of a batch on its way through an encoder.

    Args:
        encoder: the image or text encoder.
        inputs: what its forward takes; None if no sample has the modality, or if `start` is given.
        present: True where a sample has the modality [B].
        stand_in: the learned token that stands in for an absent sample [D]. None leaves zeros, for
            strategies that leave absent samples out themselves.
        flags: `present` as numbers on the host. None: read from `present`, which waits for the
            device.
        lengths: how many real tokens each text has, 0 where it is absent. None: counted when
            needed.
        start: a cached state of all rows of the batch. The walk begins there, not at the inputs.
        start_at: where `start` was taken.
        normalize: whether the output of the encoder is normalised (`normalized`). A `start` from
            after the pooling is normalised already.
        parts: which pictures or windows the present samples have, where `inputs` or `start` have an
            axis of them behind that of the batch.

    Attributes:
        pooled: the pooled vectors of the whole batch [B, D]; None before the tower is encoded. A
            strategy that pools by itself sets it.
    """

    def __init__(
        self,
        encoder: Encoder,
        inputs: tuple[Tensor, ...] | None,
        present: Bool[Tensor, " B"],
        stand_in: Float[Tensor, " D"] | None,
        *,
        flags: Sequence[bool] | None = None,
        lengths: Lengths = None,
        start: Hidden | None = None,
        start_at: CachePoint | None = None,
        normalize: bool = False,
        parts: Parts | None = None,
    ):
        if flags is None and not is_tracing():
            flags = present.tolist()
        self.encoder = encoder
        self.present = present
        self.stand_in = stand_in
        self.batch = present.shape[0]
        self.rows = None if flags is None else rows_of(present, flags)
        nobody = flags is not None and not any(flags)
        self.is_empty = (inputs is None and start is None) or nobody
        self.pooled: Tensor | None = None
        self._normalize = normalize
        self._flags = flags
        self._parts = parts
        self._start_at = CachePoint(0) if start_at is None else start_at
        self._block = self._start_at.block
        # Those of what is encoded: of each present sample, or of each of its windows.
        self._lengths = self._of_present(lengths) if parts is None else parts.lengths
        has_mask = inputs is not None and len(inputs) > 1
        self._is_masked = has_mask or (start is not None and start.mask is not None)
        self._inputs = (
            None
            if inputs is None or self.is_empty
            else selected(inputs, self.present, self.rows, self._parts)
        )
        self._hidden = (
            None
            if start is None or self.is_empty
            else selected_state(start._replace(lengths=self._lengths), self.rows, self._parts)
        )

    def encode(self) -> Encoded:
        """Returns the encoded modality for the whole batch, stand-ins included.

        Shape: tokens [B, N, D]; in an absent row every place holds the stand-in, and the mask marks
        only the first.
        """
        if self.is_empty:
            return self._all_absent()
        if self._hidden is None:
            assert self._inputs is not None
            return self._output(self._run(self.encoder))
        return self.finish()

    def advance(self, block: int) -> None:
        """Walks until block `block` is the next one.

        Args:
            block: from 0 to the number of blocks.
        """
        if self.is_empty:
            return
        if self._hidden is None:
            self._hidden = self._run(self.encoder.embed)
        if block > self._block:
            self._hidden = self.encoder.walk(self._block, block, self._hidden)
            self._block = block

    def finish(self) -> Encoded:
        """Walks to the end, pools, and returns what `encode` returns."""
        if self.is_empty:
            return self._all_absent()
        self.advance(self.encoder.num_blocks)
        hidden = self._hidden
        assert hidden is not None
        if self._start_at.pooled:
            assert hidden.mask is not None and hidden.pooled is not None
            encoded = Encoded(hidden.values, hidden.mask, hidden.pooled)
            encoded = self._fill(self._joined(encoded))
            self.pooled = encoded.pooled
            return encoded
        return self._output(self.encoder.pool(hidden))

    def tokens(self) -> Encoded:
        """Returns the sequence that enters the next block, for the whole batch, stand-ins included.

        `pooled` is the first token.

        Shape: tokens [B, N, D].
        """
        if self.is_empty:
            return self._all_absent()
        assert self._hidden is not None and self._hidden.values.ndim == 3
        values, mask = self._hidden.values, self._hidden.mask
        if mask is None:
            mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        return self._fill(self._joined(Encoded(values, mask, values[:, 0])))

    def walk_joined(self, joined: Hidden, start: int) -> Hidden:
        """Runs the remaining blocks on a sequence of own and foreign tokens; returns the result.

        Args:
            joined: the state that enters block `start`, for the whole batch.
            start: the first block to run; `num_blocks` runs none.
        """
        return self.encoder.walk(start, self.encoder.num_blocks, joined)

    def pool_joined(self, joined: Hidden) -> Tensor:
        """Returns the pooled vectors of this tower's own tokens in a walked sequence [B, D].

        Args:
            joined: what `walk_joined` returned, cut to the places of the tower's own tokens.
        """
        if self._parts is None:
            # No mask is passed: all tokens of an absent image are equal, so their mean equals each
            # of them.
            return self.encoder.pool(joined._replace(mask=None)).pooled
        # Where the whole batch lacks the modality, stand-ins have the places of one part.
        most = 1 if self.is_empty else self._parts.most
        return pool_each(joined, most, self.encoder.pool)

    def norm_joined(self, joined: Hidden) -> Tensor:
        """Returns the tokens of a walked sequence after the tower's last norm [B, N, D].

        Args:
            joined: what `walk_joined` returned.
        """
        return self.encoder.pool(joined).tokens

    @property
    def packs_joined(self) -> bool:
        """Whether `walk_joined` leaves the padding of a joined sequence out by itself."""
        return self.encoder.can_pack

    @property
    def keeps_whole(self) -> bool:
        """Whether a batch must pass the blocks as a whole (see `Encoder.whole_batches`)."""
        return self.encoder.whole_batches

    def lengths_of(self, encoded: Encoded) -> Lengths:
        """Returns how many real tokens each row of this tower's output has, where the host knows.

        Args:
            encoded: what `encode`, `finish` or `tokens` returned.
        """
        if self._flags is None:
            return None
        if self.is_empty:
            return [1] * self.batch
        if not self.encoder.adapter.keeps_mask:
            return None
        real: list[int] | None
        if self._parts is not None:
            counts, real = self._parts.counts, self._parts.sample_lengths
            if real is None and self._parts.weights is None and counts is not None:
                places = encoded.tokens.shape[1] // self._parts.most
                real = [count * places for count in counts]
        elif self._lengths is None:
            real = None if self._is_masked else [encoded.tokens.shape[1]] * sum(self._flags)
        else:
            real = list(self._lengths)
        if real is None:
            return None
        following = iter(real)
        # A stand-in is one real token.
        return [next(following) if flag else 1 for flag in self._flags]

    def squeeze(self, stand_in: Float[Tensor, " D"]) -> Float[Tensor, "B D"]:
        """Returns the mean of the state that enters the next block, one vector per sample.

        Args:
            stand_in: the vector where the modality is absent [D].
        """
        if self.is_empty:
            return stand_in.expand(self.batch, -1)
        assert self._hidden is not None
        values, mask = self._hidden.values, self._hidden.mask
        if values.ndim == 4:
            mean = values.mean((2, 3))
        elif mask is None:
            mean = values.mean(1)
        else:
            kept = torch.where(mask.unsqueeze(-1), values, values.new_zeros(()))
            mean = kept.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        mean = mean if self._parts is None else self._parts.mean(mean)
        return self._spread(mean, stand_in)

    def attend(self, foreign: Float[Tensor, "B M D"]) -> Float[Tensor, "B M D"]:
        """Runs the next block with foreign tokens in this tower's sequence.

        Needs an encoder with `takes_tokens`.

        Args:
            foreign: tokens of each sample, as wide as the sequence.

        Returns:
            how the block changed the foreign tokens; zeros where the modality is absent.
        """
        change = self.meet(foreign, self._attend_jointly)
        self._block += 1
        return change

    def _attend_jointly(
        self, hidden: Hidden, foreign: Float[Tensor, "R M D"]
    ) -> tuple[Hidden, Float[Tensor, "R M D"]]:
        """Returns the state behind the next block, and how the block changed foreign tokens."""
        places, mask, lengths = foreign.shape[1], hidden.mask, hidden.lengths
        # Behind the own tokens and their padding, as in `joint`. The mask tells them apart.
        joined = Hidden(
            torch.cat([hidden.values, foreign], dim=1),
            None if mask is None else F.pad(mask, (0, places), value=True),
            lengths=None if lengths is None else [length + places for length in lengths],
        )
        values = self.encoder.walk(self._block, self._block + 1, joined).values
        return hidden._replace(values=values[:, :-places]), values[:, -places:] - foreign

    def meet(
        self,
        foreign: Float[Tensor, "B M E"],
        act: Callable[[Hidden, Tensor], tuple[Hidden, Tensor]],
    ) -> Float[Tensor, "B M E"]:
        """Lets foreign tokens change the state that enters the next block, and be changed by it.

        Args:
            foreign: tokens of each sample.
            act: takes the state and the foreign tokens of its rows. It returns the new state, and
                the change of the foreign tokens. Of several pictures or windows, each meets the
                tokens of its sample.

        Returns:
            the change of the foreign tokens, the mean over the parts of a sample; zeros where the
            modality is absent.
        """
        if self.is_empty:
            return torch.zeros_like(foreign)
        values = self._entering.values
        foreign = foreign if self.rows is None else foreign[self.rows]
        flat = rearrange(foreign.to(values.dtype), "p m e -> p (m e)")
        flat = flat if self._parts is None else self._parts.spread(flat)
        here = rearrange(flat, "r (m e) -> r m e", m=foreign.shape[1])
        self._hidden, change = act(self._entering, here)
        flat = rearrange(change, "r m e -> r (m e)")
        flat = flat if self._parts is None else self._parts.mean(flat)
        return self._spread(rearrange(flat, "p (m e) -> p m e", m=foreign.shape[1]), None)

    def scale(self, factor: Float[Tensor, "B D"]) -> None:
        """Multiplies the state that enters the next block, channel by channel.

        Args:
            factor: one per sample and channel [B, D].
        """
        if not self.is_empty:
            hidden = self._entering
            self._hidden = hidden._replace(values=hidden.values * self._at_each_place(factor))

    def shift(self, summand: Float[Tensor, "B D"]) -> None:
        """Adds to the state that enters the next block, channel by channel.

        Args:
            summand: one per sample and channel [B, D].
        """
        if not self.is_empty:
            hidden = self._entering
            self._hidden = hidden._replace(values=hidden.values + self._at_each_place(summand))

    @property
    def _entering(self) -> Hidden:
        """The state that enters the next block."""
        assert self._hidden is not None
        return self._hidden

    def _at_each_place(self, of_each: Float[Tensor, "B D"]) -> Tensor:
        """Returns a vector per sample in the shape of the state, for all places of the sample."""
        of_each = of_each if self.rows is None else of_each[self.rows]
        of_each = of_each if self._parts is None else self._parts.spread(of_each)
        values = self._entering.values
        shaped = of_each[:, :, None, None] if values.ndim == 4 else of_each[:, None, :]
        return shaped.to(values.dtype)

    def _output(self, encoded: Encoded) -> Encoded:
        """Returns what the tower hands on: normalised, for the whole batch."""
        filled = self._fill(self._joined(normalized(encoded) if self._normalize else encoded))
        self.pooled = filled.pooled
        return filled

    def _joined(self, encoded: Encoded) -> Encoded:
        """Returns the present samples, the tokens of their parts side by side."""
        return encoded if self._parts is None else self._parts.join(encoded)

    def _run(self, encode: Callable[..., Any]) -> Any:
        """Calls `encode` on the inputs, with the lengths if they are known."""
        assert self._inputs is not None
        if self._lengths is None:
            return encode(*self._inputs)
        return encode(*self._inputs, lengths=self._lengths)

    def _of_present(self, lengths: Lengths) -> Lengths:
        """Returns the lengths of the rows that are present."""
        if lengths is None or self._flags is None:
            return None
        return [length for length, flag in zip(lengths, self._flags, strict=True) if flag]

    def _spread(self, values: Tensor, stand_in: Tensor | None) -> Tensor:
        """Returns `values` of the present rows at their places, `stand_in` at the others."""
        if self.rows is None and not is_tracing():
            return values
        absent = values.new_zeros(values.shape[-1]) if stand_in is None else stand_in
        absent = absent.to(values.dtype)
        if self.rows is None:
            present = self.present.view(-1, *[1] * (values.ndim - 1))
            return torch.where(present, values, absent)
        spread = absent.expand(self.batch, *values.shape[1:])
        return spread.index_put((self.rows,), values)

    def _fill(self, encoded: Encoded) -> Encoded:
        """Returns the whole batch: encoded rows, and stand-ins in the absent rows."""
        if self.rows is None and not is_tracing():
            return encoded
        mask = encoded.mask
        first = first_place(mask.shape[1], mask.device)
        if self.rows is None:
            mask = chosen(self.present[:, None], mask, first)
        else:
            mask = first.expand(self.batch, -1).index_put((self.rows,), mask)
        tokens = self._spread(encoded.tokens, self.stand_in)
        return Encoded(tokens, mask, self._spread(encoded.pooled, self.stand_in))

    def _all_absent(self) -> Encoded:
        # One place more than prefix tokens: a pooling that leaves the prefix out still finds a
        # token.
        places = self.encoder.num_prefix + 1
        vector = self.stand_in
        if vector is None:
            vector = self.encoder.any_weight.new_zeros(self.encoder.dim)
        mask = first_place(places, vector.device).expand(self.batch, -1)
        self.pooled = vector.expand(self.batch, -1)
        return Encoded(vector.expand(self.batch, places, -1), mask, self.pooled)
