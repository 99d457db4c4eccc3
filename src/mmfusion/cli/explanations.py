"""The explanation behind `mmfusion explain`: a page, JSON, or both."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..model.printing import printable
from .predictions import checked_sample
from .support import to_json

if TYPE_CHECKING:
    from ..model.modeling import FusionClassifier
    from ..model.processing import FusionProcessor


def explain_one(
    classifier: "FusionClassifier",
    processor: "FusionProcessor",
    image: list[Path] | None,
    text: str | None,
    *,
    output: Path | None,
    as_json: bool,
    target: str | None,
    method: str,
    words: str,
) -> None:
    """Writes the page of one explanation, and prints it as JSON or in a few lines.

    Args:
        classifier: the classifier.
        processor: the processor of the classifier.
        image: the paths of the sample's pictures, or None.
        text: the text itself, or None.
        output: the file of the page, or None.
        as_json: whether JSON is printed.
        target: the name of the class to explain, or None.
        method: of the heat map.
        words: of the weights of words.

    Raises:
        ValueError: as `checked_sample` and `explain` raise it.
    """
    from ..inference.explain import explain

    sample = checked_sample(classifier, image, text)
    found = explain(classifier, processor, **sample, target=target, method=method, words=words)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        found.to_html(output)
    if as_json:
        typer.echo(to_json(found.to_dict()))
        return
    typer.echo(f"{printable(found.target)}\t{found.probabilities[found.target]:.4f}")
    for name, share in found.shares.items():
        typer.echo(f"{name}\t{share:.0%} ({found.contributions[name]:+.2f})")
    for note in found.notes:
        typer.echo(printable(note))
    typer.echo(f"Written to {printable(str(output))}.")
