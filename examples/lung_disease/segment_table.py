"""The table of the lung segmenters in Markdown, made from the JSON of `segment.py` alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def render(results: Sequence[dict[str, Any]]) -> str:
    """Returns the table of all runs, one line per model and collection that it was measured on."""
    lines = [
        "| model | measured on | how | X-rays | Dice, mean | worst tenth | least | recipe |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in results:
        for source, scores in run.get("shipped", {}).items():
            # Dice on its own training X-rays is too good, so the table says which those are.
            how = "the X-rays it was trained on" if source == "shenzhen" else "never trained on"
            lines.append(
                f"| LungSegmenter, as shipped | {source} | {how} | {_figures(scores)} | "
                f"{run['versions']['backend']} |"
            )
        # A file of the shipped weights alone holds no training.
        if "recipe" not in run:
            continue
        recipe = (
            f"width {run['recipe']['width']}, {run['recipe']['epochs']} epochs, "
            f"augmentation {run['recipe']['augmentation']:g}, {run['versions']['backend']}"
        )
        for name, model in run["models"].items():
            for source, scores in model["cross_validated_dice"].items():
                lines.append(
                    f"| {name} | {source} | {model['folds']} folds | "
                    f"{_figures(scores)} | {recipe} |"
                )
        if "another_hospital" in run:
            away = run["another_hospital"]
            how = f"all of {away['trained_on']} to train"
            lines.append(
                f"| model 2 (shenzhen) | {away['measured_on']} | {how} | {_figures(away['dice'])} "
                f"| {recipe} |"
            )
    return "\n".join(lines)


def _figures(scores: dict[str, float]) -> str:
    """Returns the four middle cells of a line: count, mean, worst tenth and least."""
    mean = f"{scores['mean']:.4f} ({scores['low']:.4f} to {scores['high']:.4f})"
    return f"{scores['count']} | {mean} | {scores['worst_tenth']:.3f} | {scores['least']:.3f}"
