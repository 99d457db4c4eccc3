"""The segmenter of lungs in frontal chest X-rays, with trained weights and a plausibility check."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from typing import Any, final

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..model.images import ImageSource, load_image
from .pixels import standardized
from .plausibility import Plausibility, features, two_largest
from .unet import UNetSegmenter

_COLOUR = 24.0
"""The mean difference of a pixel's channels, of 255, above which a picture is in colour."""

_NO_LUNGS = "the picture must show lungs, got an empty mask. Look at it; is it a chest X-ray?"


class NotAChestXrayWarning(UserWarning):
    """The warning that a picture does not look like a frontal chest X-ray.

    The picture is segmented nevertheless, but its mask is not reliable.
    """


@final
@dataclass(frozen=True, eq=False)
class LungMask:
    """The result of a `LungSegmenter` for one picture.

    Attributes:
        mask: bool [H, W] at the picture's own size; True is lung. It has at most two parts and no
            holes.
        confidence: the expected Dice coefficient of the mask in [0, 1], if the probabilities are
            right. It is twice the sum of the probabilities inside the mask, over the size of the
            mask plus the sum of all probabilities. It is 0 if there are no lungs.
        is_chest_xray: whether picture and mask look like a frontal chest X-ray.
        reasons: the reasons why they do not. It is empty if they do.
    """

    mask: NDArray[np.bool_]
    confidence: float
    is_chest_xray: bool
    reasons: tuple[str, ...]

    def box(self, margin: float = 0.0) -> tuple[int, int, int, int]:
        """Returns the smallest box around the lungs: left, top, right and bottom in pixels.

        The right and the bottom number are exclusive.

        Args:
            margin: the share of the box's own sides to add on each side, at least 0. The box ends
                at the picture's edge.

        Raises:
            ValueError: if margin is negative, or the mask is empty.
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


@final
class LungSegmenter:
    """The segmenter of lungs in frontal chest X-rays. Its weights come with the package.

    `load_image` reads the picture (any depth, DICOM with its photometric interpretation). The
    picture is stretched to the network's square, and its contrast is normalised. The probabilities
    of the picture and of its mirror image are averaged and stretched back. The two largest parts
    are the mask. `weights/MODEL_CARD.md` describes the training data and the accuracy of the
    weights.

    Args:
        model: your own segmenter of one class and one channel. None takes the weights of the
            package.
        size: the side of the square that the network sees, in pixels.

    Raises:
        ValueError: if the model has other channels or classes, or size does not fit it.

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
                "model must take 1 channel and give 1 class, "
                f"got {options['input_channels']} and {options['num_classes']}."
            )
        # Every level of the network halves the sides, so they must be divisible that often.
        step = options["patch_size"] * 2 ** options["depth"]
        if isinstance(size, bool) or not isinstance(size, int) or size < step or size % step:
            raise ValueError(f"size must be a multiple of {step}, got {size!r}.")

    def __call__(self, image: ImageSource) -> LungMask:
        """Returns the lungs of one picture.

        Args:
            image: what `load_image` takes: a path, a PIL image, an array, a tensor or a DICOM
                object.

        Raises:
            ImageError: if it cannot be read.

        Warns:
            NotAChestXrayWarning: if it does not look like a frontal chest X-ray.
        """
        return next(self.segment([image]))

    def segment(self, images: Iterable[ImageSource], *, batch_size: int = 16) -> Iterator[LungMask]:
        """Yields the lungs of each picture, in order.

        The pictures of at most two batches are in memory at the same time.

        Args:
            images: the pictures, each as `__call__` takes it.
            batch_size: the number of pictures in one batch of the network, at least 1.

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
        """Returns the probabilities of lung in the network's square, [B, size, size].

        They are not cleaned: they may contain more than two parts, and holes.

        Args:
            pictures: the pictures, of any sizes.
        """
        squares = [_square(picture, self.size) for picture in pictures]
        return answered(self.model, np.stack(squares)[..., None])

    def masked(self, image: ImageSource) -> Image.Image:
        """Returns the picture in grey, with black outside the lungs.

        Args:
            image: as `__call__` takes it.

        Raises:
            ImageError: if it cannot be read.
            ValueError: if no lung is found.
        """
        picture = load_image(image)
        mask = self(picture).mask
        if not mask.any():
            raise ValueError(_NO_LUNGS)
        return Image.fromarray(np.where(mask, np.asarray(picture.convert("L")), np.uint8(0)))

    def cropped(self, image: ImageSource, *, margin: float = 0.05) -> Image.Image:
        """Returns the picture, cropped to the box around the lungs.

        Args:
            image: as `__call__` takes it.
            margin: the share of the box's sides to add on each side, at least 0.

        Raises:
            ImageError: if it cannot be read.
            ValueError: if no lung is found, or margin is negative.
        """
        picture = load_image(image)
        return picture.crop(self(picture).box(margin))

    def _judged(self, picture: Image.Image, probability: NDArray[np.float32]) -> LungMask:
        """Returns the mask of a picture, after a warning if it does not look like a chest X-ray."""
        size = (picture.width, picture.height)
        # Resize the probabilities, not the mask, because this gives a smooth outline.
        enlarged = Image.fromarray(probability).resize(size, Image.Resampling.BILINEAR)
        mask = two_largest(np.asarray(enlarged) > 0.5)
        # The confidence needs a mask of the same size as the probabilities.
        inside = two_largest(probability > 0.5)
        expected = (
            2
            * float(probability[inside].sum())
            / max(float(inside.sum() + probability.sum()), 1e-6)
        )
        reasons = tuple(self._doubts(picture, probability))
        if reasons:
            warnings.warn(
                f"A picture of {size[0]} x {size[1]} does not look like a frontal chest X-ray: "
                f"{'; '.join(reasons)}.",
                NotAChestXrayWarning,
                # The warning names the line that called `__call__`, three calls above this one. For
                # `masked` and `cropped`, this is a line of this file. If a function of the user
                # iterates over `segment`, the warning names the line that called this function.
                stacklevel=4,
            )
        return LungMask(mask, expected, not reasons, reasons)

    def _doubts(self, picture: Image.Image, probability: NDArray[np.float32]) -> Iterator[str]:
        """Yields the reasons why a picture does not look like a frontal chest X-ray."""
        if picture.mode == "RGB":
            # A small copy is enough for the mean difference of the channels, and it is faster.
            channels = np.asarray(picture.resize((64, 64), Image.Resampling.BOX), dtype=np.float32)
            if float(np.ptp(channels, axis=-1).mean()) > _COLOUR:
                yield "it is in colour"
        shape = features(probability)
        if shape is None:
            yield "it does not show two lungs side by side"
        elif (distance := self.plausibility.distance(shape)) > self.plausibility.limit:
            times = distance / self.plausibility.limit
            yield f"the lungs' shape is {times:.1f} times as far from the usual as is accepted"


def _square(picture: Image.Image, size: int) -> NDArray[np.float32]:
    """Returns the picture as the network sees it [size, size]."""
    return standardized(np.asarray(picture.convert("L").resize((size, size), Image.Resampling.BOX)))


def answered(model: UNetSegmenter, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the probability of lung, averaged over each picture and its mirror image.

    Args:
        model: a segmenter of one class.
        inputs: pictures as the network sees them.

    Shape:
        [B, H, W, 1] -> [B, H, W].
    """
    straight, mirrored = (
        _answered(model, both)[..., 0]
        for both in (inputs, np.ascontiguousarray(inputs[:, :, ::-1]))
    )
    return np.asarray((straight + mirrored[:, :, ::-1]) / 2, dtype=np.float32)


def _answered(model: UNetSegmenter, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the probabilities [B, H, W, 1] of the inputs, in inference mode."""
    if keras.backend.backend() != "torch":
        return np.asarray(model.predict_on_batch(inputs), dtype=np.float32)
    import torch

    # Call the model directly, because Keras converts torch's tensor to numpy in a way that makes
    # torch warn.
    with torch.inference_mode():
        return model(inputs, training=False).float().cpu().numpy()


def _occupied(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Returns the numbers of the rows and of the columns that hold a part of the mask."""
    return np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))


def _shipped(card: dict[str, Any]) -> UNetSegmenter:
    """Returns the model with the weights of the package."""
    model = UNetSegmenter.from_config(card["model"])
    with resources.as_file(
        resources.files(__package__).joinpath("weights/lungs.weights.h5")
    ) as path:
        model.load_weights(path)
    model.trainable = False
    return model
