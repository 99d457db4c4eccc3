"""Whether a lung mask looks like that of a frontal chest X-ray: its shape against the shapes of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FEATURES = (
    "area of the left-hand lung",
    "area of the right-hand lung",
    "distance of the lungs' centres across",
    "distance of the lungs' centres along",
    "height of the left-hand lung",
    "height of the right-hand lung",
    "share of the heights in common",
    "how full the left-hand lung's box is",
    "how full the right-hand lung's box is",
    "share of doubtful pixels",
)
"""What is measured of a mask; lengths as shares of the picture's sides, areas as shares of the picture."""


def two_largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the mask with its two largest connected parts alone, and their holes filled.

    Parts are connected by sides, not by corners. Of an empty mask nothing is left.

    Shape: [H, W] -> [H, W].

    Example:
        >>> two_largest(np.array([[1, 0, 1, 0, 1], [1, 0, 1, 0, 0]], dtype=bool)).astype(int).tolist()
        [[1, 0, 1, 0, 0], [1, 0, 1, 0, 0]]
    """
    parts, count = ndimage.label(mask)
    if count > 2:
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        mask = np.isin(parts, np.argsort(-sizes, kind="stable")[:2])
    return _filled(mask)


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # By the parts of the background that touch no edge: scipy's own filling grows the background
    # pixel by pixel.
    parts, count = ndimage.label(~mask)
    edges = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    outside = np.zeros(count + 1, dtype=bool)
    outside[edges] = True
    outside[0] = False
    return ~outside[parts]


def features(probability: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Return the `FEATURES` of a probability map, or None where it does not hold two parts of some size, side by side.

    Shape: [H, W] -> [F].
    """
    mask = two_largest(probability > 0.5)
    parts, count = ndimage.label(mask)
    if count != 2:
        return None
    areas = np.bincount(parts.ravel(), minlength=3)[1:] / mask.size
    centres = np.asarray(ndimage.center_of_mass(mask, parts, (1, 2))) / mask.shape
    order = np.argsort(centres[:, 1])
    boxes = ndimage.find_objects(parts)
    rows = [(boxes[i][0].start / mask.shape[0], boxes[i][0].stop / mask.shape[0]) for i in order]
    heights = [stop - start for start, stop in rows]
    common = max(0.0, min(rows[0][1], rows[1][1]) - max(rows[0][0], rows[1][0])) / max(heights)
    full = [areas[i] * mask.size / mask[boxes[i]].size for i in order]
    across, along = (
        centres[order[1], 1] - centres[order[0], 1],
        centres[order[1], 0] - centres[order[0], 0],
    )
    doubtful = float(((probability > 0.1) & (probability < 0.9)).sum() / mask.sum())
    return np.array([*areas[order], across, along, *heights, common, *full, doubtful])


@dataclass(frozen=True)
class Plausibility:
    """The shapes of the masks of many frontal chest X-rays: their mean, their spread, and how far from it one may lie.

    Attributes:
        mean: of the `FEATURES` [F].
        precision: inverse of their covariance [F, F].
        limit: the largest Mahalanobis distance that passes.
    """

    mean: NDArray[np.float64]
    precision: NDArray[np.float64]
    limit: float

    @classmethod
    def fitted(cls, shapes: Sequence[NDArray[np.float64]], share: float) -> Plausibility:
        """Return what the features of many X-rays come to; `share` of them pass."""
        values = np.stack(shapes)
        made = cls(
            values.mean(0), np.asarray(np.linalg.pinv(np.cov(values.T)), dtype=np.float64), 0.0
        )
        return cls(
            made.mean,
            made.precision,
            float(np.quantile([made.distance(shape) for shape in values], share)),
        )

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Plausibility:
        """Return what `to_json` described."""
        return cls(np.asarray(found["mean"]), np.asarray(found["precision"]), float(found["limit"]))

    def to_json(self) -> dict[str, Any]:
        """Return it as lists and numbers."""
        return {
            "features": list(FEATURES),
            "mean": self.mean.tolist(),
            "precision": self.precision.tolist(),
            "limit": self.limit,
        }

    def distance(self, shape: NDArray[np.float64]) -> float:
        """Return the Mahalanobis distance of a shape [F] from the mean."""
        away = shape - self.mean
        return float(np.sqrt(away @ self.precision @ away))
