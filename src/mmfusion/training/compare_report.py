"""The words of a comparison: the verdict, the table on the screen, and report.md."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from .compare_rows import TFIDF

_NAME_WIDTH = 22
EXPLANATION = (
    "Each sample is answered by a model that was not trained on it. A figure is the mean over the "
    "seeds. The 95 % intervals resample patients (groups) and trainings (seeds). ECE is the "
    "expected calibration error. *Minus single* is the AUROC minus that of the best single "
    "modality, which is chosen in each fold on held-out answers; p is two-sided, and corrected by "
    "Holm over the fused rows. *Image* and *text* are each modality's share of the AUROC above 0.5 "
    "(Shapley values of the fused model with a modality withheld)."
)
"""The sentences below the table, in Markdown."""


def verdict(results: Mapping[str, Any]) -> str:
    """Returns in plain words whether fusing helped, by how much, and how sure that is.

    Args:
        results: the content of results.json.
    """
    choice = results["choice"]
    if choice is None:
        return (
            "Fused models and single modalities were not both trained, so nothing is said about "
            "fusing."
        )
    single, fused, gap = choice["single"], choice["fused"], choice["difference"]
    areas = [_number(one["auroc"]["estimate"]) for one in (fused, single)]
    against = (
        f"AUROC {areas[0]} against {areas[1]} of the best single modality ({_majority(single)}), "
        f"{_signed(gap)}"
    )
    # Whether an interval contains 0 decides. Without an interval nothing is decided.
    if gap["low"] is not None and gap["low"] > 0:
        first = f"Fusing helped: {against}. The interval is above zero."
    elif gap["high"] is not None and gap["high"] < 0:
        first = f"Fusing did harm: {against}. The interval is below zero."
    else:
        first = f"Whether fusing helps is not certain: {against}. The interval contains zero."
    words = next((row for row in results["rows"] if row["name"] == TFIDF), None)
    if words and words["auroc"]["estimate"] > fused["auroc"]["estimate"]:
        first += (
            " TF-IDF with logistic regression on the text alone has "
            f"{_number(words['auroc']['estimate'])}, more than the fused model."
        )
    return first


def console_table(results: Mapping[str, Any]) -> Table:
    """Returns the table for the screen, which fits 80 columns.

    The column "- best" is the AUROC minus that of the best single modality.

    Args:
        results: the content of results.json.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("model", no_wrap=True, max_width=_NAME_WIDTH, overflow="ellipsis")
    for name in ("acc.", "AUROC", "95 % interval", "ECE", "- best", "95 % interval"):
        table.add_column(name, no_wrap=True, justify="right")
    for row in results["rows"]:
        area, gap = row["auroc"], row.get("minus_single")
        table.add_row(
            row["name"],
            f"{row['accuracy']['estimate']:.3f}",
            _number(area["estimate"]),
            _range(area),
            f"{row['ece']['estimate']:.3f}",
            "" if gap is None else _signed({"estimate": gap["estimate"], "low": None}),
            "" if gap is None or gap["low"] is None else f"{gap['low']:+.3f} to {gap['high']:+.3f}",
        )
    return table


def markdown(results: Mapping[str, Any], plots: Sequence[tuple[str, str]]) -> str:
    """Returns report.md.

    Args:
        results: the content of results.json.
        plots: the file and the caption of each plot.
    """
    lines = ["# Comparison", "", f"**{results['verdict']}**", ""]
    lines += [f"- {note}" for note in results["notes"]]
    header, *body = table_cells(results)
    lines += ["", f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    lines += [f"| {' | '.join(cells)} |" for cells in body]
    lines += ["", EXPLANATION, ""]
    lines += [f"- {line}" for line in choice_lines(results)]
    for file, caption in plots:
        lines += ["", f"![{caption}]({file})", "", caption]
    lines += ["", "## How it was made", "", *(f"- {line}" for line in provenance(results)), ""]
    return "\n".join(lines)


def table_cells(results: Mapping[str, Any]) -> list[list[str]]:
    """Returns the cells of the full table; the first line holds the headings.

    A column that no row fills is left out.

    Args:
        results: the content of results.json.
    """
    names = ["model", "accuracy", "balanced accuracy", "AUROC", "ECE", "minus single", "p (Holm)"]
    names += ["image", "text", "seconds", "parameters trained", "published accuracy"]
    table = []
    for row in results["rows"]:
        gap, shares = row.get("minus_single"), row.get("shares")
        metrics = [_interval(row[name]) for name in ("accuracy", "balanced_accuracy", "auroc")]
        p = None if gap is None else gap.get("p_holm")
        table.append(
            [
                row["name"],
                *metrics,
                f"{row['ece']['estimate']:.3f}",
                "" if gap is None else _signed(gap),
                "" if p is None else f"{p:.3f}",
                *("" if shares is None else f"{shares[name]:+.3f}" for name in ("image", "text")),
                f"{row['seconds']:.2f}",
                f"{row['parameters']:,}",
                "" if row["published"] is None else f"{row['published']:.2f}",
            ]
        )
    kept = [i for i in range(len(names)) if any(cells[i] for cells in table)]
    return [[cells[i] for i in kept] for cells in [names, *table]]


def choice_lines(results: Mapping[str, Any]) -> list[str]:
    """Returns sentences about the choices, and about calibration.

    Args:
        results: the content of results.json.
    """
    lines = []
    choice = results["choice"]
    if choice is not None:
        for kind in ("single", "fused"):
            lines.append(f"Chosen {kind} model, by fold and seed: {_counted(choice[kind])}.")
        against = "; ".join(
            f"minus {name} {_signed(gap)}" for name, gap in choice["fused_minus"].items()
        )
        lines.append(f"The chosen fused model, {against}.")
    changed = [row for row in results["rows"] if row["ece"]["estimate"] != row["ece_uncalibrated"]]
    if changed:
        told = ", ".join(
            f"{row['name']} {row['ece_uncalibrated']:.3f} to {row['ece']['estimate']:.3f}"
            for row in changed
        )
        lines.append(f"ECE before and after the temperature: {told}.")
    return lines


def provenance(results: Mapping[str, Any]) -> list[str]:
    """Returns sentences about settings and versions.

    Args:
        results: the content of results.json.
    """
    settings = results["settings"]
    encoders = [f"{name}: {one}" for name, one in settings["encoders"].items() if one]
    lines = [f"{settings['folds']} folds, {settings['seeds']} seeds; {'; '.join(encoders)}"]
    if settings["template"]:
        lines.append(f"template of the texts: {settings['template']!r}")
    if settings["options"]:
        told = ", ".join(f"{name} {value}" for name, value in settings["options"].items())
        lines.append(f"options of the training: {told}")
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return [*lines, versions, f"{results['seconds']:.0f} seconds, without what was stored before"]


def _majority(choice: Mapping[str, Any]) -> str:
    """Returns the name that was chosen most often."""
    names = [name for seed in choice["names"] for name in seed]
    return max(dict.fromkeys(names), key=names.count)


def _counted(choice: Mapping[str, Any]) -> str:
    names = [name for seed in choice["names"] for name in seed]
    return ", ".join(f"{name} {names.count(name)} x" for name in dict.fromkeys(names))


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _interval(one: Mapping[str, float | None]) -> str:
    text = _number(one["estimate"])
    return text if one["low"] is None else f"{text} ({one['low']:.3f} to {one['high']:.3f})"


def _range(one: Mapping[str, float | None]) -> str:
    return "" if one["low"] is None else f"{one['low']:.3f} to {one['high']:.3f}"


def _signed(one: Mapping[str, float | None]) -> str:
    text = "undefined" if one["estimate"] is None else f"{one['estimate']:+.3f}"
    return text if one["low"] is None else f"{text} ({one['low']:+.3f} to {one['high']:+.3f})"
