"""The plausibility of a lung mask: its shape is compared with those of many chest X-rays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

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
"""The measurements of a mask.

Lengths are shares of the picture's sides, areas are shares of the picture.
"""


def two_largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns the two largest connected parts of the mask, with their holes filled.

    Pixels are connected by sides, not by corners. An empty mask stays empty.

    Args:
        mask: True where the lungs are.

    Shape:
        [H, W] -> [H, W].

    Example:
        >>> mask = np.array([[1, 0, 1, 0, 1], [1, 0, 1, 0, 0]], dtype=bool)
        >>> two_largest(mask).astype(int).tolist()
        [[1, 0, 1, 0, 0], [1, 0, 1, 0, 0]]
    """
    parts, count = ndimage.label(mask)
    if count > 2:
        sizes = np.bincount(parts.ravel())
        # Part 0 is the background.
        sizes[0] = 0
        mask = np.isin(parts, np.argsort(-sizes, kind="stable")[:2])
    return _filled(mask)


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns the mask with its holes filled."""
    # A hole is a part of the background that touches no edge. This is faster than scipy's own
    # function, which grows the background pixel by pixel.
    parts, count = ndimage.label(~mask)
    edges = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    outside = np.zeros(count + 1, dtype=bool)
    outside[edges] = True
    outside[0] = False
    return ~outside[parts]


def features(probability: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Returns the `FEATURES` of a probability map, or None if its mask has not exactly two parts.

    Args:
        probability: the probability of lung for each pixel.

    Shape:
        [H, W] -> [F].
    """
    mask = two_largest(probability > 0.5)
    parts, count = ndimage.label(mask)
    if count != 2:
        return None
    areas = np.bincount(parts.ravel(), minlength=3)[1:] / mask.size
    centres = np.asarray(ndimage.center_of_mass(mask, parts, (1, 2))) / mask.shape
    # scipy numbers the parts by their first row, but the features need the left-hand lung first.
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
    # Divided by the area of the lungs, so that the size of the lungs in the picture has no effect.
    doubtful = float(((probability > 0.1) & (probability < 0.9)).sum() / mask.sum())
    return np.array([*areas[order], across, along, *heights, common, *full, doubtful])


@final
@dataclass(frozen=True)
class Plausibility:
    """The distribution of the mask shapes of many frontal chest X-rays.

    Attributes:
        mean: the mean of the `FEATURES` [F].
        precision: the inverse of their covariance [F, F].
        limit: the largest Mahalanobis distance from the mean that is accepted.
    """

    mean: NDArray[np.float64]
    precision: NDArray[np.float64]
    limit: float

    @classmethod
    def fitted(cls, shapes: Sequence[NDArray[np.float64]], share: float) -> Plausibility:
        """Returns the distribution of the features of many X-rays.

        Args:
            shapes: the features [F] of each X-ray.
            share: the share of these X-rays that the limit accepts, in [0, 1].
        """
        values = np.stack(shapes)
        # The pseudo-inverse exists even if a feature is constant.
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
        """Returns the distribution that `to_json` described."""
        return cls(np.asarray(found["mean"]), np.asarray(found["precision"]), float(found["limit"]))

    def to_json(self) -> dict[str, Any]:
        """Returns the distribution as lists and numbers, which JSON can hold."""
        return {
            "features": list(FEATURES),
            "mean": self.mean.tolist(),
            "precision": self.precision.tolist(),
            "limit": self.limit,
        }

    def distance(self, shape: NDArray[np.float64]) -> float:
        """Returns the Mahalanobis distance of a shape [F] from the mean."""
        away = shape - self.mean
        return float(np.sqrt(away @ self.precision @ away))
