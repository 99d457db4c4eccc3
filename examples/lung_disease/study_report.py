"""The output of the study: results.json, report.md, learning curves and confusion matrices."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import matplotlib

# This backend needs no display. It must be chosen before pyplot is imported.
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay
from study_data import StudyData
from study_rows import Outcome, Part, Row

from mmfusion import accuracy, auroc, bootstrap_interval, mcnemar, paired_bootstrap

Results = dict[Row, Outcome]

_PICTURES = {"none": "raw", "mask": "lungs alone (black outside)", "crop": "cut to the lungs"}


def choose(
    results: Results, rows: Sequence[Row], parts: Sequence[Part]
) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Returns the logits of the models chosen on validation data, and the names of the models.

    In each fold the row with the highest validation AUROC is chosen. Its logits stand for the test
    samples of that fold.

    Args:
        results: the outcome of each row.
        rows: the rows to choose from.
        parts: the folds.
    """
    logits = np.zeros_like(next(iter(results.values())).logits)
    names = []
    for number, part in enumerate(parts):
        best = max(rows, key=lambda row: results[row].validation[number])
        logits[part.test] = results[best].logits[part.test]
        names.append(best.model)
    return logits, names


@final
@dataclass(frozen=True)
class Answers:
    """The facts about the samples of a protocol that are needed to evaluate a model.

    Attributes:
        labels: the classes [B].
        groups: the patient of each sample, B of them.
        present: which samples have the modality [B], under the keys "image" and "text".
    """

    labels: np.ndarray[Any, Any]
    groups: Sequence[str]
    present: dict[str, np.ndarray[Any, Any]]


def answers_of(samples: Any) -> Answers:
    """Returns the answers of a data set with the columns image, text, label and group."""
    present = {
        name: np.asarray([value is not None for value in samples[name]])
        for name in ("image", "text")
    }
    return Answers(np.asarray(samples["label"]), list(samples["group"]), present)


def figures(
    protocol: str, way: str, row: Row, outcome: Outcome, answers: Answers
) -> dict[str, Any]:
    """Returns a row of the table.

    It describes the model, and holds accuracy and AUROC with 95 % intervals by patient. A model of
    one modality cannot read a sample without it; `accuracy_where_present` leaves those samples out.

    Args:
        protocol: the name of the text protocol.
        way: how the pictures were prepared, one of `segmenting.WAYS`.
        row: the model.
        outcome: the outcome of its training.
        answers: the true classes and the patients.
    """
    described: dict[str, Any] = {
        "protocol": protocol,
        "model": row.model,
        "modality": row.modality,
        "mapper": row.mapper,
        "fusion": row.fusion,
        "segment": way,
    }
    for name, metric in (("accuracy", accuracy), ("auroc", auroc)):
        interval = bootstrap_interval(metric, outcome.logits, answers.labels, groups=answers.groups)
        described |= {
            name: interval.estimate,
            f"{name}_low": interval.low,
            f"{name}_high": interval.high,
        }
    # A fused model can read a sample with either modality.
    has = np.any([answers.present[name] for name in row.modality.split("+")], axis=0)
    return described | {
        "samples": len(has),
        "samples_where_present": int(has.sum()),
        "accuracy_where_present": accuracy(outcome.logits[has], answers.labels[has]),
        "seconds_per_epoch": outcome.seconds_per_epoch or None,
        "parameters_trained": outcome.trained_parameters,
        "published_accuracy": row.published,
    }


def summarise(
    protocol: str, way: str, results: Results, parts: Sequence[Part], answers: Answers
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns the table's rows of one protocol, and the comparison of fused and single modality.

    The comparison is between the fused model and the model of a single modality that were both
    chosen on validation data.
    """
    labels, groups = answers.labels, answers.groups
    # TF-IDF is a baseline without an encoder. The question is what fusing the encoders gains.
    single_rows = [
        row for row in results if not row.is_fused and not row.model.startswith("TF-IDF")
    ]
    single, single_names = choose(results, single_rows, parts)
    rows = []
    for row, outcome in results.items():
        # Paired: both models answer the same samples.
        difference = paired_bootstrap(auroc, outcome.logits, single, labels, groups=groups)
        rows.append(
            figures(protocol, way, row, outcome, answers)
            | {
                "auroc_minus_single": difference.difference,
                "auroc_minus_single_low": difference.low,
                "auroc_minus_single_high": difference.high,
                "auroc_minus_single_p": difference.p_value,
                "mcnemar_p": mcnemar(outcome.logits, single, labels).p_value,
                "validation_auroc": float(np.mean(outcome.validation)),
            }
        )
    fused, fused_names = choose(results, [row for row in results if row.is_fused], parts)
    difference = paired_bootstrap(auroc, fused, single, labels, groups=groups)
    # The choice among the single modalities can be wrong, and to beat a wrong choice proves little.
    # Therefore the fused model is also compared with each single modality.
    against = {
        row.model: asdict(
            paired_bootstrap(auroc, fused, results[row].logits, labels, groups=groups)
        )
        for row in single_rows
    }
    comparison = {
        "protocol": protocol,
        "segment": way,
        "fused_chosen": fused_names,
        "single_chosen": single_names,
        "fused_accuracy": accuracy(fused, labels),
        "single_accuracy": accuracy(single, labels),
        "fused_auroc": auroc(fused, labels),
        "single_auroc": auroc(single, labels),
        "difference": difference.difference,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "p": difference.p_value,
        # Significant means that the 95 % interval does not contain zero.
        "fused_significantly_worse": bool(difference.high < 0),
        "fused_significantly_better": bool(difference.low > 0),
        "fused_minus": against,
    }
    return rows, comparison


def write_report(folder: Path, data: StudyData, results: dict[str, Any]) -> None:
    """Writes results.json and report.md into the folder."""
    (folder / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    lines = [f"# Lung disease study: {data.name}", ""]
    # The warning must be the first thing that a reader of the report sees.
    if data.synthetic_images:
        lines += [
            "**The pictures are synthetic**, drawn from a seed and the reports' headings: "
            "every figure of a row with images says how the models read drawings, "
            "not how they read X-rays. The reports are real.",
            "",
        ]
    lines += [f"- {note.strip()}" for note in data.notes]
    lines += [
        "",
        f"Command: `{results['command']}`; {results['settings']['folds']} folds, "
        "95 % intervals by patient.",
        "",
    ]
    for comparison in results["comparisons"]:
        protocol, way = comparison["protocol"], comparison["segment"]
        rows = [
            row for row in results["rows"] if (row["protocol"], row["segment"]) == (protocol, way)
        ]
        lines += [
            f"## Protocol: {protocol}; pictures: {_PICTURES[way]}",
            "",
            _verdict(comparison),
            "",
        ]
        lines += _table(rows, data.synthetic_images)
        if any("auroc_minus_raw" in row for row in rows):
            lines += [
                "",
                f"{_PICTURES[way].capitalize()} against raw, the same samples and folds:",
                "",
                *_against_raw(rows),
            ]
        plots = (f"![{kind}]({_file(kind, protocol, way)})" for kind in ("curves", "confusion"))
        lines += ["", *plots, ""]
    (folder / "report.md").write_text("\n".join(lines), encoding="utf-8")


def _verdict(comparison: dict[str, Any]) -> str:
    """Returns the comparison of the fused model with the single modality as a sentence."""
    # "Better" and "worse" are used only if the whole interval is on one side of zero.
    word = "is not distinguishable from"
    if comparison["fused_significantly_better"]:
        word = "is better than"
    elif comparison["fused_significantly_worse"]:
        word = "is worse than"
    against = "; ".join(
        f"minus {name} {one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"
        for name, one in comparison["fused_minus"].items()
    )
    return (
        f"Each chosen on validation data, the fused model {word} the best single modality on the "
        f"test folds: AUROC {comparison['fused_auroc']:.3f} against "
        f"{comparison['single_auroc']:.3f}, difference {comparison['difference']:+.3f} "
        f"({comparison['difference_low']:+.3f} to {comparison['difference_high']:+.3f}). "
        f"Without that choice: {against}."
    )


def _against_raw(rows: list[dict[str, Any]]) -> list[str]:
    """Returns the table of the differences between segmented and raw pictures."""
    lines = [
        "| model | accuracy minus raw | AUROC minus raw | p of the accuracy (Holm) |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        # Segmenting does not change a row without pictures.
        if row["modality"] != "text":
            gains = [
                f"{row[name]:+.3f} ({row[f'{name}_low']:+.3f} to {row[f'{name}_high']:+.3f})"
                for name in ("accuracy_minus_raw", "auroc_minus_raw")
            ]
            p = f"{row['accuracy_minus_raw_p']:.3f} ({row['accuracy_minus_raw_p_holm']:.3f})"
            lines.append(f"| {row['model']} | {' | '.join(gains)} | {p} |")
    return lines


def _table(rows: list[dict[str, Any]], synthetic: bool) -> list[str]:
    lines = [
        "| model | images | accuracy | AUROC | AUROC minus best single | s / epoch | "
        "parameters trained | published accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        seconds = "" if row["seconds_per_epoch"] is None else f"{row['seconds_per_epoch']:.2f}"
        published = "" if row["published_accuracy"] is None else f"{row['published_accuracy']:.2f}"
        images = "none" if row["modality"] == "text" else ("synthetic" if synthetic else "real")
        lines.append(
            f"| {row['model']} | {images} | {row['accuracy']:.3f} ({row['accuracy_low']:.3f} to "
            f"{row['accuracy_high']:.3f}) | {row['auroc']:.3f} ({row['auroc_low']:.3f} to "
            f"{row['auroc_high']:.3f}) | {row['auroc_minus_single']:+.3f} "
            f"({row['auroc_minus_single_low']:+.3f} to {row['auroc_minus_single_high']:+.3f}) | "
            f"{seconds} | {row['parameters_trained']:,} | {published} |"
        )
    return lines


def draw_curves(folder: Path, protocol: str, way: str, results: Results, data: StudyData) -> None:
    """Draws validation loss and AUROC by epoch, the mean over folds, one line per row.

    Epoch 0 is the warm start. A row that the warm start solves is a point.
    """
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for row, outcome in results.items():
        for axis, name in zip(axes, ("eval_loss", "eval_auroc"), strict=True):
            curves = [[entry[name] for entry in curve if name in entry] for curve in outcome.curves]
            # Folds may differ in their number of epochs. The mean covers those that all have.
            length = min((len(curve) for curve in curves), default=0)
            if length:
                mean = np.mean([curve[:length] for curve in curves], axis=0)
                axis.plot(
                    range(length),
                    mean,
                    marker="o" if length == 1 else None,
                    label=row.model,
                    linewidth=2 if row.is_fused else 3,
                    alpha=0.8,
                )
    for axis, name in zip(axes, ("validation loss", "validation AUROC"), strict=True):
        axis.set(xlabel="epoch", ylabel=name)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.suptitle(
        f"{data.name}, {protocol}, pictures {_PICTURES[way]}: mean over folds{_warning(data)}"
    )
    figure.savefig(folder / _file("curves", protocol, way), dpi=110)
    plt.close(figure)


def draw_confusion(
    folder: Path,
    protocol: str,
    way: str,
    results: Results,
    parts: Sequence[Part],
    labels: np.ndarray[Any, Any],
    names: list[str],
    data: StudyData,
) -> None:
    """Draws two confusion matrices over all test folds.

    One is of the chosen single modality, the other of the chosen fused model.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    # Chosen again in the same way as in `summarise`, so that the plot fits the report.
    groups = {
        "best single modality": [
            r for r in results if not r.is_fused and not r.model.startswith("TF-IDF")
        ],
        "fused": [r for r in results if r.is_fused],
    }
    for axis, (title, rows) in zip(axes, groups.items(), strict=True):
        logits, _ = choose(results, rows, parts)
        ConfusionMatrixDisplay.from_predictions(
            labels, logits.argmax(1), display_labels=names, ax=axis, colorbar=False, cmap="Blues"
        )
        axis.set_title(f"{title} (chosen on validation data)", fontsize=10)
    figure.suptitle(f"{data.name}, {protocol}, pictures {_PICTURES[way]}{_warning(data)}")
    figure.savefig(folder / _file("confusion", protocol, way), dpi=110)
    plt.close(figure)


def _file(kind: str, protocol: str, way: str) -> str:
    return f"{kind}-{protocol.replace(' ', '-')}{'' if way == 'none' else f'-{way}'}.png"


def _warning(data: StudyData) -> str:
    return " (synthetic pictures)" if data.synthetic_images else ""
