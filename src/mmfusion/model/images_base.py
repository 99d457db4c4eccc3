"""The error for pictures that cannot be read, and the checks and scaling that all sources share.

Only the standard library and numpy are imported here, because this file travels with every model
that is pushed to a hub.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import NDArray

RENEW = "Fetch or export it again."
"""The advice for files that are damaged."""


class ImageError(ValueError):
    """A picture that cannot be read. The message names it and says what is wrong and what to do."""


def image_error(name: str, rule: str, got: str, advice: str) -> ImageError:
    """Returns the error "image `name` must be `rule`, got `got`. `advice`".

    Args:
        name: the picture.
        rule: what a picture must be.
        got: what this picture is.
        advice: what the user can do.
    """
    return ImageError(f"image {name} must be {rule}, got {got}. {advice}")


@contextmanager
def explained(name: str, rule: str, advice: str) -> Iterator[None]:
    """Turns every error of a decoder into an ImageError that names the picture.

    Args:
        name: the picture.
        rule: what a picture must be.
        advice: what the user can do.
    """
    try:
        yield
    except ImageError:
        raise
    # Damaged files make decoders raise errors of any class.
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")[:300] or "no reason"
        raise image_error(name, rule, f"{type(error).__name__} ({reason})", advice) from error


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Raises an ImageError if a picture has no pixels or too many.

    Args:
        width: the width in pixels.
        height: the height in pixels.
        name: the picture.
        max_pixels: the largest number of pixels that is allowed.
    """
    if width < 1 or height < 1:
        raise image_error(name, "at least 1x1 pixel", f"{width}x{height}", RENEW)
    if width * height > max_pixels:
        advice = "Pass a larger max_pixels if it is meant to be so large."
        raise image_error(
            name, f"at most {max_pixels} pixels", f"{width}x{height} = {width * height}", advice
        )


def check_finite(values: NDArray[Any], name: str) -> None:
    """Raises an ImageError if a value is NaN or infinite.

    Args:
        values: an array of any shape.
        name: the picture, for the error.
    """
    nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    if nan or infinite:
        got = f"{nan} NaN and {infinite} infinite of {values.size} values"
        raise image_error(
            name, "finite everywhere", got, "Replace them, for example with numpy.nan_to_num."
        )


def scaled(
    values: NDArray[Any], low: SupportsFloat, high: SupportsFloat, name: str
) -> NDArray[np.uint8]:
    """Returns values as bytes, so that `low` becomes 0 and `high` becomes 255.

    Values outside become 0 or 255. If `low` equals `high`, everything becomes 0.

    Args:
        values: an array of any shape.
        low: the start of the range.
        high: the end of the range.
        name: the picture, for the error.
    """
    check_finite(values, name)
    start, end = float(low), float(high)
    if start == end:
        return np.zeros(values.shape, dtype=np.uint8)
    # The difference of two large floats can overflow to infinity.
    if not np.isfinite(end - start):
        raise image_error(
            name, "of a range that a float can hold", f"{start} to {end}", "Rescale it first."
        )
    share = (values.astype(np.float64) - start) / (end - start)
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
