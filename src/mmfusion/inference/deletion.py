"""Deletion curves: how the answer falls when what an explanation points at is taken away."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ..model.images import ImageSource
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from ..model.validation import check_choice
from .explain import explain
from .explain_gradients import Inputs, steady
from .explain_sample import class_names, probabilities_of, sample_inputs
from .explain_text import windows_of, without_words
from .explain_words import read_text, written_text
from .explanation import Explanation

FILLS = ("blur", "mean")
"""What stands in the place of deleted parts of a picture."""

_ROWS = 16

Curve = Callable[[NDArray[np.bool_]], NDArray[np.float64]]
"""(which parts are deleted [K, parts]) -> the probabilities of the target [K]."""


@final
@dataclass(frozen=True, eq=False)
class DeletionCurve:
    """The probability of a class while parts of a sample are deleted.

    Attributes:
        over: "image" or "words".
        target: the class.
        fractions: the share of the parts that is deleted at each step, from 0 to 1 [S].
        top: the probability with the most important parts deleted first [S].
        random: the same in random orders [orders, S].
        area: the area under `top`. Lower is better: the explanation found what decides.
        random_area: the mean of the areas under the random curves.
    """

    over: str
    target: str
    fractions: NDArray[np.float64]
    top: NDArray[np.float64]
    random: NDArray[np.float64]
    area: float
    random_area: float

    @property
    def gain(self) -> float:
        """The part of the random area that the explanation saves: 1 - area / random_area."""
        return 1 - self.area / self.random_area


def deletion_curve(
    model: FusionClassifier,
    processor: FusionProcessor,
    image: ImageSource | Sequence[ImageSource | None] | None = None,
    text: str | Mapping[str, Any] | None = None,
    *,
    over: str,
    explanation: Explanation | None = None,
    target: str | int | None = None,
    steps: int = 10,
    orders: int = 5,
    cells: int = 14,
    fill: str = "blur",
    seed: int = 0,
) -> DeletionCurve:
    """Returns how the probability of a class falls while pixels or words are deleted.

    The parts that an explanation calls important are deleted first. If it is right, the probability
    falls faster than with the same parts deleted in random order. Pictures are deleted cell by
    cell, before the processor sees them. A word is deleted by leaving its tokens out. The other
    modality stays.

    Args:
        model: the classifier.
        processor: of the classifier.
        image: as for `explain`.
        text: as for `explain`.
        over: what is deleted, "image" or "words".
        explanation: of this sample. None: it is made with the defaults of `explain`.
        target: as for `explain`, where there is no explanation.
        steps: the number of steps from nothing to all, at least 1.
        orders: the number of random orders, at least 1.
        cells: the number of cells along each side of the picture, at least 1.
        fill: what replaces a cell: "blur" (the picture after a Gaussian blur of a tenth of its
            longer side) or "mean" (its mean colour).
        seed: of the random orders.

    Raises:
        ValueError: as `explain` raises it, if the sample lacks what is to be deleted, or an option
            is not allowed.

    Source: Petsiuk et al. 2018, RISE (arXiv 1806.07421), section 4.2, where pixels become grey; the
    blur is that of its insertion metric.

    Example:
        >>> from mmfusion.data.toy import word_tokenizer
        >>> from mmfusion.testing import tiny_classifier
        >>> model = tiny_classifier(image=None)
        >>> processor = FusionProcessor(word_tokenizer(["no effusion"]))
        >>> curve = deletion_curve(model, processor, text="no effusion", over="words", steps=2)
        >>> curve.fractions.tolist(), curve.random.shape
        ([0.0, 0.5, 1.0], (5, 3))
    """
    check_choice("over", over, ["image", "words"])
    check_choice("fill", fill, FILLS)
    for name, number in (("steps", steps), ("orders", orders), ("cells", cells)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number!r}.")
    found = explanation
    if found is None:
        found = explain(model, processor, image, text, target=target)
    with steady(model), torch.no_grad():
        if over == "image":
            scores, curve = _over_pictures(model, processor, found, image, text, cells, fill)
        else:
            scores, curve = _over_words(model, processor, found, image, text)
        draw = np.random.default_rng(seed)
        # A stable sort: parts of equal importance keep their order.
        ranked = [np.argsort(-scores, kind="stable")]
        ranked += [draw.permutation(len(scores)) for _ in range(orders)]
        counts = np.rint(np.linspace(0, len(scores), steps + 1)).astype(int)
        removed = np.zeros((len(ranked), len(counts), len(scores)), dtype=bool)
        for row, order in enumerate(ranked):
            for column, count in enumerate(counts):
                removed[row, column, order[:count]] = True
        # All orders begin and end alike, and short texts have few steps.
        rows, back = np.unique(removed.reshape(-1, len(scores)), axis=0, return_inverse=True)
        top, *random = curve(rows)[back.reshape(-1)].reshape(len(ranked), -1)
    fractions = counts / len(scores)
    areas = [float(np.trapezoid(line, fractions)) for line in (top, *random)]
    return DeletionCurve(
        over, found.target, fractions, top, np.stack(random), areas[0], float(np.mean(areas[1:]))
    )


def _over_pictures(
    model: FusionClassifier,
    processor: FusionProcessor,
    found: Explanation,
    image: Any,
    text: Any,
    cells: int,
    fill: str,
) -> tuple[NDArray[np.float64], Curve]:
    """Returns the heat of each cell of all pictures, and the probabilities with some deleted."""
    if not found.heat:
        raise ValueError(
            "image must be given to delete its pixels, got None. Delete words instead."
        )
    views = _views(found, image)
    shown = [place for place, view in enumerate(views) if view is not None]
    scores, cells_of, fillers, first = [], [], [], 0
    for heat in found.heat:
        places = _cell_of_pixels(heat.picture.size, cells)
        sums = np.bincount(places.ravel(), weights=heat.values.ravel())
        scores.append(sums / np.bincount(places.ravel()))
        cells_of.append(places + first)
        fillers.append(_filler(heat.picture, fill))
        first += len(sums)

    def without(gone: NDArray[np.bool_]) -> list[Any]:
        left = list(views)
        pairs = zip(shown, found.heat, cells_of, fillers, strict=True)
        for place, heat, places, filler in pairs:
            left[place] = _composed(heat.picture, filler, gone[places])
        return left

    def probabilities(removed: NDArray[np.bool_]) -> NDArray[np.float64]:
        answers = []
        for start in range(0, len(removed), _ROWS):
            rows = [
                sample_inputs(model, processor, without(gone), text)
                for gone in removed[start : start + _ROWS]
            ]
            answers.append(_probabilities(model, _stacked(rows), found.target))
        return np.concatenate(answers)

    return np.concatenate(scores), probabilities


def _views(found: Explanation, image: Any) -> list[Any]:
    """Returns the pictures of the sample that was explained, None where a view is missing."""
    if image is None:
        return [heat.picture for heat in found.heat]
    views = list(image) if isinstance(image, (list, tuple)) else [image]
    shown = iter(found.heat)
    return [None if view is None else next(shown).picture for view in views]


def _cell_of_pixels(size: tuple[int, int], cells: int) -> NDArray[np.int64]:
    """Returns the number of the cell of each pixel [H, W]."""
    down, across = ((np.arange(side) * min(cells, *size)) // side for side in (size[1], size[0]))
    return down[:, None] * min(cells, *size) + across[None, :]


def _filler(picture: Image.Image, fill: str) -> Image.Image:
    if fill == "blur":
        return picture.filter(ImageFilter.GaussianBlur(max(picture.size) / 10))
    mean = np.asarray(picture).reshape(-1, len(picture.getbands())).mean(0)
    colour = tuple(round(one) for one in mean)
    return Image.new(picture.mode, picture.size, colour if len(colour) > 1 else colour[0])


def _composed(picture: Image.Image, filler: Image.Image, gone: NDArray[np.bool_]) -> Image.Image:
    """Returns the picture with the filler where it is deleted."""
    return Image.composite(filler, picture, Image.fromarray(gone.astype(np.uint8) * 255))


def _stacked(rows: Sequence[Inputs]) -> Inputs:
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def _over_words(
    model: FusionClassifier,
    processor: FusionProcessor,
    found: Explanation,
    image: Any,
    text: Any,
) -> tuple[NDArray[np.float64], Curve]:
    """Returns the weight of each word, and the probabilities with some words deleted."""
    if not found.words:
        raise ValueError("text must be given to delete its words, got none. Delete pixels instead.")
    if any(word.weight is None for word in found.words):
        raise ValueError(
            "explanation must give each word a weight, got none. Pass words='occlusion' to explain."
        )
    inputs = sample_inputs(model, processor, _views(found, image) if found.heat else None, text)
    reading = read_text(processor, written_text(text, processor), windows_of(inputs))

    def probabilities(removed: NDArray[np.bool_]) -> NDArray[np.float64]:
        kept = torch.from_numpy(~removed)
        # Where no token and no picture are left, there is no answer but the prior.
        empty = torch.zeros(len(kept), dtype=torch.bool)
        if not found.heat and -1 not in reading.owners:
            empty = ~kept.any(1)
        prior = 1 / (1 + np.exp(-found.base))
        answers = np.full(len(kept), prior)
        rows = (~empty).nonzero().flatten()
        for part in rows.split(_ROWS):
            batch = without_words(inputs, reading, kept[part])
            answers[part.numpy()] = _probabilities(model, batch, found.target)
        return answers

    return np.array([word.weight for word in found.words], dtype=float), probabilities


def _probabilities(model: FusionClassifier, batch: Inputs, target: str) -> NDArray[np.float64]:
    number = class_names(model).index(target)
    answers = probabilities_of(model, model(**batch).logits)[:, number]
    return answers.double().cpu().numpy()
