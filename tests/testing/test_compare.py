"""How the checks compare answers."""

import pytest
import torch

from mmfusion.testing.compare import agree


def test_equal_answers_agree_and_others_are_named() -> None:
    agree("some law", torch.ones(2), torch.ones(2) + 1e-6, 1e-5)
    with pytest.raises(AssertionError, match="some law: answers differ by 0.5"):
        agree("some law", torch.ones(2), torch.tensor([1.0, 1.5]), 1e-5)


def test_nan_and_other_shapes_do_not_agree() -> None:
    with pytest.raises(AssertionError, match="differ by nan"):
        agree("some law", torch.ones(1), torch.tensor([float("nan")]), 1e9)
    with pytest.raises(AssertionError, match="shapes"):
        agree("some law", torch.ones(2), torch.ones(3), 1.0)
