"""The functions behind the commands; heavy imports happen inside them, so that --help is fast."""

import ast
import inspect
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..training.stored import finite
from .errors import check_input_file, check_name
from .errors import user_errors as user_errors
from .options import Train

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    from ..data.augmentation import Augmentation
    from ..model.encoder_image import ImageEncoder
    from ..model.encoder_text import TextEncoder
    from ..model.modeling import FusionClassifier
    from ..model.processing import FusionProcessor
    from ..training.evaluate import Evaluation


def load_rows(
    manifest: Path,
    label: list[str] | None = None,
    *,
    names: list[str] | None = None,
    labelled: bool = True,
    template: str | None = None,
    images: list[str] | None = None,
    table: "pa.Table | None" = None,
    unknown_label: str | None = None,
    uncertain: str = "ignore",
    keeps_absent: bool = False,
) -> "datasets.Dataset":
    """Returns the rows of a manifest, which may lack the column of one modality.

    Args:
        manifest: the file.
        label: the label columns that the user named, or None for the column `label`.
        names: the class names of the model, for one label column.
        labelled: whether labels are read at all.
        template: as for `load_manifest`.
        images: the columns of pictures that the user named, or None for the column `image`.
        table: the content of the manifest. None: it is read here.
        unknown_label: as for `load_manifest`.
        uncertain: as for `load_manifest`.
        keeps_absent: as for `load_present`.
    """
    from ..data.present import load_present

    wanted: Any = "label" if not label else (label[0] if len(label) == 1 else label)
    return load_present(
        manifest,
        template,
        label=wanted if labelled else None,
        label_names=names if isinstance(wanted, str) and names else None,
        images=images or None,
        table=table,
        unknown_label=unknown_label,
        uncertain=uncertain,
        keeps_absent=keeps_absent,
    )


def compose(
    rows: "datasets.Dataset",
    image: str | None,
    text: str | None,
    mapper: dict[str, Any],
    fusion: dict[str, Any],
    what: Train,
    pretrained: bool,
    seed: int,
    template: str | None = None,
    fit: str | None = None,
    long_text: str = "truncate",
    loss: dict[str, Any] | None = None,
) -> "tuple[FusionClassifier, FusionProcessor]":
    """Returns a new classifier for the classes of `rows`, and its processor.

    Args:
        rows: labelled rows; their labels tell the classes and whether the problem is multi-label.
        image: the name of the image encoder, or None for a text-only classifier.
        text: the name of the text encoder, or None for an image-only classifier.
        mapper: the name of the mapper and its options, as `part_options` returns them.
        fusion: the same of the fusion strategy.
        what: the parts of the encoders that are trained.
        pretrained: whether the encoders start from published weights.
        seed: the seed of the weights that are drawn.
        template: of the texts, which the processor keeps.
        fit: as for `FusionProcessor`.
        long_text: as for `FusionProcessor`.
        loss: options of the loss, as `loss_of` returns them.
    """
    from transformers import set_seed

    from ..model.modeling import FusionClassifier
    from ..model.processing import FusionProcessor
    from ..model.processing_text import LONG_TEXT
    from ..model.validation import check_choice
    from ..training.label_space import label_options
    from ..training.rows import most_views

    # The weights are drawn here, before the Trainer sets the seed.
    set_seed(seed)
    check_choice("--long-text", long_text, LONG_TEXT)
    image_encoder, text_encoder = encoders_of(image, text, what, pretrained)
    views = 1 if image_encoder is None else most_views(rows)
    model = FusionClassifier(
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        mapper=mapper,
        fusion=fusion,
        num_views=views,
        **label_options(rows),
        **(loss or {}),
    )
    return model, FusionProcessor.from_encoders(
        image_encoder,
        text_encoder,
        template=template,
        fit=fit if image_encoder is not None else None,
        num_views=views,
        long_text=long_text if text_encoder is not None else "truncate",
    )


def encoders_of(
    image: str | None,
    text: str | None,
    what: Train,
    pretrained: bool,
    image_weights: Path | None = None,
    text_weights: Path | None = None,
) -> "tuple[ImageEncoder | None, TextEncoder | None]":
    """Returns the encoders of the names, with what shall train of them.

    Args:
        image: the name of the image encoder, or None.
        text: the name of the text encoder, or None.
        what: the parts of the encoders that are trained.
        pretrained: whether they start from published weights, where no file is given.
        image_weights: a file with the weights of the image encoder.
        text_weights: a file with the weights of the text encoder.
    """
    from ..model.encoder_image import ImageEncoder
    from ..model.encoder_text import TextEncoder

    quiet_libraries()
    image_encoder = text_encoder = None
    for side, name, weights in (("image", image, image_weights), ("text", text, text_weights)):
        if name is not None:
            check_name(f"--{side}-encoder", name)
        if weights is not None:
            check_input_file(f"--{side}-weights", weights)
    if image is not None:
        start = _start(pretrained, image_weights)
        image_encoder = ImageEncoder(image, pretrained=start, weights=image_weights)
    if text is not None:
        start = _start(pretrained, text_weights)
        text_encoder = TextEncoder(text, pretrained=start, weights=text_weights)
    for encoder in (image_encoder, text_encoder):
        if encoder is not None and what is Train.frozen:
            encoder.freeze()
        elif encoder is not None and what is Train.lora:
            encoder.add_lora()
    return image_encoder, text_encoder


def _start(pretrained: bool, weights: Path | None) -> bool | None:
    """Returns what an encoder takes as `pretrained`: None is yes, or no if a file is given."""
    return None if pretrained or weights is not None else False


def fit_and_score(
    parts_of_model: Any,
    parts: Any,
    arguments: Any,
    patience: int | None,
    cache: Path | None,
    overwrite: bool = False,
    augment: "Augmentation | None" = None,
) -> "Evaluation":
    """Returns the evaluation on the whole test part, after training on the rows that can be used.

    A row can be used if it has a modality of the model. A test row that has none gets the logits of
    the class frequencies in training. So all models are evaluated on the same rows.

    Args:
        parts_of_model: the classifier and its processor.
        parts: the rows of "train", "validation" and "test".
        arguments: the training arguments.
        patience: as for `fit`.
        cache: as for `fit`.
        overwrite: as for `fit`.
        augment: of the pictures of the training rows, or None.
    """
    import numpy as np

    from ..data.labels import label_array
    from ..training.compare_baselines import class_logits
    from ..training.compare_loss import weighted
    from ..training.evaluate import predict, score
    from ..training.fit import fit
    from ..training.rows import has_modality

    model, processor = parts_of_model
    usable = {
        name: np.flatnonzero(has_modality(rows, model.modalities)) for name, rows in parts.items()
    }
    chosen = {name: rows.select(usable[name]) for name, rows in parts.items()}
    fit(
        model,
        processor,
        chosen["train"],
        chosen["validation"],
        arguments=arguments,
        patience=patience,
        cache=cache,
        overwrite=overwrite,
        augment=augment if "image" in model.modalities else None,
    )
    # All rows of the training part count, also those that this model cannot use. Otherwise each
    # model would have other class frequencies.
    prior = weighted(model, class_logits(label_array(parts["train"]), model.config.num_labels))
    # Test rows that the model cannot use keep these logits.
    logits = np.tile(prior, (len(parts["test"]), 1)).astype(np.float32)
    logits[usable["test"]] = predict(
        model, processor, chosen["test"], arguments=arguments, cache=cache
    )
    return score(logits, parts["test"])


def quiet_libraries() -> None:
    """Hides the bars and reports that transformers shows for every file of weights.

    The bars of downloads stay, on a terminal.
    """
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging

    shows_downloads = not are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if shows_downloads and sys.stderr is not None and sys.stderr.isatty():
        enable_progress_bars()


def part_options(option: str, name: str, given: list[str] | None) -> dict[str, Any]:
    """Returns a mapper or a strategy by its name, with the options that the user gave.

    Args:
        option: the name of the command's option, for the message.
        name: of the mapper or the strategy.
        given: such as ["at=8"]. A value is read as Python writes it; another word is a string.

    Raises:
        ValueError: for an option without "=", or one that is given twice.

    Example:
        >>> part_options("--fusion-option", "joint", ["at=8"])
        {'name': 'joint', 'at': 8}
    """
    found: dict[str, Any] = {"name": name}
    for one in given or []:
        key, sign, value = one.partition("=")
        if not sign or not key.isidentifier() or key in found:
            raise ValueError(
                f"{option} must be NAME=VALUE, each name once, got {one!r}. Write {option} at=8."
            )
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = value
    return found


def checked_parts(
    mapper: str, mapper_options: list[str] | None, fusion: str, fusion_options: list[str] | None
) -> dict[str, dict[str, Any]]:
    """Returns the mapper and the strategy with their options.

    Args:
        mapper: its name.
        mapper_options: as for `part_options`.
        fusion: the name of the strategy.
        fusion_options: as for `part_options`.

    Raises:
        ValueError: as for `part_options` and `check_parts`.
    """
    mapping = part_options("--mapper-option", mapper, mapper_options)
    strategy = part_options("--fusion-option", fusion, fusion_options)
    check_parts(mapping, strategy)
    return {"mapper": mapping, "fusion": strategy}


def check_parts(mapper: dict[str, Any], fusion: dict[str, Any]) -> None:
    """Refuses a mapper or a strategy that does not exist, before anything is loaded.

    A classifier of one modality uses neither, and would not notice a misspelt name.

    Args:
        mapper: as `part_options` returns it.
        fusion: as `part_options` returns it.

    Raises:
        ValueError: for an unknown name or option.
    """
    from ..model.fusion import BUILT_IN, make_fusion
    from ..model.mapper import MAPPERS, EmbeddingMapper
    from ..model.validation import check_choice

    check_choice("--fusion", fusion["name"], BUILT_IN)
    make_fusion(**fusion)
    check_choice("--mapper", mapper["name"], MAPPERS)
    known = [name for name in inspect.signature(EmbeddingMapper).parameters if "_dim" not in name]
    for name in mapper.keys() - {"name"}:
        check_choice("--mapper-option", name, [*known[1:], "hidden_dim"])


def given(**options: Any) -> dict[str, Any]:
    """Returns the options that the user gave: those other than None."""
    return {name: value for name, value in options.items() if value is not None}


def to_json(value: Any) -> str:
    """Returns a value as JSON that every program can read: NaN and infinity become null.

    Args:
        value: of dicts, lists, texts and numbers.

    Example:
        >>> print(to_json({"auroc": float("nan")}))
        {
          "auroc": null
        }
    """
    return json.dumps(finite(value), indent=2, allow_nan=False)
