"""What `train` and `compare` prepare: the labels, the parts, the loss and the list of models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import check_output_folders
from .support import load_rows

PARTS = ("train", "validation", "test")
PART_WORDS = {name: name for name in PARTS} | {"val": "validation", "valid": "validation"}
PART_WORDS |= {"dev": "validation", "training": "train", "testing": "test"}
"""Words of a split column -> the part that they name."""

Columns = tuple[list[str] | None, str | None, str | None, str, list[str] | None]
"""The arguments of `load_with_truth` behind the file."""

if TYPE_CHECKING:
    import datasets

    from ..data.augmentation import Augmentation


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


def load_parts(
    manifest: Path,
    validation: Path | None,
    test: Path | None,
    split_column: str | None,
    columns: Columns,
    *,
    seed: int,
    text: bool,
) -> "dict[str, datasets.Dataset]":
    """Returns the rows of "train", "validation" and "test".

    The user divides them by files or by a column. Otherwise `split` does.

    Args:
        manifest: the file of the samples, or of the training rows alone.
        validation: the file of the validation rows, or None.
        test: the file of the test rows, or None.
        split_column: the column that names the part of each row, or None.
        columns: the other arguments of `load_with_truth`.
        seed: as for `split_rows`.
        text: as for `split_rows`.

    Raises:
        ValueError: if only one of the files is given, a part is empty or has another name, or a
            patient is in two parts.
    """
    if (validation is None) != (test is None) or (test is not None and split_column is not None):
        raise ValueError(
            "--validation and --test must be given together, and without --split-column."
        )
    if validation is not None and test is not None:
        parts = _from_files({"train": manifest, "validation": validation, "test": test}, columns)
    else:
        rows, truth = load_with_truth(manifest, *columns)
        if split_column is None:
            return split_rows(rows, truth, seed=seed, text=text)
        parts = _by_column(rows, truth, split_column)
    _refuse_shared_groups(parts)
    return parts


def load_divided(
    manifest: Path,
    validation: Path | None,
    test: Path | None,
    split_column: str | None,
    folds: int | None,
    columns: Columns,
    *,
    models: Mapping[str, tuple[str | None, str | None]],
    seed: int,
) -> "list[dict[str, datasets.Dataset]]":
    """Returns the rows of "train", "validation" and "test", once or for each test fold.

    Args:
        manifest: as for `load_parts`.
        validation: as for `load_parts`.
        test: as for `load_parts`.
        split_column: as for `load_parts`.
        folds: the number of folds; each row is a test row of one. None: one division.
        columns: as for `load_parts`.
        models: those that will be trained, as `models_of` returns them.
        seed: as for `split_rows`.

    Raises:
        ValueError: as for `load_parts`, if folds and another division are asked for, or if a part
            has no row for one of the models.
    """
    text = any(name is not None for _, name in models.values())
    if folds is None:
        files = (manifest, validation, test)
        divided = [load_parts(*files, split_column, columns, seed=seed, text=text)]
    elif validation is not None or test is not None or split_column is not None:
        raise ValueError("--folds must be given without --validation, --test and --split-column.")
    else:
        divided = _load_folds(manifest, folds, columns, seed=seed, text=text)
    _check_rows(divided, models)
    return divided


def _load_folds(
    manifest: Path, folds: int, columns: Columns, *, seed: int, text: bool
) -> "list[dict[str, datasets.Dataset]]":
    import datasets

    from ..training.compare_folds import parts_of

    rows, truth = load_with_truth(manifest, *columns)
    # datasets shows a bar for each part that it copies.
    datasets.disable_progress_bars()
    column = "text" if text and "text" in rows.column_names else None
    return [
        {
            "train": rows.select(part.train),
            "validation": rows.select(part.validation),
            "test": truth.select(part.test),
        }
        for part in parts_of(rows, folds, seed, text=column)
    ]


def _check_rows(
    divided: "Sequence[Mapping[str, datasets.Dataset]]",
    models: Mapping[str, tuple[str | None, str | None]],
) -> None:
    """Raises a ValueError if a division leaves a model without rows to train on or to choose by."""
    from ..training.rows import has_modality

    for number, parts in enumerate(divided, start=1):
        where = f" of fold {number}" if len(divided) > 1 else ""
        for model, encoders in models.items():
            read = [name for name, one in zip(("image", "text"), encoders, strict=True) if one]
            for part in ("train", "validation"):
                if not has_modality(parts[part], read).any():
                    raise ValueError(
                        f"the {part} part{where} must have rows with {' or '.join(read)} for the "
                        f"model {model!r}, got none. Divide in another way, or leave it out."
                    )


def _from_files(files: dict[str, Path], columns: Any) -> "dict[str, datasets.Dataset]":
    """Returns the parts, read from one file each; all label columns have the training's classes."""
    from ..data.labels import class_names
    from ..training.label_space import renumbered

    parts = {}
    for name, path in files.items():
        rows, truth = load_with_truth(path, *columns)
        parts[name] = truth if name == "test" else rows
    names = class_names(parts["train"])
    if names is None:
        return parts
    return {name: renumbered(rows, names) for name, rows in parts.items()}


def _by_column(
    rows: "datasets.Dataset", truth: "datasets.Dataset", column: str
) -> "dict[str, datasets.Dataset]":
    """Returns the parts that a column names."""
    import numpy as np

    from ..model.validation import did_you_mean

    if column not in rows.column_names:
        hint = did_you_mean(column, rows.column_names)
        raise ValueError(f"--split-column must be a column of the table, got {column!r}.{hint}")
    said = np.asarray([PART_WORDS.get(str(one).strip().lower(), one) for one in rows[column]])
    odd = sorted({str(one) for one in said} - set(PARTS))
    if odd:
        raise ValueError(
            f"--split-column {column!r} must hold train, validation or test, got {odd[0]!r}."
        )
    parts = {
        name: (truth if name == "test" else rows).select(np.flatnonzero(said == name))
        for name in PARTS
    }
    for name, part in parts.items():
        if not len(part):
            raise ValueError(f"--split-column {column!r} must name rows of {name}, got none.")
    return parts


def _refuse_shared_groups(parts: "dict[str, datasets.Dataset]") -> None:
    """Raises a ValueError if a patient is in two parts: the test would not be honest."""
    groups = {name: set(map(str, rows["group"])) for name, rows in parts.items()}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = sorted(groups[first] & groups[second])
        if shared:
            raise ValueError(
                f"the parts must share no group, got {len(shared)} in {first} and {second}, such "
                f"as {shared[0]!r}. Move all rows of a group into one part."
            )


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


def check_training(output: Path, folds: int | None, cache: Path | None) -> None:
    """Refuses the folders of a training, before anything is loaded.

    Args:
        output: the folder for the trainings.
        folds: the number of test folds, or None.
        cache: the folder for the outputs of frozen towers, or None.

    Raises:
        ValueError: for a folder that cannot be written to, or one with a training of another kind,
            whose files would stand between.
    """
    check_output_folders(output, cache)
    found = len(list(output.glob(fold_name("*"))))
    if found > (folds or 0) or (folds is not None and (output / "config.json").exists()):
        held = f"{found} folds" if found else "a model without folds"
        raise ValueError(
            f"--output must be a folder without another training, got {str(output)!r}, which holds "
            f"{held}. Give another folder."
        )


def augmentation_of(
    name: str | None, image: str | None, cache: Path | None = None
) -> "Augmentation | None":
    """Returns the augmentation that is asked for.

    Args:
        name: of the recipe, or None for no augmentation.
        image: the name of the image encoder, or None.
        cache: the folder for the outputs of frozen towers that the pictures would pass, or None.

    Raises:
        ValueError: for an unknown recipe, or one without an image encoder or with a cache.
    """
    if name is None:
        return None
    from ..data.augmentation import AUGMENTATIONS, Augmentation
    from ..model.validation import check_choice

    check_choice("--augment", name, AUGMENTATIONS)
    if image is None:
        raise ValueError(
            f"--augment must be given with --image-encoder, got {name!r} and no image encoder."
        )
    if cache is not None:
        raise ValueError(
            f"--augment must be given without --cache, got {name!r} and {str(cache)!r}: "
            "the outputs of augmented pictures differ in every epoch. Leave one out."
        )
    return Augmentation(name)


def fold_name(number: int | str) -> str:
    """Returns the name of the folder of a test fold.

    Args:
        number: of the fold, from 1 on; "*" is the pattern of all.
    """
    return f"fold-{number}"


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
