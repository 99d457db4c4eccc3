"""The rows of a batch that have a modality, and neutral inputs in the others."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmfusion.model.parts import Parts
from mmfusion.model.tower_rows import chosen, first_place, neutral, rows_of, selected_state
from mmfusion.model.types import Hidden


def test_rows_are_named_where_one_is_absent() -> None:
    assert rows_of(torch.tensor([True, True]), [True, True]) is None
    assert rows_of(torch.tensor([True, False, True]), [True, False, True]).tolist() == [0, 2]


def test_chosen_is_where() -> None:
    table = torch.tensor([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]).bool()
    condition, this, other = table.T
    assert torch.equal(chosen(condition, this, other), torch.where(condition, this, other))


def test_absent_rows_have_zero_pixels_or_one_real_token() -> None:
    present = torch.tensor([True, False])
    pixels = torch.full((2, 3, 2, 2), float("nan"))
    assert neutral(pixels, present)[1].eq(0).all() and neutral(pixels, present)[0].isnan().all()
    assert neutral(torch.tensor([[5, 6], [7, 8]]), present).tolist() == [[5, 6], [0, 0]]
    mask = torch.tensor([[True, True], [False, False]])
    assert neutral(mask, present).tolist() == [[True, True], [True, False]]
    assert first_place(3, present.device).tolist() == [True, False, False]


@pytest.mark.parametrize("way", ["all", "rows", "parts"])
def test_a_stored_state_is_cut_to_what_is_present(way: str) -> None:
    values = torch.arange(12.0).reshape(2, 2, 3, 1)
    start = Hidden(values, torch.ones(2, 2, 3) > 0, values[:, :, 0], [3, 3, 3])
    present: Tensor = torch.tensor([[True, False], [True, True]])
    parts = Parts(present, [[True, False], [True, True]]) if way == "parts" else None
    rows = torch.tensor([1]) if way == "rows" else None
    cut: Callable[[Tensor], Tensor] = {
        "all": lambda value: value,
        "rows": lambda value: value[1:],
        "parts": lambda value: value[present],
    }[way]
    state = selected_state(start, rows, parts)
    assert state.mask is not None and state.pooled is not None and state.lengths == [3, 3, 3]
    assert torch.equal(state.values, cut(values))
    assert torch.equal(state.mask, cut(torch.ones(2, 2, 3) > 0))
    assert torch.equal(state.pooled, cut(values[:, :, 0]))
