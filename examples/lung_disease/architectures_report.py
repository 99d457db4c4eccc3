"""The output of `architectures.py`: report.md, accuracy by epoch, and the attention of the ViTs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import matplotlib

# This backend needs no display. It must be chosen before pyplot is imported.
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from architectures_table import NAMES, accuracy_table, change_table
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from PIL import Image

from mmfusion import FusionProcessor, ImageAttention, ImageEncoder, image_attention, load_image

_EXAMPLES = 4


def write_table(folder: Path, results: dict[str, Any]) -> None:
    """Writes report.md.

    It shows the accuracies by epoch, the published ones below them, and what segmenting changed.
    """
    lines = [
        f"# Architectures on raw and segmented X-rays: {results['dataset']}",
        "",
        f"Command: `{results['command']}`",
        "",
    ]
    lines += [f"- {note.strip()}" for note in results["cohort"]]
    lines += [
        "",
        *accuracy_table(results),
        "",
        "## What segmenting changed",
        "",
        *change_table(results),
        "",
    ]
    lines += ["![accuracy by epoch](accuracies.png)", ""]
    (folder / "report.md").write_text("\n".join(lines), encoding="utf-8")


def draw_accuracies(folder: Path, results: dict[str, Any]) -> None:
    """Draws accuracy by epoch, one panel per architecture.

    A thin line is a fold, a thick line the mean of the folds, a dotted line the published figures.
    """
    names = list(dict.fromkeys(row["model"] for row in results["rows"]))
    # More than four panels side by side would be too small to read.
    columns = min(4, len(names))
    # The two minus signs round the division up.
    lines = -(-len(names) // columns)
    figure, grid = plt.subplots(
        lines,
        columns,
        figsize=(3.2 * columns, 2.8 * lines),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    colours = {"none": "tab:grey", "mask": "tab:blue", "crop": "tab:orange"}
    for axis, name in zip(grid.ravel(), names, strict=False):
        for row in results["rows"]:
            if row["model"] == name:
                colour, label = colours[row["segment"]], NAMES[row["segment"]]
                for fold in row["accuracy_by_epoch_and_fold"]:
                    axis.plot(range(1, len(fold) + 1), fold, color=colour, alpha=0.25, linewidth=1)
                mean = row["accuracy_by_epoch"]
                axis.plot(range(1, len(mean) + 1), mean, color=colour, linewidth=2, label=label)
                # The published X-rays were masked and not cropped.
                if row["published_accuracy_by_epoch"] is not None and row["segment"] != "crop":
                    published = row["published_accuracy_by_epoch"]
                    axis.plot(
                        range(1, len(published) + 1),
                        published,
                        ":",
                        color=colour,
                        label=f"{label}, published",
                    )
        weights = next(row["weights"] for row in results["rows"] if row["model"] == name)
        axis.set(title=f"{name}\n{weights}", xlabel="epoch", ylim=(0.15, 1))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    # The last line of the grid may have empty panels.
    for axis in grid.ravel()[len(names) :]:
        axis.set_axis_off()
    # The panels share their labels; a dict keeps one handle of each for the common legend.
    handles = {
        label: handle
        for axis in grid.ravel()
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    figure.suptitle(f"{results['dataset']}: accuracy on the held-out folds")
    figure.savefig(folder / "accuracies.png", dpi=110)
    plt.close(figure)


def draw_attention(
    folder: Path,
    name: str,
    encoder: ImageEncoder,
    processor: FusionProcessor,
    test: datasets.Dataset,
) -> None:
    """Draws the attention of a ViT over X-rays of its test fold.

    One picture shows the attention rollout of a few X-rays, the first ones of each class in turn.
    Another shows the first of them by layer and head.
    """
    labels = np.asarray(test["label"])
    # Sorted by the rank within the class, so that the first rows hold every class in turn.
    ranks = np.asarray([int((labels[:i] == label).sum()) for i, label in enumerate(labels)])
    chosen = np.lexsort((labels, ranks))[:_EXAMPLES]
    pictures = [load_image(test[int(i)]["image"]).convert("L") for i in chosen]
    device = next(encoder.parameters()).device
    attention = image_attention(encoder, processor(images=pictures)["pixel_values"].to(device))
    classes = test.features["label"].names
    figure, axes = plt.subplots(
        2, len(chosen), figsize=(2.6 * len(chosen), 5.6), layout="constrained", squeeze=False
    )
    for column, (picture, index) in enumerate(zip(pictures, chosen, strict=True)):
        axes[0, column].imshow(picture, cmap="gray")
        axes[0, column].set(title=classes[labels[index]], xticks=[], yticks=[])
        _overlaid(axes[1, column], picture, attention.rollout[column])
    figure.suptitle("attention rolled out from the class token")
    figure.savefig(folder / f"{name}-rollout.png", dpi=110)
    # pyplot keeps every figure in memory until it is closed.
    plt.close(figure)
    _draw_heads(folder / f"{name}-heads.png", pictures[0], attention)


def _draw_heads(path: Path, picture: Image.Image, attention: ImageAttention) -> None:
    """Draws the attention of the class token over one X-ray, a column per layer, a row per head."""
    layers, heads = attention.heads.shape[1:3]
    figure, axes = plt.subplots(
        heads,
        layers,
        figsize=(1.3 * layers, 1.4 * heads + 0.6),
        layout="constrained",
        squeeze=False,
    )
    for layer in range(layers):
        for head in range(heads):
            _overlaid(axes[head, layer], picture, attention.heads[0, layer, head])
        axes[0, layer].set_title(f"layer {layer + 1}", fontsize=8)
    for head in range(heads):
        axes[head, 0].set_ylabel(f"head {head + 1}", fontsize=8)
    figure.suptitle("attention of the class token, by layer and head")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _overlaid(axis: Axes, picture: Image.Image, weights: torch.Tensor) -> None:
    """Draws an X-ray with attention weights over it.

    The least weight of the map is transparent, the largest has the full colour.
    """
    # Each map is scaled by itself, so that its pattern shows however small its weights are.
    heat = weights.float().cpu().numpy()
    heat = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)
    enlarged = np.asarray(
        Image.fromarray(heat).resize(picture.size, Image.Resampling.BICUBIC)
    ).clip(0, 1)
    axis.imshow(picture, cmap="gray")
    axis.imshow(enlarged, cmap="autumn", alpha=0.75 * enlarged, vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
