"""What `train` and `compare` prepare: the labels, the parts, the loss and the list of models."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .support import load_rows

if TYPE_CHECKING:
    import datasets


def load_with_truth(
    manifest: Path,
    label: list[str] | None,
    template: str | None,
    unknown_label: str | None,
    uncertain: str,
    images: list[str] | None = None,
) -> "tuple[datasets.Dataset, datasets.Dataset]":
    """Returns the rows with the labels to train on, and with those to measure on.

    An uncertain label may count as yes or no in training. It is unknown where a model is measured.

    Args:
        manifest: the file.
        label: as for `load_rows`.
        template: as for `load_rows`.
        unknown_label: as for `load_manifest`.
        uncertain: as for `load_manifest`.
        images: as for `load_rows`.
    """
    options: dict[str, Any] = {"template": template, "unknown_label": unknown_label}
    options["images"] = images
    rows = load_rows(manifest, label, uncertain=uncertain, **options)
    return rows, rows if uncertain == "ignore" else load_rows(manifest, label, **options)


def split_rows(
    rows: "datasets.Dataset", truth: "datasets.Dataset", *, seed: int, text: bool
) -> "dict[str, datasets.Dataset]":
    """Returns the parts of the rows; the test part has the labels to measure on.

    Args:
        rows: with the labels to train on.
        truth: the same rows with the labels to measure on; may be `rows` itself.
        seed: of the division.
        text: whether a model sees the texts. Rows with equal texts then stay in one part, because
            a copied text would leak into the test part.
    """
    from ..data.splits import split

    column = "text" if text and "text" in rows.column_names else None
    if truth is rows:
        return dict(split(rows, seed=seed, text=column))
    # Longer than every name of a column, so it is none of them.
    number = max(rows.column_names, key=len) + " row"
    numbered = rows.add_column(number, list(range(len(rows))))
    parts = split(numbered, seed=seed, text=column)
    found = {name: part.remove_columns(number) for name, part in parts.items()}
    return found | {"test": truth.select(parts["test"][number])}


def loss_of(
    rows: "datasets.Dataset", class_weights: str | None, pos_weight: str | None, focal_gamma: float
) -> dict[str, Any]:
    """Returns the options of the loss that the user gave, for `FusionClassifier`.

    Args:
        rows: labelled rows, which the options must fit.
        class_weights: "balanced" or None.
        pos_weight: "balanced" or None.
        focal_gamma: the exponent of the focal loss.

    Raises:
        ValueError: for another word, or if an option does not fit the labels.
    """
    from ..model.configuration import FusionConfig
    from ..model.loss_weights import BALANCED
    from ..model.validation import check_choice
    from ..training.compare_loss import given_loss
    from ..training.label_space import label_options

    for name, word in (("--class-weights", class_weights), ("--pos-weight", pos_weight)):
        if word is not None:
            check_choice(name, word, [BALANCED])
    loss = given_loss(class_weights, pos_weight, focal_gamma)
    # A mistake should not wait for the weights of the encoders.
    FusionConfig(**label_options(rows), **loss)
    return loss


def models_of(
    image: str | None, text: str | None, baselines: bool
) -> dict[str, tuple[str | None, str | None]]:
    """Returns the models in the order of their training: name -> image encoder, text encoder.

    Args:
        image: the name of the image encoder, or None.
        text: the name of the text encoder, or None.
        baselines: whether a model of each modality alone is trained, too.

    Raises:
        ValueError: if both are None.

    Example:
        >>> models_of("resnet18", None, True)
        {'image': ('resnet18', None)}
    """
    if image is None and text is None:
        raise ValueError(
            "--image-encoder or --text-encoder must be given, got neither. Give one or both."
        )
    if image is None or text is None:
        return {"text" if image is None else "image": (image, text)}
    alone: dict[str, tuple[str | None, str | None]] = {"image": (image, None), "text": (None, text)}
    return {"image+text": (image, text), **(alone if baselines else {})}
