"""The study's X-rays with everything but the lungs taken away: blacked out, or cut off."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

import datasets
import numpy as np
from manifests import choose
from PIL import Image

from mmfusion import LungMask, LungSegmenter, NotAChestXrayWarning, load_image

WAYS = ("none", "mask", "crop")
"""What may be done to an X-ray: nothing; black outside the lungs; cut to the box around them."""

MARGIN = 0.05
"""What is left around the lungs when they are cut out, as a share of their box."""


def segmented(samples: datasets.Dataset, way: str, folder: Path) -> tuple[datasets.Dataset, list[str]]:
    """Returns the samples with their pictures segmented, and lines that say how that went.

    A picture in which no lung is found stays as it is; one that does not look like a frontal chest X-ray is segmented all the
    same. Both are counted. The new pictures are kept in `folder`; what is there already is not made again.

    Args:
        samples: rows with the column image (paths; None where there is none).
        way: one of `WAYS`; "none" returns the samples themselves.
        folder: for the new pictures (PNG).

    Raises:
        ValueError: if the way is unknown, or a picture cannot be read.
    """
    if choose(way, WAYS, "segment") == "none":
        return samples, []
    segmenter = LungSegmenter()
    weights = hashlib.sha256(b"".join(part.tobytes() for part in segmenter.model.get_weights())).digest()
    paths = [path for path in dict.fromkeys(samples["image"]) if path is not None]
    places = {path: folder / f"{way}-{hashlib.sha256(weights + Path(path).read_bytes()).hexdigest()[:20]}.png" for path in paths}
    folder.mkdir(parents=True, exist_ok=True)
    without, doubtful = 0, 0
    with warnings.catch_warnings():
        # Each is counted below, and a line a picture would drown the study's own.
        warnings.simplefilter("ignore", NotAChestXrayWarning)
        for path, found in zip(paths, segmenter.segment(paths), strict=True):
            doubtful += not found.is_chest_xray
            if not found.mask.any():
                without += 1
                places[path] = Path(path)
            elif not places[path].is_file():
                partial = places[path].with_suffix(".part")
                lungs_of(load_image(path), found, way).save(partial, format="PNG")
                os.replace(partial, places[path])
    new = [None if path is None else places[path].resolve().as_posix() for path in samples["image"]]
    features = samples.features
    notes = [
        f"{len(paths)} pictures segmented ({way}); {doubtful} do not look like a frontal chest X-ray to the segmenter, "
        f"{without} show no lungs to it and stayed as they are"
    ]
    return samples.remove_columns("image").add_column("image", new, feature=features["image"]), notes


def lungs_of(picture: Image.Image, found: LungMask, way: str) -> Image.Image:
    """Returns the picture in grey, black outside the lungs ("mask"), or cut to the box around them ("crop")."""
    grey = picture.convert("L")
    if way == "crop":
        return grey.crop(found.box(MARGIN))
    return Image.fromarray(np.where(found.mask, np.asarray(grey), np.uint8(0)))
