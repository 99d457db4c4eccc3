"""The plots of the lung segmenters: learning curves, example masks and the ten worst masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

# This backend needs no display. It must be chosen before pyplot is imported.
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from segment_data import LungSample, Masks, Pixels

_TRUE, _FOUND = "#00a0ff", "#ff8000"


def draw_curves(path: Path, title: str, curves: Sequence[dict[str, list[float]]]) -> None:
    """Draws Dice and loss by epoch, with a thin line for each fold and a thick one for the mean."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, name in zip(axes, ("dice", "loss"), strict=True):
        for key, colour, label in (
            (name, "tab:grey", "training (augmented)"),
            (f"val_{name}", "tab:blue", "held-out fold"),
        ):
            # A training without validation data has no "val_" curves.
            lines = [curve[key] for curve in curves if key in curve]
            for line in lines:
                axis.plot(range(1, len(line) + 1), line, color=colour, alpha=0.3, linewidth=1)
            if lines:
                axis.plot(
                    range(1, len(lines[0]) + 1), np.mean(lines, axis=0), color=colour, label=label
                )
        axis.set(xlabel="epoch", ylabel={"dice": "Dice", "loss": "loss"}[name])
        axis.grid(alpha=0.3)
    # A range from 0 would hide the small differences between folds.
    axes[0].set_ylim(0.8, 1)
    axes[0].legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_examples(
    path: Path, samples: Sequence[LungSample], pairs: tuple[Pixels, Masks], maps: dict[str, Pixels]
) -> None:
    """Draws eight X-rays with the outline of a reader and the outline of each model.

    The outline comes from the fold in which the X-ray was not trained on.
    """
    # Evenly spaced, so that nobody picks the X-rays by how well their masks look.
    chosen = np.linspace(0, len(samples) - 1, 8).astype(int)
    figure, axes = plt.subplots(
        len(maps),
        len(chosen),
        figsize=(2 * len(chosen), 2.3 * len(maps)),
        layout="constrained",
        squeeze=False,
    )
    for line, (name, masks) in zip(axes, maps.items(), strict=True):
        for axis, index in zip(line, chosen, strict=True):
            _outlined(axis, pairs, masks, index)
        line[0].set_ylabel(name.split(" (")[0])
    _legend(figure)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_worst(
    path: Path,
    title: str,
    samples: Sequence[LungSample],
    pairs: tuple[Pixels, Masks],
    maps: Pixels,
    scores: np.ndarray[Any, Any],
) -> None:
    """Draws the ten X-rays with the lowest Dice."""
    figure, axes = plt.subplots(2, 5, figsize=(12, 5.6), layout="constrained")
    for axis, index in zip(axes.ravel(), np.argsort(scores)[:10], strict=False):
        _outlined(axis, pairs, maps, int(index))
        axis.set_title(f"{samples[index].uid[:18]}\nDice {scores[index]:.3f}", fontsize=8)
    figure.suptitle(f"The worst ten: {title}")
    _legend(figure)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _outlined(axis: Any, pairs: tuple[Pixels, Masks], maps: Pixels, index: int) -> None:
    """Draws one X-ray with the outlines of the reader's mask and of the model's mask."""
    axis.imshow(pairs[0][index, ..., 0], cmap="gray", vmin=0, vmax=1)
    # matplotlib warns if a map has no outline to draw.
    for mask, colour in ((pairs[1][index, ..., 0].astype(float), _TRUE), (maps[index], _FOUND)):
        if mask.min() < 0.5 < mask.max():
            axis.contour(mask, [0.5], colors=[colour], linewidths=1)
    axis.set(xticks=[], yticks=[])


def _legend(figure: Any) -> None:
    lines = [
        Line2D([], [], color=_TRUE, label="drawn by a reader"),
        Line2D([], [], color=_FOUND, label="found"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=2)
