"""What `train` and `evaluate` print and write: tables, the record of the split, test answers."""

import csv
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from ..model.printing import printable
from .predictions import spreadsheet_cell
from .support import to_json
from .trainings import fold_name

if TYPE_CHECKING:
    import datasets

    from ..model.modeling import FusionClassifier
    from ..training.evaluate import Evaluation

TEST_ANSWERS = "test_predictions.csv"
FOLD = "fold"
"""The column that says in which fold a row was tested."""


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


def record_of(parts: "Mapping[str, datasets.Dataset]", manifest: Path, seed: int) -> dict[str, Any]:
    """Returns the content of split.json: the command, the versions, and the rows of each part.

    Args:
        parts: the rows of "train", "validation" and "test".
        manifest: the file that the rows were read from.
        seed: of the division.
    """
    from ..training.split_record import split_record
    from ..training.versions import versions

    command = shlex.join(["mmfusion", *sys.argv[1:]])
    return split_record(parts, manifest, {"command": command, "versions": versions(), "seed": seed})


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Writes split.json into the folder of a model.

    Args:
        folder: of the model.
        record: as `record_of` returns it.
    """
    from ..training.split_record import SPLIT_FILE
    from ..training.stored import write_json

    if is_first_process():
        write_json(folder / SPLIT_FILE, record)


def write_test_answers(
    path: Path, names: Sequence[str], evaluation: "Evaluation", rows: "datasets.Dataset"
) -> None:
    """Writes one line per test row: picture, group, fold, label, probability of each class.

    Texts are left out: they may tell who the patient is, and the table may be passed on.

    Args:
        path: the CSV file.
        names: of the classes.
        evaluation: of the test rows.
        rows: the test rows.
    """
    if not is_first_process():
        return
    shown = [name for name in ("image", "group", FOLD) if name in rows.column_names]
    kept = rows.select_columns(shown)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        several = evaluation.labels.ndim == 2
        labels = [f"label: {name}" for name in names] if several else ["label"]
        header = [*shown, *labels, *(f"probability: {name}" for name in names)]
        table.writerow([spreadsheet_cell(cell) for cell in header])
        for row, label, share in zip(
            kept, evaluation.labels, evaluation.probabilities, strict=True
        ):
            truth = label.tolist() if several else [names[int(label)]]
            cells = [row[name] for name in shown] + truth + [f"{one:.6f}" for one in share]
            table.writerow([spreadsheet_cell(cell) for cell in cells])


def write_cards(
    trained: "Mapping[Path, FusionClassifier]",
    evaluations: "Mapping[str, Evaluation]",
    parts: "Mapping[str, datasets.Dataset]",
) -> None:
    """Writes the model card of each model of a training, with the figures of all of them.

    Args:
        trained: the folder of each model, in the order of the evaluations.
        evaluations: name of a model -> its evaluation on the test rows.
        parts: the rows of each part, which are audited here.
    """
    if not is_first_process():
        return
    from ..data.audit import audit
    from ..model.card import write_card
    from ..training.card import model_card

    # What no model reads cannot leak, and reading pictures takes long.
    read = {name for model in trained.values() for name in model.modalities}
    left_out: dict[str, Any] = {name: None for name in ("image", "text") if name not in read}
    leaks = audit(dict(parts), **left_out)
    command = shlex.join(["mmfusion", *sys.argv[1:]])
    for (folder, model), own in zip(trained.items(), evaluations, strict=True):
        # The first row of the table is the model whose card it is.
        ordered = {own: evaluations[own], **evaluations}
        card = model_card(model, parts=parts, evaluations=ordered, audit=leaks, command=command)
        write_card(folder, card)


def report_training(
    evaluations: "dict[str, Evaluation]", output: Path, following: str, folds: int | None = None
) -> None:
    """Prints the tables of all models and writes their metrics to results.json.

    The first table holds accuracy and AUROC of every model. The second one holds the difference in
    AUROC between the first model and each of the others. Both have at most 80 columns.

    Args:
        evaluations: the evaluations by name; the first is that of the model that the user asked
            for.
        output: the folder for results.json.
        following: the command that evaluates the model, which is proposed at the end.
        folds: the number of test folds whose answers were pooled, or None for one test part.
    """
    from ..metrics.bootstrap import paired_bootstrap
    from ..metrics.functional import auroc

    if not is_first_process():
        return
    first, fused = next(iter(evaluations.items()))
    part = "test part" if folds is None else f"{folds} test folds"
    table = Table("model", "accuracy", "AUROC", title=f"{part}, 95 % intervals")
    minus = Table("model", "difference", "p", title=f"AUROC of {first} minus that of")
    results: dict[str, Any] = {}
    for name, result in evaluations.items():
        difference: Any = None
        # The bootstrap is paired: both models are resampled with the same rows.
        if result is not fused:
            difference = paired_bootstrap(
                auroc, fused.logits, result.logits, fused.labels, groups=fused.groups
            )
            bounds = f"({difference.low:+.3f} to {difference.high:+.3f})"
            shown = f"{difference.difference:+.3f} {bounds}"
            minus.add_row(name, shown, f"{difference.p_value:.3f}")
        results[name] = result.to_dict() | (
            {} if difference is None else {"fused_minus_this": vars(difference)}
        )
        table.add_row(name, str(result.metrics["accuracy"]), str(result.metrics["auroc"]))
    (output / "results.json").write_text(to_json(results), encoding="utf-8")
    console = Console()
    console.print(table)
    if minus.row_count:
        console.print(minus)
    typer.echo(f"Written to {printable(shlex.quote(str(output)))}. Next, for example:")
    typer.echo(f"  {printable(following)}")
    folder = printable(shlex.quote(str(output if folds is None else output / fold_name(1))))
    typer.echo(f"  mmfusion predict {folder} --manifest NEW.csv --output ANSWERS.csv")


def command_to_evaluate(
    output: Path, manifest: Path, label: list[str] | None, more: Mapping[str, list[str] | None]
) -> str:
    """Returns the command that evaluates a new model, with the options that read the table.

    Args:
        output: the folder of the model.
        manifest: a table with the test rows.
        label: the label columns that the user named. Several are those of the model's classes, so
            they need not be named.
        more: other options -> their values.

    Example:
        >>> command_to_evaluate(Path("out"), Path("my rows.csv"), ["ill"], {"--image-column": None})
        "mmfusion evaluate out 'my rows.csv' --label ill"
    """
    words = ["mmfusion", "evaluate", str(output), str(manifest)]
    given = {"--label": label if label is not None and len(label) == 1 else None, **more}
    words += [word for name in given for value in given[name] or [] for word in (name, value)]
    return shlex.join(words)


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
