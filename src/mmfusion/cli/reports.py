"""What `train` and `evaluate` print and write: tables, the record of the split, test answers."""

import csv
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from ..model.printing import printable
from .predictions import spreadsheet_cell
from .support import to_json

if TYPE_CHECKING:
    import datasets

    from ..model.modeling import FusionClassifier
    from ..training.evaluate import Evaluation

TEST_ANSWERS = "test_predictions.csv"


def is_first_process() -> bool:
    """Returns whether this process prints and writes; on several processes only one does."""
    return not int(os.environ.get("RANK", "0"))


def announce(message: str) -> None:
    """Prints a message on the error stream, so that the output of a command can be piped.

    Args:
        message: one line.
    """
    if is_first_process():
        typer.echo(printable(message), err=True)


def record_training(
    output: Path, parts: "Mapping[str, datasets.Dataset]", manifest: Path, seed: int
) -> None:
    """Writes split.json: the command, the versions, and which rows are in which part.

    Args:
        output: the folder of the model.
        parts: the rows of "train", "validation" and "test".
        manifest: the file that the rows were read from.
        seed: of the division.
    """
    from ..training.split_record import write_split
    from ..training.versions import versions

    command = shlex.join(["mmfusion", *sys.argv[1:]])
    facts = {"command": command, "versions": versions(), "seed": seed}
    if is_first_process():
        write_split(output, parts, manifest, facts)


def write_test_answers(
    path: Path, model: "FusionClassifier", evaluation: "Evaluation", rows: "datasets.Dataset"
) -> None:
    """Writes one line per test row: picture, group, true label and the probability of each class.

    Texts are left out: they may tell who the patient is, and the table may be passed on.

    Args:
        path: the CSV file.
        model: the classifier; it names the classes.
        evaluation: of the test rows.
        rows: the test rows.
    """
    if not is_first_process():
        return
    names = [str(name) for name in (model.config.id2label or {}).values()]
    shown = [name for name in ("image", "group") if name in rows.column_names]
    kept = rows.select_columns(shown)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        labels = [f"label: {name}" for name in names] if model.multi_label else ["label"]
        header = [*shown, *labels, *(f"probability: {name}" for name in names)]
        table.writerow([spreadsheet_cell(cell) for cell in header])
        for row, label, share in zip(
            kept, evaluation.labels, evaluation.probabilities, strict=True
        ):
            truth = label.tolist() if model.multi_label else [names[int(label)]]
            cells = [row[name] for name in shown] + truth + [f"{one:.6f}" for one in share]
            table.writerow([spreadsheet_cell(cell) for cell in cells])


def report_training(
    evaluations: "dict[str, Evaluation]", output: Path, manifest: Path | None = None
) -> None:
    """Prints the tables of all models and writes their metrics to results.json.

    The first table holds accuracy and AUROC of every model. The second one holds the difference in
    AUROC between the first model and each of the others. Both have at most 80 columns.

    Args:
        evaluations: the evaluations by name; the first is that of the model that the user asked
            for.
        output: the folder for results.json.
        manifest: the file of the rows, for the commands that are proposed; None proposes none.
    """
    from ..metrics.bootstrap import paired_bootstrap
    from ..metrics.functional import auroc

    if not is_first_process():
        return
    first, fused = next(iter(evaluations.items()))
    table = Table("model", "accuracy", "AUROC", title="test part, 95 % intervals")
    minus = Table("model", "difference", "p", title=f"AUROC of {first} minus that of")
    results: dict[str, Any] = {}
    for name, result in evaluations.items():
        difference: Any = None
        # The bootstrap is paired: both models are resampled with the same rows.
        if result is not fused:
            difference = paired_bootstrap(
                auroc, fused.logits, result.logits, fused.labels, groups=fused.groups
            )
            shown, _, p = str(difference).partition(", p = ")
            minus.add_row(name, shown, p)
        results[name] = result.to_dict() | (
            {} if difference is None else {"fused_minus_this": vars(difference)}
        )
        table.add_row(name, str(result.metrics["accuracy"]), str(result.metrics["auroc"]))
    (output / "results.json").write_text(to_json(results), encoding="utf-8")
    console = Console()
    console.print(table)
    if minus.row_count:
        console.print(minus)
    if manifest is not None:
        folder = shlex.quote(str(output))
        typer.echo(f"Written to {printable(folder)}. Next, for example:")
        typer.echo(f"  mmfusion evaluate {printable(f'{folder} {shlex.quote(str(manifest))}')}")
        typer.echo(
            f"  mmfusion predict {printable(folder)} --manifest NEW.csv --output ANSWERS.csv"
        )


def report_evaluation(evaluation: "Evaluation", count: int) -> None:
    """Prints the metrics of an evaluation.

    Args:
        evaluation: the metrics.
        count: the number of samples.
    """
    table = Table("metric", "estimate (95 % interval)", title=f"{count} samples")
    for name, interval in evaluation.metrics.items():
        table.add_row(name, str(interval))
    Console().print(table)
