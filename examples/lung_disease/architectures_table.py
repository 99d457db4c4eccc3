"""The tables of `architectures.py` in Markdown, made from its results.json alone."""

from __future__ import annotations

from typing import Any

NAMES = {"none": "raw", "mask": "segmented", "crop": "cut to the lungs"}


def accuracy_table(results: dict[str, Any]) -> list[str]:
    """Returns the lines of a Markdown table laid out like the published one.

    It shows the accuracy on the held-out folds after each epoch, with the published one below it.
    """
    epochs = range(1, results["settings"]["epochs"] + 1)
    lines = [
        f"| architecture | weights | X-rays | {' | '.join(map(str, epochs))} |",
        f"| --- | --- | --- |{' --- |' * len(epochs)}",
    ]
    for row in results["rows"]:
        accuracies = [f"{value:.4f}" for value in row["accuracy_by_epoch"]]
        lines.append(
            f"| {row['model']} | {row['weights']} | {NAMES[row['segment']]} | "
            f"{' | '.join(accuracies)} |"
        )
        if row["published_accuracy_by_epoch"] is not None and row["segment"] != "crop":
            # The published table has five epochs, and this run may have fewer or more.
            published = [f"{value:.4f}" for value in row["published_accuracy_by_epoch"]][
                : len(epochs)
            ]
            published += [""] * (len(epochs) - len(published))
            lines.append(f"| | | {NAMES[row['segment']]}, published | {' | '.join(published)} |")
    return lines


def change_table(results: dict[str, Any]) -> list[str]:
    """Returns the lines of a Markdown table of what segmenting changed.

    It shows accuracy and AUROC of the last epoch, and the paired differences, segmented minus raw.
    """
    lines = [
        "| architecture | weights | X-rays | accuracy | AUROC | accuracy minus raw | "
        "AUROC minus raw | p of the accuracy (Holm) | published change of best epochs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results["rows"]:
        figures = [
            f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"
            for name in ("accuracy", "auroc")
        ]
        # A raw row has nothing to be compared with: its last four cells stay empty.
        changes = ["", "", "", ""]
        if row["segment"] != "none":
            changes = [
                f"{row[name]:+.3f} ({row[f'{name}_low']:+.3f} to {row[f'{name}_high']:+.3f})"
                for name in ("accuracy_minus_raw", "auroc_minus_raw")
            ]
            changes.append(
                f"{row['accuracy_minus_raw_p']:.3f} ({row['accuracy_minus_raw_p_holm']:.3f})"
            )
            # The published gain belongs to masked X-rays, not to cropped ones.
            points = row["published_change_points"]
            changes.append(
                "" if points is None or row["segment"] == "crop" else f"{points:+.1f} points"
            )
        lines.append(
            "| "
            + " | ".join([row["model"], row["weights"], NAMES[row["segment"]], *figures, *changes])
            + " |"
        )
    return lines


def render(results: dict[str, Any]) -> str:
    """Returns both tables in Markdown, with the command, the data and the versions."""
    settings = results["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        f"`{results['command']}`",
        "",
        f"{results['dataset']}, {results['rows'][0]['samples']} X-rays at {settings['image_size']} "
        f"pixels, {settings['folds']} folds, seed {settings['seed']}; {versions}. "
        "Accuracy on the held-out folds after each epoch, the published one below it:",
        "",
        *accuracy_table(results),
        "",
        "The last epoch, segmented minus raw, on the same samples. "
        "Intervals and p-values (paired bootstrap by patient) "
        "say how much other X-rays would change it, not how much another seed of the training "
        "would. AUROC is taken of ranks in folds.",
        "",
        *change_table(results),
    ]
    return "\n".join(lines)
