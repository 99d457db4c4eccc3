"""LungSegmenter: the lungs of a frontal chest X-ray, out of the box, and a word on whether it is one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..model.images import ImageSource, load_image
from .pixels import standardized
from .plausibility import Plausibility, features, two_largest
from .unet import UNetSegmenter

_COLOUR = 24.0
"""A picture whose channels differ by more than this (of 255, mean over the pixels) is in colour."""

_NO_LUNGS = "the picture must show lungs, got an empty mask. Look at it; is it a chest X-ray?"


class NotAChestXrayWarning(UserWarning):
    """A picture that does not look like a frontal chest X-ray was segmented all the same; its mask means little."""


@dataclass(frozen=True, eq=False)
class LungMask:
    """What a `LungSegmenter` makes of one picture.

    Attributes:
        mask: bool [H, W] at the picture's own size; True is lung. At most two parts, without holes.
        confidence: the Dice coefficient that the mask can be expected to reach if the probabilities
            are right, within [0, 1]: twice the sum of the probabilities inside it, over its size
            plus the sum of all probabilities. 0 without lungs.
        is_chest_xray: whether picture and mask look like a frontal chest X-ray.
        reasons: why they do not; empty where they do.
    """

    mask: NDArray[np.bool_]
    confidence: float
    is_chest_xray: bool
    reasons: tuple[str, ...]

    def box(self, margin: float = 0.0) -> tuple[int, int, int, int]:
        """Return the smallest box around the lungs: left, top, right, bottom in pixels, the last two exclusive.

        Args:
            margin: how much of the box's own sides to add on each side, at least 0; it ends at the
                picture's edge.

        Raises:
            ValueError: if margin is negative, or no lung was found.
        """
        if not margin >= 0:
            raise ValueError(f"margin must be at least 0, got {margin!r}.")
        if not self.mask.any():
            raise ValueError(_NO_LUNGS)
        (top, bottom), (left, right) = (
            (int(where[0]), int(where[-1]) + 1) for where in _occupied(self.mask)
        )
        high, wide = round(margin * (bottom - top)), round(margin * (right - left))
        height, width = self.mask.shape
        return (
            max(0, left - wide),
            max(0, top - high),
            min(width, right + wide),
            min(height, bottom + high),
        )


class LungSegmenter:
    """Finds the lungs in frontal chest X-rays; weights come with the package.

    The picture is read by `load_image` (any depth, DICOM with its photometric interpretation),
    stretched to the network's square, and its contrast normalised. What the network says of it and
    of its mirror image is averaged and stretched back, and the two largest parts are kept.
    `weights/MODEL_CARD.md` says what the weights were trained on and how well they do.

    Args:
        model: a segmenter of one class and one channel of your own; None takes the weights of the
            package.
        size: side of the square that the network sees, in pixels.

    Raises:
        ValueError: if the model has other channels or classes, or size does not suit it.

    Example:
        >>> segmenter = LungSegmenter()
        >>> found = segmenter(np.zeros((64, 48), dtype=np.uint8))  # doctest: +SKIP
        >>> found.mask.shape, found.is_chest_xray  # doctest: +SKIP
        ((64, 48), False)
    """

    def __init__(self, model: UNetSegmenter | None = None, *, size: int = 256):
        with (
            resources.files(__package__)
            .joinpath("weights/lungs.json")
            .open(encoding="utf-8") as file
        ):
            card = json.load(file)
        self.plausibility = Plausibility.from_json(card["plausibility"])
        self.model = _shipped(card) if model is None else model
        self.size = size
        options = self.model.get_config()
        if (options["input_channels"], options["num_classes"]) != (1, 1):
            raise ValueError(
                f"model must take 1 channel and give 1 class, got {options['input_channels']} and {options['num_classes']}."
            )
        step = options["patch_size"] * 2 ** options["depth"]
        if isinstance(size, bool) or not isinstance(size, int) or size < step or size % step:
            raise ValueError(f"size must be a multiple of {step}, got {size!r}.")

    def __call__(self, image: ImageSource) -> LungMask:
        """Return the lungs of one picture.

        Args:
            image: whatever `load_image` takes: a path, a PIL image, an array, a tensor, a DICOM
                object.

        Raises:
            ImageError: if it cannot be read.

        Warns:
            NotAChestXrayWarning: if it does not look like a frontal chest X-ray.
        """
        return next(self.segment([image]))

    def segment(self, images: Iterable[ImageSource], *, batch_size: int = 16) -> Iterator[LungMask]:
        """Yield the lungs of each picture, in order; as many as `batch_size` are in memory at a time.

        Args:
            images: as `__call__` takes one.
            batch_size: how many go through the network together, at least 1.

        Raises:
            ValueError: if batch_size is below 1.
            ImageError: if a picture cannot be read.

        Warns:
            NotAChestXrayWarning: for each picture that does not look like a frontal chest X-ray.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be an int of at least 1, got {batch_size!r}.")
        sources = iter(images)
        while some := [load_image(source) for source in islice(sources, batch_size)]:
            for picture, probability in zip(some, self.probabilities(some), strict=True):
                yield self._judged(picture, probability)

    def probabilities(self, pictures: list[Image.Image]) -> NDArray[np.float32]:
        """Return the probability of lung at each position of the network's square, [B, size, size]; not yet cleaned."""
        squares = [_square(picture, self.size) for picture in pictures]
        return answered(self.model, np.stack(squares)[..., None])

    def masked(self, image: ImageSource) -> Image.Image:
        """Return the picture in grey, black outside the lungs.

        Args:
            image: as `__call__` takes it.

        Raises:
            ImageError: if it cannot be read.
            ValueError: if no lung is found.
        """
        picture = load_image(image)
        found = self(picture)
        if not found.mask.any():
            raise ValueError(_NO_LUNGS)
        return Image.fromarray(np.where(found.mask, np.asarray(picture.convert("L")), np.uint8(0)))

    def cropped(self, image: ImageSource, *, margin: float = 0.05) -> Image.Image:
        """Return the picture cut to the box around the lungs.

        Args:
            image: as `__call__` takes it.
            margin: how much of the box's sides to add on each side, at least 0.

        Raises:
            ImageError: if it cannot be read.
            ValueError: if no lung is found, or margin is negative.
        """
        picture = load_image(image)
        return picture.crop(self(picture).box(margin))

    def _judged(self, picture: Image.Image, probability: NDArray[np.float32]) -> LungMask:
        size = (picture.width, picture.height)
        enlarged = Image.fromarray(probability).resize(size, Image.Resampling.BILINEAR)
        mask = two_largest(np.asarray(enlarged) > 0.5)
        inside = two_largest(probability > 0.5)
        expected = (
            2
            * float(probability[inside].sum())
            / max(float(inside.sum() + probability.sum()), 1e-6)
        )
        reasons = tuple(self._doubts(picture, probability))
        if reasons:
            warnings.warn(
                f"A picture of {size[0]} x {size[1]} does not look like a frontal chest X-ray: {'; '.join(reasons)}.",
                NotAChestXrayWarning,
                stacklevel=4,
            )
        return LungMask(mask, expected, not reasons, reasons)

    def _doubts(self, picture: Image.Image, probability: NDArray[np.float32]) -> Iterator[str]:
        if picture.mode == "RGB":
            channels = np.asarray(picture.resize((64, 64), Image.Resampling.BOX), dtype=np.float32)
            if float(np.ptp(channels, axis=-1).mean()) > _COLOUR:
                yield "it is in colour"
        shape = features(probability)
        if shape is None:
            yield "it does not show two lungs side by side"
        elif (distance := self.plausibility.distance(shape)) > self.plausibility.limit:
            yield f"the lungs' shape is {distance / self.plausibility.limit:.1f} times as far from the usual as is accepted"


def _square(picture: Image.Image, size: int) -> NDArray[np.float32]:
    """The picture as the network sees it [size, size]."""
    return standardized(np.asarray(picture.convert("L").resize((size, size), Image.Resampling.BOX)))


def answered(model: UNetSegmenter, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probability of lung, the mean over each picture as it is and in a mirror: [B, H, W, 1] -> [B, H, W]."""
    straight, mirrored = (
        _answered(model, both)[..., 0]
        for both in (inputs, np.ascontiguousarray(inputs[:, :, ::-1]))
    )
    return np.asarray((straight + mirrored[:, :, ::-1]) / 2, dtype=np.float32)


def _answered(model: UNetSegmenter, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    if keras.backend.backend() != "torch":
        return np.asarray(model.predict_on_batch(inputs), dtype=np.float32)
    import torch

    # Keras would hand torch's tensor to numpy by a protocol that torch warns of.
    with torch.inference_mode():
        return model(inputs, training=False).float().cpu().numpy()


def _occupied(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    return np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))


def _shipped(card: dict[str, Any]) -> UNetSegmenter:
    model = UNetSegmenter.from_config(card["model"])
    with resources.as_file(
        resources.files(__package__).joinpath("weights/lungs.weights.h5")
    ) as path:
        model.load_weights(path)
    model.trainable = False
    return model
