"""The functions behind the commands; heavy imports happen inside them, so that --help is fast."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..model.validation import described_errors
from ..training.stored import finite
from .errors import check_input_file, check_name
from .errors import user_errors as user_errors
from .options import Train

MOST_TEXT = 2**24
"""The most bytes of the text of one sample. An endless standard input would fill the memory."""

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

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
    )


def compose(
    rows: "datasets.Dataset",
    image: str | None,
    text: str | None,
    mapper: str,
    fusion: str,
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
        mapper: the name of the mapper.
        fusion: the name of the fusion strategy.
        what: the parts of the encoders that are trained.
        pretrained: whether the encoders start from published weights.
        seed: the seed of the weights that are drawn.
        template: of the texts, which the processor keeps.
        fit: as for `FusionProcessor`.
        long_text: as for `FusionProcessor`.
        loss: options of the loss, as `loss_of` returns them.
    """
    from transformers import set_seed

    from ..model.fusion import BUILT_IN
    from ..model.mapper import MAPPERS
    from ..model.modeling import FusionClassifier
    from ..model.processing import FusionProcessor
    from ..model.processing_text import LONG_TEXT
    from ..model.validation import check_choice
    from ..training.label_space import label_options
    from ..training.rows import most_views

    # A classifier of one modality uses neither, and would not notice a misspelt name.
    check_choice("--fusion", fusion, BUILT_IN)
    check_choice("--mapper", mapper, MAPPERS)
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


def given(**options: Any) -> dict[str, Any]:
    """Returns the options that the user gave: those other than None."""
    return {name: value for name, value in options.items() if value is not None}


def report_training(evaluations: "dict[str, Evaluation]", output: Path) -> None:
    """Prints the table of all models and writes their metrics to results.json.

    The table holds accuracy and AUROC of every model, and the difference in AUROC between the first
    model and each of the others.

    Args:
        evaluations: the evaluations by name; the first is that of the model that the user asked
            for.
        output: the folder for results.json.
    """
    from ..metrics.bootstrap import paired_bootstrap
    from ..metrics.functional import auroc

    # On several processes only the first one writes.
    if int(os.environ.get("RANK", "0")):
        return
    fused = next(iter(evaluations.values()))
    table = Table(
        "model",
        "accuracy",
        "AUROC",
        "AUROC of the fused model minus this one",
        title="test part, 95 % intervals",
    )
    results: dict[str, Any] = {}
    for name, result in evaluations.items():
        difference = None
        # The bootstrap is paired: both models are resampled with the same rows.
        if result is not fused:
            difference = paired_bootstrap(
                auroc, fused.logits, result.logits, fused.labels, groups=fused.groups
            )
        results[name] = result.to_dict() | (
            {} if difference is None else {"fused_minus_this": vars(difference)}
        )
        table.add_row(
            name,
            str(result.metrics["accuracy"]),
            str(result.metrics["auroc"]),
            str(difference or ""),
        )
    (output / "results.json").write_text(to_json(results), encoding="utf-8")
    Console().print(table)


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


def check_model(name: str) -> None:
    """Refuses a name that can be no model, before anything is loaded.

    Args:
        name: a folder or a hub name.

    Raises:
        ValueError: saying what is there instead.
    """
    check_name("model", name)
    # A hub name has a slash. Without one, the name can only be a folder with a typing mistake.
    if not Path(name).is_dir() and "/" not in name.strip("/."):
        raise ValueError(
            "model must be a folder that holds a model or a hub name, "
            f"got {name!r}, which does not exist."
        )


def open_model(name: str) -> "tuple[FusionClassifier, FusionProcessor]":
    """Returns the classifier and the processor in a folder or on the hub."""
    check_model(name)
    is_folder = Path(name).is_dir()
    from ..model.modeling import FusionClassifier
    from ..model.processing import FusionProcessor

    # The readers of damaged files have many classes of errors.
    whole = described_errors(f"model {name!r}", "have whole files", "Copy or train it anew.")
    try:
        with whole:
            return FusionClassifier.from_pretrained(name), FusionProcessor.from_pretrained(name)
    except OSError as error:
        where = (
            "it cannot be read" if is_folder else "there is no such folder, nor can a hub give it"
        )
        raise ValueError(
            f"model must be a folder that holds a model or a hub name, got {name!r}: {where} "
            f"({str(error).partition(chr(10))[0]})."
        ) from error


def read_sample(image: list[Path] | None, text: Path | None) -> str | None:
    """Returns the text of one sample, after its files were checked.

    Args:
        image: the files of its pictures, or None.
        text: the file of its text, or None.
    """
    for file in image or []:
        check_input_file("--image", file)
    return None if text is None else read_text(text)


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file, or of standard input if the path is "-"."""
    if str(path) == "-":
        # Python has no standard input if it was closed. A test may put a text in its place.
        if sys.stdin is None or sys.stdin.closed:
            raise ValueError("--text must be a file if standard input is closed, got '-'.")
        content = sys.stdin.buffer.read(MOST_TEXT + 1)
    else:
        check_input_file("--text", path)
        with path.open("rb") as file:
            content = file.read(MOST_TEXT + 1)
    if len(content) > MOST_TEXT:
        raise ValueError(
            f"--text must have at most {MOST_TEXT} bytes, got more from {str(path)!r}. "
            "Give the text of one sample."
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--text must be UTF-8, got {str(path)!r}, which is not at byte {error.start}."
        ) from error
    return text.replace("\r\n", "\n")
