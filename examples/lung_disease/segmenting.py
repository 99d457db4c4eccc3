"""The study's X-rays reduced to the lungs: black outside the lungs, or cropped to them."""

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
"""The ways to prepare an X-ray: unchanged, black outside the lungs, or cropped to their box."""

MARGIN = 0.05
"""The margin around the box of the lungs in a crop, as a share of the box."""


def segmented(
    samples: datasets.Dataset, way: str, folder: Path
) -> tuple[datasets.Dataset, list[str]]:
    """Returns the samples with segmented pictures, and lines of text with the counts.

    A picture without lungs stays unchanged. A picture that does not look like a frontal chest X-ray
    is segmented like the others. The lines tell the number of both. The new pictures are written to
    `folder` under names that follow from their content.

    Args:
        samples: rows with the column image, a path or None.
        way: one of `WAYS`. "none" returns the same samples and no lines.
        folder: where the new pictures (PNG) are written.

    Raises:
        ValueError: if the way is unknown, or a picture cannot be read.
    """
    if choose(way, WAYS, "segment") == "none":
        return samples, []
    # Imported here, because Keras loads slowly and the study without segmenting does not need it.
    from mmfusion import LungSegmenter, NotAChestXrayWarning

    paths = [path for path in dict.fromkeys(samples["image"]) if path is not None]
    places: dict[str, Path] = {}
    folder.mkdir(parents=True, exist_ok=True)
    without, doubtful = 0, 0
    with warnings.catch_warnings():
        # These pictures are counted below. One warning per picture would hide the other output.
        warnings.simplefilter("ignore", NotAChestXrayWarning)
        for path, lungs in zip(paths, LungSegmenter().segment(paths), strict=True):
            doubtful += not lungs.is_chest_xray
            without += not lungs.mask.any()
            places[path] = (
                _written(lungs_of(load_image(path), lungs, way), folder, way)
                if lungs.mask.any()
                else Path(path)
            )
    new = [None if path is None else places[path].resolve().as_posix() for path in samples["image"]]
    features = samples.features
    notes = [
        f"{len(paths)} pictures segmented ({way}); {doubtful} do not look like a frontal chest "
        f"X-ray to the segmenter, {without} show no lungs to it and stayed as they are",
        "the segmenter learned from the lung masks of 566 Shenzhen X-rays, and from no diagnosis; "
        "of those its masks are better",
    ]
    return samples.remove_columns("image").add_column(
        "image", new, feature=features["image"]
    ), notes


def _written(picture: Image.Image, folder: Path, way: str) -> Path:
    """Returns the path of the picture, which is written unless a file of this content exists."""
    # The name is a hash of the pixels, because stored folds are found by the paths of their
    # pictures. Another segmenter must not find the folds of the old pictures.
    shown = f"{picture.size} {picture.mode}".encode() + picture.tobytes()
    place = folder / f"{way}-{hashlib.sha256(shown).hexdigest()[:20]}.png"
    if not place.is_file():
        # Renamed only when complete, so that a stopped run leaves no broken picture.
        partial = place.with_suffix(".part")
        picture.save(partial, format="PNG")
        os.replace(partial, place)
    return place


def lungs_of(picture: Image.Image, found: LungMask, way: str) -> Image.Image:
    """Returns the grey picture of the lungs.

    Args:
        picture: the X-ray.
        found: the mask of its lungs.
        way: "mask" for black outside the lungs, "crop" for a crop to the box around them.
    """
    grey = picture.convert("L")
    if way == "crop":
        return grey.crop(found.box(MARGIN))
    return Image.fromarray(np.where(found.mask, np.asarray(grey), np.uint8(0)))
