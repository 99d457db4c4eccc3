"""Tests whose lines are not counted for the coverage are really left out, in every worker."""

import sys

import pytest


@pytest.mark.no_cover
def test_no_counter_follows_a_test_that_is_left_out() -> None:
    # A counter that is left on makes an export take twice as long.
    assert not type(sys.gettrace()).__module__.startswith("coverage")
