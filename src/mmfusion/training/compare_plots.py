"""The plots of a comparison: differences, ROC curves, confusion, reliability, learning curves."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import ConfusionMatrixDisplay, roc_curve

from .compare_baselines import Array
from .compare_rows import ComparisonRow
from .compare_summary import Answers

_BINS = 10
_MOST_CLASSES = 12
"""A confusion matrix of more classes cannot be read."""


def require_report() -> None:
    """Raises an ImportError that names the extra if a package of the report is not installed."""
    absent = [name for name in ("matplotlib", "statsmodels") if find_spec(name) is None]
    if absent:
        raise ImportError(
            f"{', '.join(absent)} must be installed for the report, got no such package. "
            'Run: pip install "mmfusion[report]"'
        )


def draw(
    folder: Path,
    answers: Answers,
    rows: Sequence[ComparisonRow],
    results: dict[str, Any],
    names: Sequence[str],
) -> list[tuple[str, str]]:
    """Draws the plots as SVG files, and returns the file name and the caption of each.

    A plot for which there is nothing to show is left out.

    Args:
        folder: where they are written.
        answers: of the comparison.
        rows: in the order of the table.
        results: the content of results.json.
        names: of the classes.
    """
    import matplotlib.pyplot as plt
    from matplotlib import rc_context

    drawn: list[tuple[str, str]] = []
    encoded = [row for row in rows if row.has_encoder]
    wanted: list[tuple[str, str, Callable[[], Any]]] = [
        (
            "differences",
            "AUROC minus that of the best single modality, with 95 % intervals. Right of the line, "
            "a row is better.",
            lambda: forest_plot(plt, results),
        ),
        (
            "roc",
            "ROC curves over all test folds, mean of the seeds; with more than two classes, the "
            "mean of each class against the rest.",
            lambda: _roc(plt, answers, [row for row in rows if row.modalities]),
        ),
        (
            "reliability",
            "Reliability: how often the most probable class is right, by its probability, over "
            "all seeds. On the diagonal, probabilities are frequencies.",
            lambda: _reliability(plt, answers, encoded),
        ),
        (
            "confusion",
            "Confusion matrices of the models that were chosen in each fold, in percent of the "
            "true class, over all seeds.",
            lambda: _confusion(plt, answers, rows, results, names),
        ),
        (
            "curves",
            "Validation loss and AUROC by epoch, mean over folds and seeds. Epoch 0 is the warm "
            "start. Rows that the warm start solves are not shown.",
            lambda: _curves(plt, answers, encoded),
        ),
    ]
    # Without a salt, matplotlib writes other names into the file at every run.
    with rc_context({"svg.hashsalt": "mmfusion", "svg.fonttype": "none", "font.size": 9}):
        for name, caption, make in wanted:
            figure = make()
            if figure is not None:
                figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
                plt.close(figure)
                drawn.append((f"{name}.svg", caption))
    return drawn


def forest_plot(plt: Any, results: dict[str, Any]) -> Any:
    """Returns the forest plot of the differences to the best single modality, or None without one.

    Args:
        plt: matplotlib.pyplot.
        results: the content of results.json.
    """
    # The majority class is so far below that the other rows could not be told apart.
    points = [
        (row["name"], row["minus_single"])
        for row in results["rows"]
        if "minus_single" in row and row["modalities"]
    ]
    if results["choice"] is not None:
        points.append(("chosen fused model", results["choice"]["difference"]))
    points = [(name, gap) for name, gap in points if gap["low"] is not None]
    if not points:
        return None
    figure, axis = plt.subplots(figsize=(7, 0.8 + 0.3 * len(points)), layout="constrained")
    for place, (name, gap) in enumerate(points):
        chosen = name == "chosen fused model"
        axis.plot(
            [gap["low"], gap["high"]], [place, place], color="C3" if chosen else "C0", linewidth=2
        )
        axis.plot(gap["estimate"], place, "D" if chosen else "o", color="C3" if chosen else "C0")
    axis.axvline(0, color="0.4", linewidth=1)
    axis.set_yticks(range(len(points)), [name for name, _ in points])
    axis.invert_yaxis()
    axis.set_xlabel("AUROC minus best single modality")
    axis.grid(axis="x", alpha=0.3)
    return figure


def _roc(plt: Any, answers: Answers, rows: Sequence[ComparisonRow]) -> Any:
    """Returns the ROC curves, or None without one: no model, or only one class."""
    grid = np.linspace(0, 1, 201)
    figure, axis = plt.subplots(figsize=(5.5, 5), layout="constrained")
    for row in rows:
        curves = []
        for logits in answers.logits(row.name):
            for score, truth in _one_against_rest(answers.probabilities(logits), answers.labels):
                if 0 < truth.sum() < len(truth):
                    false, true, _ = roc_curve(truth, score)
                    curves.append(np.interp(grid, false, true))
        if curves:
            mean = np.concatenate([[0], np.mean(curves, axis=0)])
            axis.plot(np.concatenate([[0], grid]), mean, label=row.name, linewidth=1.5)
    if not axis.lines:
        plt.close(figure)
        return None
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    axis.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right", fontsize=8)
    return figure


def _one_against_rest(probabilities: Array, labels: Array) -> list[tuple[Array, Array]]:
    """Returns scores and truth of each curve: one for two classes, else one for each class."""
    if labels.ndim == 2:
        known = ~np.isnan(labels)
        columns = range(labels.shape[1])
        return [
            (probabilities[known[:, c], c], labels[known[:, c], c].astype(int)) for c in columns
        ]
    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    return [(probabilities[:, c], (labels == c).astype(int)) for c in classes]


def _reliability(plt: Any, answers: Answers, rows: Sequence[ComparisonRow]) -> Any:
    if not rows:
        return None
    figure, axis = plt.subplots(figsize=(5.5, 5), layout="constrained")
    for row in rows:
        confidence, right = [], []
        for logits in answers.logits(row.name):
            values = answers.probabilities(logits)
            if answers.labels.ndim == 2:
                known = ~np.isnan(answers.labels)
                confidence.append(np.maximum(values, 1 - values)[known])
                right.append(((values > 0.5) == (answers.labels == 1))[known])
            else:
                confidence.append(values.max(1))
                right.append(values.argmax(1) == answers.labels)
        # Bins of equal size: equal widths would leave some of them nearly empty.
        seen, predicted = calibration_curve(
            np.concatenate(right), np.concatenate(confidence), n_bins=_BINS, strategy="quantile"
        )
        axis.plot(predicted, seen, marker="o", markersize=4, label=row.name)
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    axis.set(xlabel="probability of the answer", ylabel="share of right answers")
    low = 0.0 if answers.labels.ndim == 1 and len(np.unique(answers.labels)) > 2 else 0.4
    axis.set(xlim=(low, 1.01), ylim=(low, 1.01))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def _confusion(
    plt: Any,
    answers: Answers,
    rows: Sequence[ComparisonRow],
    results: dict[str, Any],
    names: Sequence[str],
) -> Any:
    """Returns the confusion matrices, or None if labels are multi-label or too many."""
    if answers.labels.ndim == 2 or len(names) > _MOST_CLASSES:
        return None
    titles = {kind: f"{kind}, chosen" for kind in ("single", "fused")}
    if results["choice"] is None:
        shown = [(row.name, answers.logits(row.name)) for row in rows if row.has_encoder][:2]
    else:
        shown = [
            (title, answers.of_choice(results["choice"][kind]["names"]))
            for kind, title in titles.items()
        ]
    if not shown:
        return None
    side = 2.2 + 0.45 * len(names)
    figure, axes = plt.subplots(
        1, len(shown), figsize=(side * len(shown), side), layout="constrained", squeeze=False
    )
    for axis, (title, logits) in zip(axes[0], shown, strict=True):
        ConfusionMatrixDisplay.from_predictions(
            np.tile(answers.labels, len(logits)),
            np.concatenate(logits).argmax(1),
            labels=range(len(names)),
            display_labels=names,
            normalize="true",
            values_format=".0%",
            ax=axis,
            colorbar=False,
            cmap="Blues",
            xticks_rotation=45 if len(names) > 2 else "horizontal",
        )
        axis.set_title(title)
    return figure


def _curves(plt: Any, answers: Answers, rows: Sequence[ComparisonRow]) -> Any:
    """Returns the learning curves, or None if no row was trained in epochs."""
    found = {}
    for row in rows:
        logs = [outcome["curve"] for seed in answers.outcomes[row.name] for outcome in seed]
        if any(len([entry for entry in log if "eval_loss" in entry]) > 1 for log in logs):
            found[row.name] = logs
    if not found:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, logs in found.items():
        for axis, key in zip(axes, ("eval_loss", "eval_auroc"), strict=True):
            curves = [[entry[key] for entry in log if key in entry] for log in logs]
            # Trainings may differ in their number of epochs. The mean covers those that all have.
            length = min(map(len, curves))
            if length:
                axis.plot(np.mean([curve[:length] for curve in curves], axis=0), label=name)
    for axis, name in zip(axes, ("validation loss", "validation AUROC"), strict=True):
        axis.set(xlabel="epoch", ylabel=name)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    return figure
