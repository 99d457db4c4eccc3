"""The classical U-Net in plain torch, layer by layer as in the paper's drawing: what `UNetSegmenter` is held against."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Level(nn.Module):
    """Two 3 x 3 convolutions, each normalised, each followed by a ReLU."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm, self.second_norm = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map."""
        return F.relu(self.second_norm(self.second(F.relu(self.first_norm(self.first(x))))))


class PlainUNet(nn.Module):
    """A U-Net of one channel and one class: [B, 1, H, W] -> the probability of each pixel [B, 1, H, W]."""

    def __init__(self, widths: list[int]):
        super().__init__()
        self.down = nn.ModuleList(Level(*pair) for pair in zip([1, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.join = nn.ModuleList(Level(2 * a, a) for a in widths[:-1])
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the probabilities."""
        passed = []
        for level in self.down[:-1]:
            passed.append(level(x))
            x = F.max_pool2d(passed[-1], 2)
        x = self.down[-1](x)
        for up, join, skipped in reversed(list(zip(self.up, self.join, passed, strict=True))):
            x = join(torch.cat([skipped, up(x)], 1))
        return torch.sigmoid(self.head(x).float())


def plain_copy(model: Any) -> PlainUNet:
    """Return a classical `UNetSegmenter` (patch_size 1, batch normalisation) in plain torch, with the same numbers in it."""
    options = model.get_config()
    depth = options["depth"]
    plain = PlainUNet([options["width"] * 2**level for level in range(depth + 1)])
    with torch.no_grad():
        for number in range(depth + 1):
            for place, levels in (("down", plain.down), ("up", plain.join))[
                : 1 if number == depth else 2
            ]:
                for step, part in ((1, "first"), (2, "second")):
                    level, block = levels[number], model.get_layer(f"{place}{number}_{step}")
                    _copy(getattr(level, part).weight, block.convolution.kernel, (3, 2, 0, 1))
                    norm = getattr(level, f"{part}_norm")
                    norm.eps = block.norm.epsilon
                    _copy(norm.weight, block.norm.gamma)
                    _copy(norm.bias, block.norm.beta)
                    _copy(norm.running_mean, block.norm.moving_mean)
                    _copy(norm.running_var, block.norm.moving_variance)
        for number in range(depth):
            up = model.get_layer(f"up{number}_0")
            _copy(plain.up[number].weight, up.kernel, (3, 2, 0, 1))
            _copy(plain.up[number].bias, up.bias)
        head = model.get_layer("head")
        _copy(plain.head.weight, head.kernel, (3, 2, 0, 1))
        _copy(plain.head.bias, head.bias)
    return plain


def _copy(target: Tensor, source: Any, axes: tuple[int, ...] | None = None) -> None:
    import keras

    # A copy: on the torch backend the array would be the Keras model's own memory.
    values = torch.tensor(keras.ops.convert_to_numpy(source).copy())
    target.data = values if axes is None else values.permute(axes).contiguous()
