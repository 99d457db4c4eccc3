"""The study's X-rays with everything but the lungs taken away: blacked out, or cut off."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import numpy as np
from manifests import choose
from PIL import Image

from mmfusion import load_image

if TYPE_CHECKING:
    from mmfusion import LungMask

WAYS = ("none", "mask", "crop")
"""What may be done to an X-ray: nothing; black outside the lungs; cut to the box around them."""

MARGIN = 0.05
"""What is left around the lungs when they are cut out, as a share of their box."""


def segmented(
    samples: datasets.Dataset, way: str, folder: Path
) -> tuple[datasets.Dataset, list[str]]:
    """Returns the samples with their pictures segmented, and lines that say how that went.

    A picture in which no lung is found stays as it is; one that does not look like a frontal chest
    X-ray is segmented all the same. Both are counted. The new pictures are written to `folder`
    under names that follow from what they show.

    Args:
        samples: rows with the column image (paths; None where there is none).
        way: one of `WAYS`; "none" returns the samples themselves.
        folder: for the new pictures (PNG).

    Raises:
        ValueError: if the way is unknown, or a picture cannot be read.
    """
    if choose(way, WAYS, "segment") == "none":
        return samples, []
    # Here: without segmenting the study needs no Keras, and does not wait for it.
    from mmfusion import LungSegmenter, NotAChestXrayWarning

    paths = [path for path in dict.fromkeys(samples["image"]) if path is not None]
    places: dict[str, Path] = {}
    folder.mkdir(parents=True, exist_ok=True)
    without, doubtful = 0, 0
    with warnings.catch_warnings():
        # Each is counted below, and a line a picture would drown the study's own.
        warnings.simplefilter("ignore", NotAChestXrayWarning)
        for path, found in zip(paths, LungSegmenter().segment(paths), strict=True):
            doubtful += not found.is_chest_xray
            without += not found.mask.any()
            places[path] = (
                _written(lungs_of(load_image(path), found, way), folder, way)
                if found.mask.any()
                else Path(path)
            )
    new = [None if path is None else places[path].resolve().as_posix() for path in samples["image"]]
    features = samples.features
    notes = [
        f"{len(paths)} pictures segmented ({way}); {doubtful} do not look like a frontal chest X-ray to the segmenter, "
        f"{without} show no lungs to it and stayed as they are",
        "the segmenter learned from the lung masks of 566 Shenzhen X-rays, and from no diagnosis; of those its masks are better",
    ]
    return samples.remove_columns("image").add_column(
        "image", new, feature=features["image"]
    ), notes


def _written(picture: Image.Image, folder: Path, way: str) -> Path:
    shown = f"{picture.size} {picture.mode}".encode() + picture.tobytes()
    place = folder / f"{way}-{hashlib.sha256(shown).hexdigest()[:20]}.png"
    if not place.is_file():
        partial = place.with_suffix(".part")
        picture.save(partial, format="PNG")
        os.replace(partial, place)
    return place


def lungs_of(picture: Image.Image, found: LungMask, way: str) -> Image.Image:
    """Returns the picture in grey, black outside the lungs ("mask"), or cut to the box around them ("crop")."""
    grey = picture.convert("L")
    if way == "crop":
        return grey.crop(found.box(MARGIN))
    return Image.fromarray(np.where(found.mask, np.asarray(grey), np.uint8(0)))
