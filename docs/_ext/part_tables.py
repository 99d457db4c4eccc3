"""The tables that the README and the page of families show, written from code and measurements.

    python docs/_ext/part_tables.py
    python docs/_ext/part_tables.py --check

With `--check` nothing is written. The exit status is 1 if a page does not match.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
FAMILIES = ROOT / "docs" / "families.md"
IMBALANCE = ROOT / "examples" / "results" / "imbalance" / "ham10000.json"
VERDICTS = ROOT / "tests" / "golden" / "transformers_families.json"
START, END = "<!-- parts:start -->", "<!-- parts:end -->"
DEFAULTS = ("concat", "linear")


def tables() -> str:
    """Returns the two tables in Markdown."""
    from mmfusion.model.fusion import BUILT_IN, FUSIONS
    from mmfusion.model.mapper import MAPPERS

    lines = ["| `fusion=` | scheme | what it does |", "| --- | --- | --- |"]
    for name in BUILT_IN:
        strategy = FUSIONS[name]
        lines.append(f"| {_cell(name)} | {strategy.scheme} | {strategy.summary} |")
    lines += ["", "| `mapper=` | what it does to the text |", "| --- | --- |"]
    lines += [f"| {_cell(name)} | {summary} |" for name, summary in MAPPERS.items()]
    return "\n".join(lines)


def directives() -> str:
    """Returns the entries of the strategies on the API page, as a MyST block."""
    from mmfusion.model.fusion import BUILT_IN, FUSIONS

    entries = [f".. autoclass:: {FUSIONS[name].__name__}" for name in BUILT_IN]
    return "\n".join(["```{eval-rst}", ".. currentmodule:: mmfusion", "", *entries, "```"])


def recipes() -> str:
    """Returns the table of training defaults in Markdown."""
    from mmfusion.training.recipe import RECIPES

    lines = [
        "| what trains | learning rate | of pretrained parameters | weight decay | most epochs "
        "| patience |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, recipe in RECIPES.items():
        pretrained = recipe.pretrained_learning_rate
        rate = "none trains" if pretrained is None else f"{pretrained:g}"
        lines.append(
            f"| `{name}` | {recipe.learning_rate:g} | {rate} | {recipe.weight_decay:g} "
            f"| {recipe.epochs} | {recipe.patience} |"
        )
    return "\n".join(lines)


def imbalance() -> str:
    """Returns the table of trainings with and without balanced class weights, in Markdown."""
    results = json.loads(IMBALANCE.read_text(encoding="utf-8"))
    metrics = ("balanced_accuracy", "accuracy", "auroc", "cross_entropy", "ece")
    lines = ["| model | loss | balanced accuracy | accuracy | AUROC | cross-entropy | ECE |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for name, rows in results["rows"].items():
        for loss, row in rows.items():
            cells = [f"{row[metric]['estimate']:.3f}" for metric in metrics]
            lines.append(f"| {name} | {loss} | {' | '.join(cells)} |")
        gaps = [results["balanced_minus_plain"][name][metric] for metric in metrics]
        cells = [f"{g['difference']:+.3f} ({g['low']:+.3f} to {g['high']:+.3f})" for g in gaps]
        lines.append(f"| {name} | balanced minus plain | {' | '.join(cells)} |")
    return "\n".join(lines)


def families() -> str:
    """Returns the table of all families of transformers with their verdicts, in Markdown."""
    from mmfusion.model.pooling import IMAGE_POOLERS, TEXT_POOLING

    rows = json.loads(VERDICTS.read_text(encoding="utf-8"))["families"]
    lines = ["| family | input | verdict | texts of unlike length | pooling | heads read |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for family, row in rows.items():
        padded = {None: "", True: "one padded batch", False: "groups of equal length"}
        heads = str(len(row.get("heads", [])) or "")
        pooling = TEXT_POOLING.get(family, "mean") if row["kind"] == "text" else "tokens"
        pooling = "pooler" if family in IMAGE_POOLERS else pooling
        pooling = pooling if row["verdict"] == "laws hold" else ""
        cells = [row["verdict"], padded[row.get("padded")], pooling, heads]
        lines.append(f"| `{family}` | {row['kind']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def inserted(page: str, held: str | None = None, start: str = START, end: str = END) -> str:
    """Returns the README, or another page, with its tables between their marker lines.

    Args:
        page: its text.
        held: the tables. None: those of the README.
        start: the marker line before the tables.
        end: the marker line behind them.

    Raises:
        ValueError: if a marker is missing.
    """
    if start not in page or end not in page:
        raise ValueError(f"the page must hold the lines {start!r} and {end!r}, got one without.")
    before, _, rest = page.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n\n{held or tables()}\n\n{end}{after}"


def _cell(name: str) -> str:
    return f"`{name}` (default)" if name in DEFAULTS else f"`{name}`"


if __name__ == "__main__":
    pages = {README: tables(), FAMILIES: families()}
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    if "--check" in sys.argv:
        sys.exit(any(inserted(text, pages[page]) != text for page, text in texts.items()))
    for page, text in texts.items():
        page.write_text(inserted(text, pages[page]), encoding="utf-8")
