"""What one client may ask of a server."""

from dataclasses import dataclass, fields
from typing import final


@final
@dataclass(frozen=True)
class Limits:
    """What one client may ask of a server.

    Attributes:
        most_bytes: of the body of a request.
        most_pixels: of a picture, width x height.
        most_characters: of a text.
        seconds: from the arrival of a request to its answer.
        most_waiting: requests at the same time. A further one is turned away at once, before its
            body is read. So the memory holds at most `most_waiting * most_bytes` of bodies.

    Raises:
        ValueError: if a number is not above 0.

    Example:
        >>> Limits(seconds=2.5).seconds
        2.5
    """

    most_bytes: int = 16 * 2**20
    most_pixels: int = 50_000_000
    most_characters: int = 100_000
    seconds: float = 30.0
    most_waiting: int = 128

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < float("inf"):
                raise ValueError(
                    f"{field.name} must be a number above 0, got {value!r}. Leave it out."
                )
