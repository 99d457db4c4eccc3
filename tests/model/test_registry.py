"""Backbones of the user's own by name."""

import pytest
from torch import Tensor, nn

from mmfusion.model.registry import (
    custom_backbone,
    is_registered,
    register_backbone,
    registered_name,
)


class Registered(nn.Module):
    dim = 4

    def __init__(self, stride: int = 8):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(3, 4, stride, stride=stride)

    def get_config(self) -> dict[str, int]:
        return {"stride": self.stride}

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.conv(pixel_values)


def test_registering_a_backbone() -> None:
    register_backbone("test-registered", Registered)
    register_backbone("test-registered", Registered)
    assert registered_name(Registered()) == "test-registered"
    assert custom_backbone("test-registered", stride=4).stride == 4
    with pytest.raises(ValueError, match="name must be new, got 'test-registered'"):
        register_backbone("test-registered", nn.Identity)
    with pytest.raises(
        ValueError, match=r"name must be a registered backbone, got 'test-registred'. Did you mean"
    ):
        custom_backbone("test-registred")
    with pytest.raises(
        ValueError,
        match=r"registered class, got Flatten\. Call register_backbone\('a-name', Flatten\) first",
    ):
        registered_name(nn.Flatten())


def test_a_name_is_registered_once_it_is_given() -> None:
    assert not is_registered("test-unregistered")
    register_backbone("test-lambda", lambda: nn.Flatten())
    assert is_registered("test-lambda") and isinstance(custom_backbone("test-lambda"), nn.Flatten)
