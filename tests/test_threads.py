"""A test that sets the number of threads leaves the other tests of its worker as they are."""

import pytest
import torch

BEFORE = torch.get_num_threads()

# Both tests must run in one worker, in this order.
pytestmark = pytest.mark.xdist_group("threads")


def test_a_number_of_threads_is_set() -> None:
    torch.set_num_threads(BEFORE + 1)
    assert torch.get_num_threads() == BEFORE + 1


def test_it_was_taken_back() -> None:
    assert torch.get_num_threads() == BEFORE
