"""The case "pixels to label": segmentation of the lungs, then classification.

The U-Net finds the lungs, all other pixels are set to black, and the classifier reads the picture.
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.epochs import WORDS
from benchmarks.lengths import report_lengths
from benchmarks.measuring import Setting, timed
from benchmarks.models import classifier
from mmfusion import FusionProcessor
from mmfusion.data.toy import word_tokenizer

SIDE = 512
"""The height and width of the pictures."""


def pixels_to_label(setting: Setting) -> dict[str, Any]:
    """Returns the times from grey pictures of 512 x 512 pixels and texts to logits.

    The sides are the classifier alone, the segmentation alone, and the segmentation followed by the
    classifier.
    """
    if importlib.util.find_spec("keras") is None:
        return {"skipped": "keras is not installed"}
    from mmfusion import LungSegmenter, NotAChestXrayWarning

    segmenter = LungSegmenter()
    model = setting.place(classifier(setting.chosen, "concat"))
    processor = FusionProcessor(word_tokenizer(WORDS), model.image_encoder.input_spec)
    draw = np.random.default_rng(0)
    pictures = [_chest(draw) for _ in range(setting.batch)]
    texts = [
        # The length counts the two special tokens, which the tokenizer adds.
        " ".join(draw.choice(WORDS, max(1, length - 2)))
        for length in draw.choice(report_lengths(), setting.batch)
    ]

    def classified(images: list[NDArray[np.uint8]]) -> Tensor:
        inputs = processor(images=images, text=texts).to(setting.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(setting.dtype)
        return model(**inputs).logits

    def lungs() -> list[NDArray[np.uint8]]:
        segmented = segmenter.segment(pictures, batch_size=setting.batch)
        return [
            np.where(lung.mask, picture, np.uint8(0))
            for picture, lung in zip(pictures, segmented, strict=True)
        ]

    sides = {
        "classifier": lambda: classified(pictures),
        "lungs": lungs,
        "lungs, then classifier": lambda: classified(lungs()),
    }
    with warnings.catch_warnings():
        # The pictures are made up, so the segmenter warns that they may be no chest X-rays.
        warnings.simplefilter("ignore", NotAChestXrayWarning)
        return {"seconds": timed(setting, sides), "keras_backend": _backend()}


def _chest(draw: np.random.Generator) -> NDArray[np.uint8]:
    """Returns a picture of two dark ellipses on a bright background, with noise."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    lungs = sum(np.hypot((x - centre) / 0.16, (y - 0.5) / 0.32) < 1 for centre in (0.3, 0.7))
    return (170 - 110 * lungs + draw.normal(0, 12, (SIDE, SIDE))).clip(0, 255).astype(np.uint8)


def _backend() -> str:
    """Returns the name of the backend that Keras runs on."""
    import keras

    return str(keras.backend.backend())
