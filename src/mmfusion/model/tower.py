"""Tower: one modality's pass through its encoder, walked as far as a strategy asks, absent samples left out.

Where a sample lacks the modality nothing is encoded for it: only the rows that are present go
through the encoder, and a learned token stands in for the others. In a compiled or exported graph,
whose shapes may not depend on values, every row is encoded and the absent ones are replaced
afterwards: the same answer, for the compute of a full batch.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .encoder_base import Encoder
from .graph import is_static
from .types import Encoded, Hidden


class Tower:
    """One modality of a batch on its way through an encoder.

    Args:
        encoder: the image or text encoder.
        inputs: what its forward takes; None where the whole batch lacks the modality, or `start` is
            given.
        present: True where a sample has the modality [B].
        stand_in: the learned token that stands in for an absent sample [D]; None leaves zeros, for
            strategies that leave absent samples out themselves.
        start: the state from which to walk instead of from the inputs, for the rows of the whole
            batch (what a cache stored).
        start_block: the block that `start` enters; beyond the last block, `start` is what pool
            returned.
    """

    def __init__(
        self,
        encoder: Encoder,
        inputs: tuple[Tensor, ...] | None,
        present: Bool[Tensor, " B"],
        stand_in: Float[Tensor, " D"] | None,
        *,
        start: Hidden | None = None,
        start_block: int = 0,
    ):
        self.encoder = encoder
        self.present = present
        self.stand_in = stand_in
        self.batch = present.shape[0]
        self.rows = self._rows()
        self.is_empty = (inputs is None and start is None) or (
            self.rows is not None and len(self.rows) == 0
        )
        self._inputs = None if inputs is None or self.is_empty else self._select(inputs)
        self._hidden = None if start is None or self.is_empty else self._select_hidden(start)
        self._block = start_block

    def encode(self) -> Encoded:
        """The encoded modality for the whole batch, stand-ins included.

        Shape: tokens [B, N, D]; an absent row holds the stand-in at every place and one of them is
        real.
        """
        if self.is_empty:
            return self._all_absent()
        if self._hidden is None:
            assert self._inputs is not None
            return self._fill(self.encoder(*self._inputs))
        return self.finish()

    def advance(self, block: int) -> None:
        """Walk until block `block` is the next one."""
        if self.is_empty:
            return
        if self._hidden is None:
            assert self._inputs is not None
            self._hidden = self.encoder.embed(*self._inputs)  # type: ignore[operator]
        if block > self._block:
            self._hidden = self.encoder.walk(self._block, block, self._hidden)
            self._block = block

    def finish(self) -> Encoded:
        """Walk to the end and pool: the encoded modality for the whole batch, stand-ins included."""
        if self.is_empty:
            return self._all_absent()
        self.advance(self.encoder.num_blocks)
        assert self._hidden is not None
        if self._block > self.encoder.num_blocks:
            hidden = self._hidden
            assert hidden.mask is not None and hidden.pooled is not None
            return self._fill(Encoded(hidden.values, hidden.mask, hidden.pooled))
        return self._fill(self.encoder.pool(self._hidden))

    def tokens(self) -> Encoded:
        """The sequence that enters the next block, for the whole batch, stand-ins included; `pooled` is the first token.

        Shape: tokens [B, N, D].
        """
        if self.is_empty:
            return self._all_absent()
        assert self._hidden is not None and self._hidden.values.ndim == 3
        values, mask = self._hidden.values, self._hidden.mask
        mask = (
            mask
            if mask is not None
            else torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        )
        return self._fill(Encoded(values, mask, values[:, 0]))

    def squeeze(self, stand_in: Float[Tensor, " D"]) -> Float[Tensor, "B D"]:
        """The mean of the state that enters the next block, one vector per sample; `stand_in` where the modality is absent."""
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
        return self._spread(mean, stand_in)

    def scale(self, gate: Float[Tensor, "B D"]) -> None:
        """Multiply the state that enters the next block by `gate`, channel by channel."""
        if self.is_empty:
            return
        assert self._hidden is not None
        gate = gate if self.rows is None else gate[self.rows]
        values = self._hidden.values
        shaped = gate[:, :, None, None] if values.ndim == 4 else gate[:, None, :]
        self._hidden = self._hidden._replace(values=values * shaped.to(values.dtype))

    def _rows(self) -> Tensor | None:
        """The rows that are present; None where all are, or where the graph may not depend on values."""
        if is_static() or bool(self.present.all()):
            return None
        return self.present.nonzero().squeeze(1)

    def _select(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.rows is not None:
            return tuple(value[self.rows] for value in inputs)
        if is_static():
            return tuple(_neutral(value, self.present) for value in inputs)
        return inputs

    def _select_hidden(self, start: Hidden) -> Hidden:
        if self.rows is None:
            return start
        mask, pooled = (
            None if value is None else value[self.rows] for value in (start.mask, start.pooled)
        )
        return Hidden(start.values[self.rows], mask, pooled)

    def _spread(self, values: Tensor, stand_in: Tensor | None) -> Tensor:
        """`values` of the present rows at their places in the batch, `stand_in` (or zero) at the others."""
        if self.rows is None and not is_static():
            return values
        other = (
            values.new_zeros(values.shape[-1]) if stand_in is None else stand_in.to(values.dtype)
        )
        if self.rows is None:
            present = self.present.view(-1, *[1] * (values.ndim - 1))
            return torch.where(present, values, other)
        spread = other.expand(self.batch, *values.shape[1:])
        return spread.index_put((self.rows,), values)

    def _fill(self, encoded: Encoded) -> Encoded:
        if self.rows is None and not is_static():
            return encoded
        first = torch.zeros(encoded.mask.shape[1], dtype=torch.bool, device=encoded.mask.device)
        first[0] = True
        if self.rows is None:
            mask = _chosen(self.present[:, None], encoded.mask, first)
        else:
            mask = first.expand(self.batch, -1).index_put((self.rows,), encoded.mask)
        return Encoded(
            self._spread(encoded.tokens, self.stand_in),
            mask,
            self._spread(encoded.pooled, self.stand_in),
        )

    def _all_absent(self) -> Encoded:
        # One place more than prefix tokens: a pool that leaves the prefix out still finds a token.
        places = self.encoder.num_prefix + 1
        vector = (
            self.encoder.any_weight.new_zeros(self.encoder.dim)
            if self.stand_in is None
            else self.stand_in
        )
        mask = torch.zeros(self.batch, places, dtype=torch.bool, device=vector.device)
        mask[:, 0] = True
        return Encoded(vector.expand(self.batch, places, -1), mask, vector.expand(self.batch, -1))


def _chosen(condition: Tensor, this: Tensor, other: Tensor) -> Tensor:
    """torch.where of truth values, which onnxruntime has for numbers alone."""
    return (condition & this) | (~condition & other)


def _neutral(value: Tensor, present: Tensor) -> Tensor:
    """`value` with something harmless in the absent rows: zero pixels, token 0, one real token."""
    shape = present.view(-1, *[1] * (value.ndim - 1))
    if value.ndim == 2 and value.dtype == torch.bool:
        first = torch.zeros(value.shape[1], dtype=torch.bool, device=value.device)
        first[0] = True
        return _chosen(shape, value, first)
    return torch.where(shape, value, value.new_zeros(()))
