"""The two figures of the README.

    python docs/_ext/overview.py

The second one is the forest plot of a stored comparison, as `mmfusion compare` draws it. The first
one shows a picture and words that go in, and a classifier that answers and says why. The script
draws synthetic radiographs for it, trains a classifier on them in about a minute, and explains one
answer. Nothing in the figure is made by hand: the heat map, the weights of the words and the
probability are those of `mmfusion.explain`. The picture and the notes are synthetic.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import datasets
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples" / "lung_disease"))
FIGURES = ROOT / "docs" / "figures"
COMPARISON = ROOT / "examples" / "results" / "skin_lesions.json"

ILL = ("fever", "productive cough", "chills", "short of breath")
WELL = ("routine check", "no complaints", "fit for work", "before surgery")
EITHER = ("non smoker", "seen last year", "mild asthma", "no allergies")
HEADINGS = ("Opacity/lung/base/left", "Mass/lung/upper lobe/right", "Opacity/lung/hilum/right")
BLUE, RED, GREY = "#2a6f97", "#c1121f", "#5c677d"


def samples(count: int, seed: int = 0) -> datasets.Dataset:
    """Returns synthetic samples: a radiograph, a note, a label and a group.

    Args:
        count: the number of samples.
        seed: of the notes; the radiographs follow from their numbers.
    """
    from openi import Report
    from phantom import draw

    choose, rows = random.Random(seed), []
    for number in range(count):
        is_ill = number % 2 == 1
        headings = (HEADINGS[number // 2 % len(HEADINGS)],) if is_ill else ()
        picture = draw(Report(f"P{number}", None, None, None, None, headings, ()), size=224).image
        # One note in five tells nothing, so that the picture is needed.
        telling = EITHER if choose.random() < 0.2 else ILL if is_ill else WELL
        words = [choose.choice(telling), choose.choice(EITHER), choose.choice(telling)]
        rows.append(
            {
                "image": Image.fromarray(picture),
                "text": ", ".join(dict.fromkeys(words)),
                "label": int(is_ill),
                "group": f"P{number}",
            }
        )
    table = datasets.Dataset.from_list(rows)
    return table.cast_column("label", datasets.ClassLabel(names=["normal", "ill"]))


def explained(rows: datasets.Dataset) -> Any:
    """Returns the explanation of one test sample that is ill, by a classifier of the others."""
    from mmfusion import (
        FusionClassifier,
        FusionProcessor,
        explain,
        fit,
        small_encoders,
        split,
        training_arguments,
    )

    parts = split(rows, text=None)
    image, text = small_encoders()
    names = dict(enumerate(rows.features["label"].names))
    model = FusionClassifier(image_encoder=image, text_encoder=text, id2label=names)
    processor = FusionProcessor.from_encoders(image, text)
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model,
            processor,
            parts["train"],
            parts["validation"],
            arguments=training_arguments(folder, model),
        )
    shown = next(row for row in parts["test"] if row["label"] == 1 and "fever" in row["text"])
    return explain(model, processor, shown["image"], shown["text"], target="ill")


def box(axis: Any, x: float, y: float, label: str, color: str, wide: float = 1.5) -> None:
    """Draws a box with a label of one or two lines, centred at (x, y)."""
    shape = FancyBboxPatch(
        (x - wide / 2, y - 0.36), wide, 0.72, boxstyle="round,pad=0.06", facecolor=color, alpha=0.14
    )
    axis.add_patch(shape)
    edge = {"boxstyle": "round,pad=0.06", "facecolor": "none", "edgecolor": color, "linewidth": 1.6}
    axis.add_patch(FancyBboxPatch((x - wide / 2, y - 0.36), wide, 0.72, **edge))
    name, _, rest = label.partition("\n")
    axis.text(x, y + (0.13 if rest else 0), name, ha="center", va="center", weight="bold")
    axis.text(x, y - 0.17, rest, ha="center", va="center", fontsize=8, color=GREY)


def arrow(axis: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draws an arrow between two points."""
    style = {"arrowstyle": "-|>", "mutation_scale": 14, "color": GREY, "linewidth": 1.4}
    axis.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **style))


def words(axis: Any, found: Any, x: float, y: float) -> None:
    """Writes the words of the note, each on a colour that tells its weight."""
    most = max(abs(word.weight or 0) for word in found.words) or 1.0
    line, right = y, x
    for word in found.words:
        weight = (word.weight or 0) / most
        color = RED if weight > 0 else BLUE
        if right > x + 2.0:
            line, right = line - 0.36, x
        shown = {"facecolor": color, "alpha": 0.08 + 0.5 * abs(weight), "edgecolor": "none"}
        drawn = axis.text(right, line, word.text, va="center", bbox=shown | {"pad": 2.5})
        axis.figure.canvas.draw()
        extent = drawn.get_window_extent().transformed(axis.transData.inverted())
        right = extent.x1 + 0.17


def draw_figure(found: Any) -> Any:
    """Returns the figure of an explanation."""
    from mmfusion.model.fusion import BUILT_IN

    figure, axis = plt.subplots(figsize=(11, 3.7), layout="constrained")
    axis.set(xlim=(0, 13.2), ylim=(0.1, 4.3), aspect="equal")
    axis.axis("off")
    heat = found.heat[0]
    axis.imshow(heat.picture.convert("L"), cmap="gray", extent=(0.1, 2.3, 2.0, 4.2), zorder=1)
    axis.text(0.22, 1.25, "\n".join(part.strip() for part in found.text.split(",")), va="center",
              style="italic", bbox={"facecolor": "white", "edgecolor": GREY, "pad": 5})  # fmt: skip
    box(axis, 3.95, 3.1, "image encoder\ntimm, transformers, ...", BLUE, 2.0)
    box(axis, 3.95, 1.2, "text encoder\ntransformers, ...", BLUE, 2.0)
    box(axis, 6.1, 1.2, "mapper\nlinear, mlp, ...", GREY, 1.3)
    box(axis, 8.0, 2.15, f"fusion\n{len(BUILT_IN)} strategies", RED, 1.5)
    arrow(axis, (2.4, 3.1), (2.85, 3.1))
    arrow(axis, (2.4, 1.2), (2.85, 1.2))
    arrow(axis, (5.05, 1.2), (5.35, 1.2))
    arrow(axis, (5.05, 3.1), (7.15, 2.35))
    arrow(axis, (6.85, 1.2), (7.15, 1.95))
    arrow(axis, (8.85, 2.15), (9.3, 2.15))
    axis.imshow(heat.picture.convert("L"), cmap="gray", extent=(9.6, 11.6, 2.2, 4.2), zorder=1)
    axis.imshow(heat.values, cmap="inferno", alpha=0.5, extent=(9.6, 11.6, 2.2, 4.2), zorder=2)
    share = found.probabilities[found.target]
    shares = ", ".join(f"{name} {value:.0%}" for name, value in found.shares.items())
    axis.text(9.5, 1.85, f"{found.target}: {share:.0%}", weight="bold", fontsize=13, va="center")
    axis.text(11.0, 1.85, shares, fontsize=8, color=GREY, va="center")
    words(axis, found, 9.55, 1.4)
    axis.text(0.1, 0.25, "Synthetic picture and note, drawn by docs/_ext/overview.py.",
              fontsize=7, color=GREY)  # fmt: skip
    return figure


def forest() -> Any:
    """Returns the forest plot of the skin lesions."""
    from mmfusion.training.compare_plots import forest_plot

    figure = forest_plot(plt, json.loads(COMPARISON.read_text(encoding="utf-8")))
    figure.axes[0].set_title(
        "skin lesions: a photograph with age, sex and site, against the photograph alone",
        fontsize=9.5,
    )
    return figure


if __name__ == "__main__":
    plt.rcParams.update({"font.size": 9.5})
    drawn = draw_figure(explained(samples(240)))
    drawn.savefig(FIGURES / "overview.png", dpi=150, facecolor="white")
    forest().savefig(FIGURES / "compare-ham10000.png", dpi=130, facecolor="white")
