"""A heat map that needs no gradient: which hidden parts of a picture change the answer."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

MASKS = 256
"""How many masks are tried: pairs of one and its opposite."""

_CELLS, _FINE = 7, 14
"""The cells of a side that a mask shows or hides as one, and those of a side of the map."""

_ROWS = 16


@torch.no_grad()
def occlusion_heat(
    score: Callable[[dict[str, Tensor]], Float[Tensor, " B"]],
    inputs: Mapping[str, Tensor],
    *,
    masks: int = MASKS,
    seed: int = 0,
) -> list[Float[Tensor, "h w"]]:
    """Returns for each picture of a sample where it speaks for a class, by random masks.

    A mask m shows half of the cells of each picture, on average, and a blurred copy of the picture
    in the place of the others. Its opposite 1 - m shows the rest. The map is the mean over the
    pairs of

        (score(m) - score(1 - m)) (2 m - 1)

    For a cell this is the mean score with the cell shown, minus the mean score with it hidden:
    what the cell adds in the mean over all sets of other cells (its Banzhaf value). Values below
    0 become 0.

    It differs from RISE in three points. The hidden part is blurred, because a grey spot may look
    like a finding. Masks come in pairs, which needs fewer of them for the same error. The mean
    score with the cell hidden is subtracted, so a map of no influence is 0 and not constant.

    Args:
        score: gives the score of each row of inputs.
        inputs: of one sample, which has a picture.
        masks: how many answers are asked for; an even number of at least 2.
        seed: of the masks. The random state of torch is left alone.

    Source: Petsiuk et al. 2018, RISE (arXiv 1806.07421), eq. 4 to 6 and section 3.2 (masks).
    """
    pixels, present = inputs["pixel_values"], inputs["image_present"].bool()
    pictures = pixels[present]
    blurred = _blurred(pictures)
    generator = torch.Generator().manual_seed(seed)
    others = {name: value for name, value in inputs.items() if name != "pixel_values"}
    total = pictures.new_zeros(len(pictures), *pictures.shape[-2:], dtype=torch.float32)
    pairs = masks // 2
    for start in range(0, pairs, _ROWS // 2):
        count = min(_ROWS // 2, pairs - start)
        shown = _masks(count, total.shape, generator).to(pixels.device)
        both = torch.cat([shown, 1 - shown])[:, :, None].to(pictures.dtype)
        rows = pixels.expand(len(both), *pixels.shape[1:]).clone()
        rows[present.expand(len(both), *present.shape[1:])] = (
            pictures * both + blurred * (1 - both)
        ).flatten(0, 1)
        repeated = {name: one.expand(len(both), *one.shape[1:]) for name, one in others.items()}
        with_mask, with_opposite = score(repeated | {"pixel_values": rows}).float().chunk(2)
        total += torch.einsum("k, k v h w -> v h w", with_mask - with_opposite, 2 * shown - 1)
    height, width = (min(_FINE, side) for side in total.shape[-2:])
    return list(F.adaptive_avg_pool2d(total / pairs, (height, width)).clamp(min=0))


def _masks(
    count: int, shape: tuple[int, ...], generator: torch.Generator
) -> Float[Tensor, "K V H W"]:
    """Returns random masks: grids of 0 and 1, made larger with soft edges, at a random place."""
    views, height, width = shape
    grids = torch.rand(count * views, 1, _CELLS + 1, _CELLS + 1, generator=generator) < 0.5
    down, across = -(-height // _CELLS), -(-width // _CELLS)
    size = ((_CELLS + 1) * down, (_CELLS + 1) * across)
    large = F.interpolate(grids.float(), size, mode="bilinear", align_corners=False)
    tops = torch.randint(down, (len(large),), generator=generator).tolist()
    lefts = torch.randint(across, (len(large),), generator=generator).tolist()
    cut = [
        one[:, top : top + height, left : left + width]
        for one, top, left in zip(large, tops, lefts, strict=True)
    ]
    return torch.stack(cut).reshape(count, views, height, width)


def _blurred(pictures: Float[Tensor, "V C H W"]) -> Float[Tensor, "V C H W"]:
    """Returns pictures under a Gaussian blur; its sigma is a tenth of the longer side."""
    sigma = max(pictures.shape[-2:]) / 10

    def kernel(side: int) -> Tensor:
        # Each row is normalised, so the edges of a picture do not become dark.
        place = torch.arange(side, device=pictures.device)
        return (-((place[:, None] - place) ** 2) / (2 * sigma**2)).softmax(1)

    down, across = map(kernel, pictures.shape[-2:])
    return (down @ pictures.float() @ across.T).to(pictures.dtype)
