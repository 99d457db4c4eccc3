"""The containers that the parts of a model pass on."""

import torch

from mmfusion.model.types import Encoded, FusionOutput, Hidden, is_full


def test_the_output_carries_only_what_was_asked_for() -> None:
    output = FusionOutput(logits=torch.zeros(1, 2))  # type: ignore[arg-type]
    assert list(output) == ["logits"] and len(output.to_tuple()) == 1


def test_hidden_defaults_say_that_every_place_is_real() -> None:
    hidden = Hidden(torch.zeros(1, 2, 3))
    assert hidden.mask is None and hidden.pooled is None


def test_encoded_unpacks_in_the_order_of_the_contract() -> None:
    tokens, mask, pooled = Encoded(
        torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 3)
    )
    assert (tokens.shape, mask.dtype, pooled.shape) == ((1, 2, 3), torch.bool, (1, 3))


def test_attention_needs_no_mask_where_the_host_knows_that_all_is_real() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    hidden = Hidden(torch.zeros(2, 3, 1), mask)
    assert hidden.attended is mask
    assert hidden._replace(lengths=[3, 3]).attended is None
    assert hidden._replace(lengths=[3, 2]).attended is mask
    assert is_full([], 3) and not is_full(None, 3) and not is_full([2, 3], 3)
