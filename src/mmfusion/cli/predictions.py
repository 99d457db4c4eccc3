"""The predictions behind `mmfusion predict`: of one sample, and of the rows of a manifest."""

import os
import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..model.printing import printable
from .errors import check_output_file
from .support import load_rows

if TYPE_CHECKING:
    from collections.abc import Generator

    from ..inference.stream import Prediction
    from ..model.modeling import FusionClassifier
    from ..model.processing import FusionProcessor


# The full-width signs begin a formula too, where the language is Japanese.
FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def spreadsheet_cell(value: object) -> object:
    r"""Returns a cell that no spreadsheet runs and no terminal obeys.

    A text that begins like a formula gets a quotation mark in front, which is the rule of OWASP
    ("CSV injection"). A number such as "-3" stays. Control characters other than line breaks and
    tabs become escapes such as "\x1b".

    Args:
        value: any cell.

    Example:
        >>> spreadsheet_cell("=1+1"), spreadsheet_cell("-3"), spreadsheet_cell(-3)
        ("'=1+1", '-3', -3)
    """
    if value is None or isinstance(value, int | float):
        return value
    text = str(value)
    # White space in front would be cut by some programs, and the formula would then be first.
    is_formula = text.startswith(FORMULA) or text.lstrip().startswith(FORMULA)
    if is_formula and not _NUMBER.fullmatch(text.strip()):
        text = f"'{text}"
    return printable(text, keep="\t\r\n\u200e\u200f")


def predict_one(
    classifier: "FusionClassifier",
    processor: "FusionProcessor",
    image: list[Path] | None,
    text: str | None,
) -> "Prediction":
    """Returns the prediction of one sample.

    Args:
        classifier: the classifier.
        processor: the processor of the classifier.
        image: the paths of the sample's pictures, or None.
        text: the text itself, or None.

    Raises:
        ValueError: if the sample lacks both modalities, has one that the classifier does not use,
            or cannot be read.
    """
    from ..inference.stream import predict_stream

    sample = checked_sample(classifier, image, text)
    # With "raise", the message would begin with the number of the sample. This does not help a user
    # who gave only one.
    (answer,) = predict_stream(
        classifier, processor, [sample], batch_size=1, on_error="keep", progress=False
    )
    if len(answer.missing) == len(classifier.modalities):
        raise ValueError(
            "every sample must have an image or a text, got neither in rows [0]. Leave them out."
        )
    if answer.error is not None:
        raise ValueError(answer.error)
    return answer


def checked_sample(
    classifier: "FusionClassifier", image: list[Path] | None, text: str | None
) -> dict[str, Any]:
    """Returns the modalities of one sample by name.

    Args:
        classifier: the classifier.
        image: the paths of its pictures, or None.
        text: the text itself, or None.

    Returns:
        "image" -> a path, a list of several, or None; "text" -> the text, or None.

    Raises:
        ValueError: if both are None, or the classifier does not use one that is given.
    """
    given: Any = image[0] if image and len(image) == 1 else image or None
    sample = {"image": given, "text": text}
    for name, value in sample.items():
        if value is not None and name not in classifier.modalities:
            raise ValueError(
                f"--{name} must be left out for a classifier of {classifier.modalities[0]} alone, "
                f"got {value!r}."
            )
    if given is None and text is None:
        raise ValueError("--image or --text must be given, got neither.")
    return sample


def predict_many(
    classifier: "FusionClassifier",
    processor: "FusionProcessor",
    manifest: Path,
    output: Path,
    batch_size: int,
    workers: int,
    images: list[str] | None = None,
    actors_of: str | None = None,
) -> None:
    """Writes one line per row of the manifest; a row that cannot be read gets its error there.

    Each line is written as soon as its prediction is there, so predictions are not kept in memory.
    They are written into a file of the same name with ".part" at its end, which gets its own name
    when all rows are there. So a run that was stopped leaves no table that looks complete. Texts
    are written by `spreadsheet_cell`.

    Args:
        classifier: the classifier; it is moved to the GPU if there is one.
        processor: the processor of the classifier.
        manifest: the file of the samples.
        output: the CSV file to write.
        batch_size: the number of samples per forward pass.
        workers: the number of processes that decode images.
        images: the columns of pictures, or None for the column `image`.
        actors_of: the folder of the classifier, which `workers` actors of Ray load; None: this
            process answers.

    Raises:
        typer.Exit: with status 1 if a row could not be read.
    """
    import csv

    import torch

    from ..data.tables import read_table

    target, part = _targets(manifest, output)
    # Actors of Ray have the GPU for themselves.
    if torch.cuda.is_available() and actors_of is None:
        torch.nn.Module.to(classifier, "cuda")
    table = read_table(manifest)
    # A picture without a file is an error of its row alone, as one that cannot be read.
    read: dict[str, Any] = {"labelled": False, "keeps_absent": True, "template": processor.template}
    rows = load_rows(manifest, images=images, table=table, **read)
    names = [str(name) for name in (classifier.config.id2label or {}).values()]
    own = table.column_names
    # The texts are left out: they may be long, and they are data of patients. `load_manifest` adds
    # columns, so only those that the manifest itself has are written.
    shown = [name for name in rows.column_names if name in own and name != "text"]
    failed = 0
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("w", newline="", encoding="utf-8") as file:

            def write(cells: list[object]) -> None:
                writer.writerow(map(spreadsheet_cell, cells))
                # What is written survives if the process is killed.
                file.flush()

            writer = csv.writer(file)
            predicted = [] if classifier.multi_label else ["predicted"]
            write(["row", *shown, *predicted, *(f"p_{name}" for name in names), "missing", "error"])
            stream = _stream((classifier, processor), rows, actors_of, batch_size, workers)
            # Closing the stream ends the line of its progress bar before an error is printed.
            with closing(stream):
                for number, (sample, answer) in enumerate(zip(rows, stream, strict=True), start=1):
                    failed += answer.error is not None
                    cells = [number, *(sample[name] for name in shown)]
                    write([*cells, *_answer_cells(answer, names, classifier.multi_label)])
        part.replace(target)
    except BaseException as error:
        if part.is_file():
            error.add_note(f"The rows until then are in {str(part)!r}.")
        raise
    typer.echo(f"{printable(str(output))}: {len(rows)} samples, {failed} of them with an error.")
    if failed:
        raise typer.Exit(1)


def _stream(
    parts: Any, rows: Any, actors_of: str | None, batch_size: int, workers: int
) -> "Generator[Prediction, None, None]":
    """Returns the answers to the rows, of this process or of actors of Ray."""
    from ..inference.on_ray import predict_on_ray
    from ..inference.stream import predict_stream

    if actors_of is not None:
        return predict_on_ray(actors_of, rows, batch_size=batch_size, workers=workers)
    model, processor = parts
    return predict_stream(
        model, processor, rows, batch_size=batch_size, workers=workers, on_error="keep"
    )


def _targets(manifest: Path, output: Path) -> tuple[Path, Path]:
    """Returns the file that `output` means, and the file that is written until it is complete."""
    # A link keeps its place: the file that it leads to is written anew.
    target = Path(os.path.realpath(output))
    part = target.with_name(f"{target.name}.part")
    check_output_file("--output", part)
    # Opening the output would empty the manifest before it is read. It may have two names.
    for path in (target, part):
        if path.exists() and manifest.exists() and path.samefile(manifest):
            raise ValueError(
                f"--output must be another file than --manifest, got {str(output)!r} for both."
            )
    return target, part


def _answer_cells(answer: "Prediction", names: list[str], is_multi_label: bool) -> list[object]:
    """Returns the chosen class, the probabilities, what was missing, and the error."""
    missing = " ".join(answer.missing)
    if answer.error is not None:
        empty = len(names) + (0 if is_multi_label else 1)
        return [*[""] * empty, missing, answer.error]
    chosen = [] if is_multi_label else [names[int(answer.logits.argmax())]]
    return [*chosen, *(f"{value:.6f}" for value in answer.probabilities), missing, ""]
