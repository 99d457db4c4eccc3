"""The explanation of one answer: shares of the modalities, a heat map, and weights of words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..model.images import ImageSource, load_image
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from ..model.validation import check_choice
from .explain_gradients import IMAGE_METHODS, Inputs, Scorer, image_heat, steady
from .explain_place import on_picture, visible_box
from .explain_regions import region_words
from .explain_sample import (
    answers_of,
    base_log_odds,
    class_names,
    contributions,
    probabilities_of,
    sample_inputs,
    target_number,
    without,
)
from .explain_text import WORD_METHODS, windows_of, word_weights
from .explain_words import Reading, read_text, written_text
from .explanation import Explanation, HeatMap, Word

CUT = "The text is longer than the model reads: a part of it was cut."


def explain(
    model: FusionClassifier,
    processor: FusionProcessor,
    image: ImageSource | Sequence[ImageSource | None] | None = None,
    text: str | Mapping[str, Any] | None = None,
    *,
    target: str | int | None = None,
    method: str = "auto",
    words: str = "auto",
    prior: Mapping[str, float] | None = None,
) -> Explanation:
    """Returns why a classifier answers as it does for one sample.

    The value of a set of modalities is the log-odds of the target, as the classifier answers with
    these modalities alone. Log-odds add up where two sources are independent. The Shapley value of
    the image is half the sum of what it adds to nothing and what it adds to the text:

        ((v(image) - v()) + (v(image, text) - v(text))) / 2

    The classifier refuses a sample without any modality, so v() is the log-odds of `prior`.

    The model is left as it is: its mode, its parameters' flags, its hooks and the random state.

    Args:
        model: the classifier. It may be frozen, and may have one tower.
        processor: of the classifier.
        image: the picture, as the processor takes it; a list of several views, with None where one
            is missing; or None if there is no picture.
        text: the text, or with a template the values of its columns; None if it is missing.
        target: the class to explain, by name or number. None takes the most probable class.
        method: of the heat map. "grad_cam" for CNNs; "attention_gradient", "attention" and
            "rollout" for ViTs; "integrated_gradients", "gradient_x_input" and "occlusion" for every
            encoder. "occlusion" asks for 256 answers, so it is the slowest.
            "auto" takes Grad-CAM where the features are a map, "attention_gradient" where every
            layer attends over all patches, and integrated gradients elsewhere.
        words: of the weights of words: "gradient_x_input", "integrated_gradients" or "occlusion".
            "auto" takes integrated gradients where the embedding of the tokens is found, and
            occlusion elsewhere.
        prior: class -> probability before anything is known, such as the class frequencies of the
            training data. None: all classes alike, and 1/2 where each class is decided by itself.

    Raises:
        ValueError: if the sample has neither modality, a modality has no tower, the target or a
            method is unknown or does not suit the encoder, or an answer is not finite.
        ImageError: if the picture cannot be read.

    Source: Shapley 1953; as shares of modalities, Parcalabescu and Frank 2023, MM-SHAP (arXiv
    2212.08158), eq. 1 and 2.

    Example:
        >>> from mmfusion.data.toy import word_tokenizer
        >>> from mmfusion.testing import tiny_classifier
        >>> model = tiny_classifier("late")
        >>> spec = model.image_encoder.input_spec
        >>> processor = FusionProcessor(word_tokenizer(["no effusion"]), spec)
        >>> found = explain(model, processor, Image.new("L", (40, 30), 99), "no effusion")
        >>> found.heat[0].values.shape, [word.text for word in found.words]
        ((30, 40), ['no', 'effusion'])
        >>> round(sum(found.contributions.values()) - (found.log_odds - found.base), 4)
        0.0
    """
    check_choice("method", method, IMAGE_METHODS)
    check_choice("words", words, WORD_METHODS)
    written = written_text(text, processor)
    views: list[Any] = list(image) if isinstance(image, (list, tuple)) else [image]
    pictures = [None if view is None else load_image(view) for view in views]
    shown = [picture for picture in pictures if picture is not None]
    with steady(model):
        inputs = sample_inputs(model, processor, pictures if shown else None, written)
        answers = answers_of(model, inputs)
        whole = max(answers, key=len)
        number = target_number(model, target, answers[whole])
        base = base_log_odds(model, number, prior)
        scorer = Scorer(model, number)
        reading, weights, how = Reading("", (), ()), None, None
        if "text" in whole:
            reading = read_text(processor, written, windows_of(inputs))
            weights, how = word_weights(scorer, inputs, reading, words)
        heat: tuple[HeatMap, ...] = ()
        if shown and "image" in whole:
            heat = _heat(scorer, processor, inputs, shown, method, reading)
    added = contributions(model, answers, number, base)
    size = sum(abs(one) for one in added.values())
    return Explanation(
        target=class_names(model)[number],
        probabilities=_named(model, answers[whole]),
        multi_label=model.multi_label,
        log_odds=base + sum(added.values()),
        base=base,
        contributions=added,
        shares={name: abs(one) / size if size else 0.0 for name, one in added.items()},
        without={name: _named(model, without(answers, name)) for name in model.modalities},
        missing=tuple(name for name in model.modalities if name not in whole),
        heat=heat,
        text=reading.text if "text" in whole else None,
        words=_words(reading, weights),
        word_method=how,
        notes=tuple(_notes(model, whole, heat, reading, weights)),
    )


def _named(model: FusionClassifier, logits: Tensor | None) -> dict[str, float]:
    """Returns class -> probability; nothing without an answer."""
    if logits is None:
        return {}
    return dict(zip(class_names(model), probabilities_of(model, logits).tolist(), strict=True))


def _words(reading: Reading, weights: Tensor | None) -> tuple[Word, ...]:
    found = [None] * len(reading.words) if weights is None else weights.tolist()
    return tuple(
        Word(reading.text[start:end], start, end, weight)
        for (start, end), weight in zip(reading.words, found, strict=True)
    )


def _heat(
    scorer: Scorer,
    processor: FusionProcessor,
    inputs: Inputs,
    pictures: Sequence[Image.Image],
    method: str,
    reading: Reading,
) -> tuple[HeatMap, ...]:
    """Returns the heat map of each picture."""
    grids, kind = image_heat(scorer, inputs, method)
    regions: list[Any] = [None] * len(pictures)
    if reading.words:
        regions = region_words(scorer.model, inputs, reading) or regions
    found = []
    for picture, grid, words in zip(pictures, grids, regions, strict=True):
        box = visible_box(processor, picture.size)
        values = on_picture(grid, box, picture.size)
        largest = values.max()
        found.append(
            HeatMap(
                values / largest if largest > 0 else np.zeros_like(values),
                grid.float().cpu().numpy(),
                box,
                kind,
                picture,
                None if words is None else words.float().cpu().numpy(),
            )
        )
    return tuple(found)


def _notes(
    model: FusionClassifier,
    present: Sequence[str],
    heat: Sequence[HeatMap],
    reading: Reading,
    weights: Tensor | None,
) -> Iterator[str]:
    """Yields what a reader of the explanation should know."""
    for name in model.modalities:
        if name not in present:
            yield f"The {name} is missing."
    if reading.is_cut:
        yield CUT
    if reading.is_by_token:
        yield "The tokenizer does not say where its tokens stand: each token counts as a word."
    if "text" in present and weights is None:
        yield "The words have no weights: the embedding of the tokens was not found."
    if any(not one.values.any() for one in heat):
        yield "No part of the picture speaks for the target."
