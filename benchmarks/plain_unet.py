"""The classical U-Net in plain torch, layer by layer as in the paper's figure.

Tests and benchmarks compare `UNetSegmenter` with it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@final
class Level(nn.Module):
    """Two 3 x 3 convolutions, each followed by a batch normalisation and a ReLU."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm, self.second_norm = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the feature map."""
        return F.relu(self.second_norm(self.second(F.relu(self.first_norm(self.first(x))))))


@final
class PlainUNet(nn.Module):
    """A U-Net of one channel and one class.

    Shape:
        pictures [B, 1, H, W] -> the probability of each pixel [B, 1, H, W].
    """

    def __init__(self, widths: list[int]):
        super().__init__()
        self.down = nn.ModuleList(Level(*pair) for pair in zip([1, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.join = nn.ModuleList(Level(2 * a, a) for a in widths[:-1])
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the probabilities."""
        passed = []
        for level in self.down[:-1]:
            passed.append(level(x))
            x = F.max_pool2d(passed[-1], 2)
        x = self.down[-1](x)
        for up, join, skipped in reversed(list(zip(self.up, self.join, passed, strict=True))):
            x = join(torch.cat([skipped, up(x)], 1))
        # The sigmoid is computed in float32, as UNetSegmenter does.
        return torch.sigmoid(self.head(x).float())


def plain_copy(model: Any) -> PlainUNet:
    """Returns a `UNetSegmenter` in plain torch, with the same weights.

    It must be a classical one: `patch_size` 1 and batch normalisation.
    """
    options = model.get_config()
    depth = options["depth"]
    plain = PlainUNet([options["width"] * 2**level for level in range(depth + 1)])
    with torch.no_grad():
        for number in range(depth + 1):
            # The lowest level lies on the way down only.
            for place, levels in (("down", plain.down), ("up", plain.join))[
                : 1 if number == depth else 2
            ]:
                for step, part in ((1, "first"), (2, "second")):
                    level, block = levels[number], model.get_layer(f"{place}{number}_{step}")
                    # Keras keeps a kernel as [H, W, in, out], torch as [out, in, H, W].
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
    """Sets `target` to the values of a Keras variable, with its axes reordered."""
    import keras

    # Copy: on the torch backend the array shares its memory with the Keras model.
    values = torch.tensor(keras.ops.convert_to_numpy(source).copy())
    target.data = values if axes is None else values.permute(axes).contiguous()
