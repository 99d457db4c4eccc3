"""The normalisation of brightness, which makes the pictures of all detectors similar."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def standardized(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Returns the picture with its 1st and 99th percentiles stretched to 0 and 1.

    Values below and above are clipped. Therefore white letters or a black border that cover less
    than 1 % of the picture do not change how dark the lungs look. A picture of one value becomes 0
    everywhere.

    Args:
        pixels: grey values of any real dtype and range.

    Shape:
        [H, W] -> [H, W].

    Example:
        >>> standardized(np.arange(101).reshape(1, 101))[0, [0, 50, 100]].tolist()
        [0.0, 0.5, 1.0]
    """
    values = pixels.astype(np.float32)
    low, high = (float(value) for value in np.percentile(values, (1, 99)))
    # The lower limit of the divisor avoids a division by 0 for a picture of one value.
    return np.clip((values - low) / max(high - low, 1e-6), 0, 1)
