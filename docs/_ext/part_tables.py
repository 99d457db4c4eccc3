"""The tables of strategies and mappers, written into the README from the tables in the code.

    python docs/_ext/part_tables.py
    python docs/_ext/part_tables.py --check

With `--check` nothing is written. The exit status is 1 if the README does not match the code.
"""

from __future__ import annotations

import sys
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
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


def inserted(readme: str) -> str:
    """Returns the README with the tables between their marker lines.

    Args:
        readme: its text.

    Raises:
        ValueError: if a marker is missing.
    """
    if START not in readme or END not in readme:
        raise ValueError(f"the README must hold the lines {START!r} and {END!r}, got one without.")
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{tables()}\n\n{END}{after}"


def _cell(name: str) -> str:
    return f"`{name}` (default)" if name in DEFAULTS else f"`{name}`"


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        sys.exit(inserted(text) != text)
    README.write_text(inserted(text), encoding="utf-8")
