"""What `segment.py` measured, in Markdown, made from its JSON alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def render(results: Sequence[dict[str, Any]]) -> str:
    """Returns a table of all runs: one line per model and collection that it was measured on."""
    lines = [
        "| model | measured on | how | X-rays | Dice, mean | worst tenth | least | recipe |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in results:
        for source, found in run.get("shipped", {}).items():
            how = "the X-rays it was trained on" if source == "shenzhen" else "never trained on"
            lines.append(
                f"| LungSegmenter, as shipped | {source} | {how} | {_figures(found)} | {run['versions']['backend']} |"
            )
        if "recipe" not in run:
            continue
        recipe = (
            f"width {run['recipe']['width']}, {run['recipe']['epochs']} epochs, augmentation {run['recipe']['augmentation']:g}, "
            f"{run['versions']['backend']}"
        )
        for name, model in run["models"].items():
            for source, found in model["cross_validated_dice"].items():
                lines.append(
                    f"| {name} | {source} | {model['folds']} folds | {_figures(found)} | {recipe} |"
                )
        if "another_hospital" in run:
            away = run["another_hospital"]
            how = f"all of {away['trained_on']} to train"
            lines.append(
                f"| model 2 (shenzhen) | {away['measured_on']} | {how} | {_figures(away['dice'])} | {recipe} |"
            )
    return "\n".join(lines)


def _figures(found: dict[str, float]) -> str:
    mean = f"{found['mean']:.4f} ({found['low']:.4f} to {found['high']:.4f})"
    return f"{found['count']} | {mean} | {found['worst_tenth']:.3f} | {found['least']:.3f}"
