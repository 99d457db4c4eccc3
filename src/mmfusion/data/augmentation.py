"""Recipes of augmentation, made of torchvision's transforms."""

from collections.abc import Callable
from typing import Any, final

import numpy as np
import torch
from PIL import Image

from ..model.validation import check_choice


def _xray() -> list[Any]:
    from torchvision.transforms import v2

    return [
        v2.RandomAffine(
            degrees=10,
            translate=(0.05, 0.05),
            scale=(0.9, 1.1),
            interpolation=v2.InterpolationMode.BILINEAR,
        ),
        v2.ColorJitter(brightness=0.2, contrast=0.2),
    ]


def _photo() -> list[Any]:
    from torchvision.transforms import v2

    return [
        v2.RandomHorizontalFlip(),
        v2.RandomAffine(
            degrees=15,
            translate=(0.1, 0.1),
            scale=(0.8, 1.2),
            interpolation=v2.InterpolationMode.BILINEAR,
        ),
        v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02),
    ]


AUGMENTATIONS: dict[str, Callable[[], list[Any]]] = {"xray": _xray, "photo": _photo}
"""Recipe -> a function that returns the transforms, which are applied in this order."""


@final
class Augmentation:
    """A recipe of augmentation for `fit(augment=)`, made of `torchvision.transforms.v2`.

    - "xray" turns by up to 10 degrees, shifts by up to 5 % of a side, scales by 0.9 to 1.1, and
      multiplies brightness and contrast by 0.8 to 1.2. It never mirrors: the side of the heart is a
      finding, and reports name sides.
    - "photo" mirrors every second picture, turns by up to 15 degrees, shifts by up to 10 % of a
      side, scales by 0.8 to 1.2, multiplies brightness, contrast and saturation by 0.8 to 1.2, and
      moves the hue by up to 0.02 of a turn.

    One object must not be used by several threads at once, as they share torch's generator. What
    enters at an edge is black. These are usual choices. They were not tuned on data.

    Args:
        name: of the recipe.

    Raises:
        ValueError: for another name.

    Example:
        >>> augment = Augmentation("xray")
        >>> augment(Image.new("L", (8, 6), 100), np.random.default_rng(0)).size
        (8, 6)
    """

    def __init__(self, name: str) -> None:
        from torchvision.transforms import v2

        check_choice("name", name, AUGMENTATIONS)
        self.name = name
        # A stopped training continues only with the same augmentation, which it knows by this.
        self.__qualname__ = f"Augmentation({name!r})"
        self._transform = v2.Compose(AUGMENTATIONS[name]())

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Returns an augmented picture of the same size and mode.

        Args:
            image: in mode "L" or "RGB".
            rng: decides what is drawn.

        Raises:
            ValueError: for a picture in another mode.
        """
        if image.mode not in ("L", "RGB"):
            raise ValueError(
                f"image must be in mode 'L' or 'RGB', got {image.mode!r}. load_image makes it so."
            )
        # torchvision draws from torch's generator of the CPU, which others draw from, too.
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(int(rng.integers(2**63)))
        try:
            augmented: Image.Image = self._transform(image)
        finally:
            torch.set_rng_state(state)
        return augmented
