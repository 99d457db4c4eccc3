"""The predictions behind `mmfusion predict`: of one sample, and of the rows of a manifest."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .support import load_rows

if TYPE_CHECKING:
    from ..inference.stream import Prediction
    from ..model.modeling import FusionClassifier
    from ..model.processing import FusionProcessor


def predict_one(
    classifier: "FusionClassifier",
    processor: "FusionProcessor",
    image: Path | None,
    text: str | None,
) -> "Prediction":
    """Returns the prediction of one sample.

    Args:
        classifier: the classifier.
        processor: the processor of the classifier.
        image: the path of the image, or None.
        text: the text itself, or None.

    Raises:
        ValueError: if the sample lacks both modalities, has one that the classifier does not use,
            or cannot be read.
    """
    from ..inference.stream import predict_stream

    sample = {"image": image, "text": text}
    for name, value in sample.items():
        if value is not None and name not in classifier.modalities:
            raise ValueError(
                f"--{name} must be left out for a classifier of {classifier.modalities[0]} alone, "
                f"got {value!r}."
            )
    if image is None and text is None:
        raise ValueError("--image or --text must be given, got neither.")
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


def predict_many(
    classifier: "FusionClassifier",
    processor: "FusionProcessor",
    manifest: Path,
    output: Path,
    batch_size: int,
    workers: int,
) -> None:
    """Writes one line per row of the manifest; a row that cannot be read gets its error there.

    Each line is written as soon as its prediction is there, so predictions are not kept in memory.

    Args:
        classifier: the classifier; it is moved to the GPU if there is one.
        processor: the processor of the classifier.
        manifest: the file of the samples.
        output: the CSV file to write.
        batch_size: the number of samples per forward pass.
        workers: the number of processes that decode images.

    Raises:
        typer.Exit: with status 1 if a row could not be read.
    """
    import csv

    import torch

    from ..data.tables import read_table
    from ..inference.stream import predict_stream

    # Opening the output would empty the manifest before it is read.
    if output.resolve() == manifest.resolve():
        raise ValueError(
            f"--output must be another file than --manifest, got {str(output)!r} for both."
        )
    if torch.cuda.is_available():
        torch.nn.Module.to(classifier, "cuda")
    rows = load_rows(manifest, labelled=False, template=processor.template)
    names = [str(name) for name in (classifier.config.id2label or {}).values()]
    own = read_table(manifest).column_names
    # The texts are left out: they may be long, and they are data of patients. `load_manifest` adds
    # columns, so only those that the manifest itself has are written.
    shown = [name for name in rows.column_names if name in own and name != "text"]
    failed = 0
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="", encoding="utf-8") as file:
        write = csv.writer(file).writerow
        predicted = [] if classifier.multi_label else ["predicted"]
        write(["row", *shown, *predicted, *(f"p_{name}" for name in names), "missing", "error"])
        stream = predict_stream(
            classifier, processor, rows, batch_size=batch_size, workers=workers, on_error="keep"
        )
        for number, (sample, answer) in enumerate(zip(rows, stream, strict=True), start=1):
            error = answer.error
            failed += error is not None
            chosen = "" if error else names[int(answer.logits.argmax())]
            probabilities = ["" if error else f"{value:.6f}" for value in answer.probabilities]
            cells = [sample[name] for name in shown] + ([] if classifier.multi_label else [chosen])
            write([number, *cells, *probabilities, " ".join(answer.missing), error or ""])
    typer.echo(f"{output}: {len(rows)} samples, {failed} of them with an error.")
    if failed:
        raise typer.Exit(1)
