"""Batch norm of one value per channel: the formula with running statistics."""

from typing import Any

import pytest
import torch
from torch import nn

from mmfusion import FusionClassifier, ImageEncoder, TextEncoder
from mmfusion.model.single_value import let_single_values_pass
from mmfusion.testing import tiny_config


@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm1d, (1, 3)), (nn.BatchNorm2d, (1, 3, 1, 1))]
)
def test_a_single_value_meets_the_running_statistics(kind: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm = kind(3)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    norm.running_var.uniform_(1, 2)
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    values = torch.randn(shape, requires_grad=True)
    let_single_values_pass(norm)
    found = norm.train()(values)
    expected = norm.weight * (values.flatten() - mean) / (variance + norm.eps).sqrt() + norm.bias
    torch.testing.assert_close(found.flatten(), expected)
    found.sum().backward()
    torch.testing.assert_close(values.grad.flatten(), norm.weight / (variance + norm.eps).sqrt())
    assert norm.training
    # torch.compile of torch 2.11 traces no removal of an attribute, so the hooks remove none.
    assert vars(norm)["was_training"] is False
    assert torch.equal(norm.running_mean, mean) and torch.equal(norm.running_var, variance)


def test_several_values_meet_their_own_statistics() -> None:
    torch.manual_seed(0)
    plain, ours = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    let_single_values_pass(ours)
    for shape in ((2, 3, 1, 1), (1, 3, 2, 1), (4, 3, 5, 5)):
        values = torch.randn(shape)
        assert torch.equal(plain(values), ours(values))
    assert torch.equal(plain.running_var, ours.running_var)
    with pytest.raises(ValueError, match="expected 4D input"):
        ours(torch.randn(1, 3))
    assert ours.training


@pytest.mark.parametrize("name", ["resnet10t", "efficientnet_b0", "mobilenetv3_small_050"])
def test_a_batch_with_one_picture_trains(name: str) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = FusionClassifier(
        image_encoder=ImageEncoder(name, pretrained=False),
        text_encoder=TextEncoder(tiny_config("bert", **sizes, vocab_size=20)),
        num_labels=3,
    ).train()
    present = torch.tensor([False, True, False])
    inputs = torch.randn(3, 3, 32, 32), torch.randint(1, 20, (3, 5))
    model(*inputs, image_present=present, labels=torch.tensor([0, 1, 2])).loss.backward()
    assert all(module.training for module in model.image_encoder.backbone.modules())
    first = next(model.image_encoder.parameters())
    assert first.grad.abs().sum() > 0
