"""UNetSegmenter beside a U-Net in plain torch, written from the paper's drawing, with the same numbers in it."""

from itertools import pairwise

import keras
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmfusion import UNetSegmenter


class Level(nn.Module):
    def __init__(self, channels_in, channels):
        super().__init__()
        self.first, self.second = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), None
        self.first_norm, self.second_norm = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x):
        return F.relu(self.second_norm(self.second(F.relu(self.first_norm(self.first(x))))))


class PlainUNet(nn.Module):
    def __init__(self, widths):
        super().__init__()
        pairs = list(zip([1, *widths], widths, strict=False))
        self.down = nn.ModuleList(Level(*pair) for pair in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.join = nn.ModuleList(Level(2 * a, a) for a in widths[:-1])
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x):
        passed = []
        for level in self.down[:-1]:
            passed.append(level(x))
            x = F.max_pool2d(passed[-1], 2)
        x = self.down[-1](x)
        for up, join, skipped in reversed(list(zip(self.up, self.join, passed, strict=True))):
            x = join(torch.cat([skipped, up(x)], 1))
        return torch.sigmoid(self.head(x))


def copy_into(convolution, norm, block):
    def tensor(value):
        return torch.from_numpy(np.array(keras.ops.convert_to_numpy(value)))

    convolution.weight.data = tensor(block.convolution.kernel).permute(3, 2, 0, 1)
    norm.eps = block.norm.epsilon
    for name, mine in (
        ("weight", "gamma"),
        ("bias", "beta"),
        ("running_mean", "moving_mean"),
        ("running_var", "moving_variance"),
    ):
        getattr(norm, name).data = tensor(getattr(block.norm, mine))


@pytest.mark.parametrize("training", [False, True])
def test_it_is_the_plain_u_net(training):
    keras.utils.set_random_seed(0)
    model = UNetSegmenter(4, 3, dtype="float64")
    generator = np.random.default_rng(0)
    for weight in model.weights:
        values = generator.normal(0, 0.3, weight.shape)
        weight.assign(np.abs(values) + 0.5 if weight.path.endswith(("variance", "gamma")) else values)
    plain = PlainUNet([4, 8, 16, 32]).double().train(training)
    for number in range(4):
        for place, level in (("down", plain.down), ("up", plain.join))[: 1 if number == 3 else 2]:
            for step, part in ((1, "first"), (2, "second")):
                block = model.get_layer(f"{place}{number}_{step}")
                copy_into(getattr(level[number], part), getattr(level[number], f"{part}_norm"), block)
    for number in range(3):
        layer = model.get_layer(f"up{number}_0")
        kernel, bias = (np.array(keras.ops.convert_to_numpy(value)) for value in (layer.kernel, layer.bias))
        plain.up[number].weight.data = torch.from_numpy(kernel).permute(3, 2, 0, 1)
        plain.up[number].bias.data = torch.from_numpy(bias)
    kernel, bias = (np.array(keras.ops.convert_to_numpy(value)) for value in model.get_layer("head").weights)
    plain.head.weight.data = torch.from_numpy(kernel).double().permute(3, 2, 0, 1)
    plain.head.bias.data = torch.from_numpy(bias).double()
    inputs = generator.random((3, 32, 48, 1))
    wanted = plain(torch.from_numpy(inputs).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
    got = keras.ops.convert_to_numpy(model(inputs, training=training))
    assert wanted.std() > 0.01
    np.testing.assert_allclose(got, wanted, atol=1e-5)
