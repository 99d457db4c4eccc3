"""Explanation: why a classifier answers as it does for one sample."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .explain_html import page
from .explain_place import Box


@final
@dataclass(frozen=True, eq=False)
class HeatMap:
    """What speaks for the target on one picture.

    Attributes:
        values: one number from 0 to 1 for each pixel of the picture [H, W]; the largest is 1. All
            are 0 if nothing speaks for the target. What the model does not see is 0.
        grid: the map before it was laid over the picture [h, w], in log-odds times a factor that
            depends on the method.
        box: where the grid lies, in pixels of the picture.
        method: how it was made.
        picture: the picture, 8 bits a channel.
        words: how much each region attends to each word [words, h', w'], or None.
    """

    values: NDArray[np.float32]
    grid: NDArray[np.float32]
    box: Box
    method: str
    picture: Image.Image
    words: NDArray[np.float32] | None = None


@final
@dataclass(frozen=True)
class Word:
    """A word of the text.

    Attributes:
        text: the word.
        start: its first character in the text.
        end: the character behind its last.
        weight: what it adds to the log-odds of the target; below 0 it speaks against it. None if
            the method gives none.
    """

    text: str
    start: int
    end: int
    weight: float | None


@final
@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a classifier answers as it does for one sample.

    An explanation describes the classifier, not the patient. It proves no cause.

    Attributes:
        target: the class that is explained.
        probabilities: class -> probability. With several labels they do not sum to 1.
        multi_label: whether each class is decided by itself.
        log_odds: log p - log(1 - p) of the target.
        base: the log-odds of the target before anything is known of the sample.
        contributions: modality -> Shapley value, what it adds to the log-odds. Together they lead
            from `base` to `log_odds`.
        shares: modality -> its part of the contributions, from 0 to 1, without their signs.
        without: modality -> the probabilities without it; empty where nothing would be left.
        missing: the modalities that the sample lacks.
        heat: one map for each picture.
        text: the text as it was read, or None.
        words: the words that were read, in their order.
        word_method: how their weights were made, or None without a text.
        notes: what a reader should know, such as that the text was cut.
    """

    target: str
    probabilities: Mapping[str, float]
    multi_label: bool
    log_odds: float
    base: float
    contributions: Mapping[str, float]
    shares: Mapping[str, float]
    without: Mapping[str, Mapping[str, float]]
    missing: tuple[str, ...]
    heat: tuple[HeatMap, ...]
    text: str | None
    words: tuple[Word, ...]
    word_method: str | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the explanation as JSON can hold it; heat maps as their grids."""
        plain = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("heat", "words")
        }
        heat = [
            {
                "method": one.method,
                "grid": one.grid.tolist(),
                "box": list(one.box),
                "size": list(one.picture.size),
                "words": None if one.words is None else one.words.tolist(),
            }
            for one in self.heat
        ]
        words = [vars(word) for word in self.words]
        return (
            plain
            | {"missing": list(self.missing), "notes": list(self.notes)}
            | {
                "heat": heat,
                "words": words,
            }
        )

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Writes one page that needs no other file and no network, and returns its path.

        Args:
            path: the file.
        """
        path = Path(path)
        path.write_text(page(self), encoding="utf-8")
        return path
