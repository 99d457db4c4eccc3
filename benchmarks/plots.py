"""The plots of the documentation, drawn from the JSON files of results.

python -m benchmarks.plots
python -m benchmarks.plots --check
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import typer
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from benchmarks.report import AXES, NAMES, PLOTTED, RESULTS, ROOT, picture, read_runs

FIGURES = ROOT / "docs" / "figures"
OURS, THEIRS = "#0f6fb0", "#a8adb3"
PEERS = ("dual encoder", "transformers", "torchmultimodal", "MONAI")
"""The beginnings of the names of sides that are no part of this library."""

SOURCE = "Source"
"""The key of the PNG metadata that holds the digest of the case that the plot shows."""


def plots(results: Path = RESULTS) -> dict[str, tuple[str, dict[str, Any]]]:
    """Returns the measured cases of `PLOTTED`.

    Returns:
        The picture's name -> the case's name and its results.
    """
    pictures = {}
    for stem, cases in read_runs(results).items():
        for name, case in cases.items():
            if name in PLOTTED and "skipped" not in case:
                pictures[picture(stem, name)] = (name, case)
    return pictures


def digest(case: dict[str, Any]) -> str:
    """Returns a short hash of the case's results; another measurement has another hash."""
    return hashlib.sha256(json.dumps(case, sort_keys=True).encode()).hexdigest()[:16]


def stale(results: Path = RESULTS, figures: Path = FIGURES) -> list[str]:
    """Returns the names of the pictures that do not fit the JSON files.

    A picture is stale when it shows other results, when it is missing, or when its case is gone.
    """
    wanted = {name: digest(case) for name, (_, case) in plots(results).items()}
    there = {
        file.name: shown for file in figures.glob("*.png") if (shown := _shown(file)) is not None
    }
    return sorted(
        name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name)
    )


def _shown(file: Path) -> str | None:
    """Returns the digest that a picture holds; None for a picture that is no plot of ours."""
    with Image.open(file) as picture:
        return picture.info.get(SOURCE)


def draw(name: str, case: dict[str, Any]) -> Figure:
    """Returns the plot of one case."""
    # A local context, so that drawing does not change the caller's settings.
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = _lines(case) if "batch" in case else _bars(case)
    made = case["made"]
    batch = "" if "batch" in case else f", batch {made['batch_size']}"
    figure.suptitle(
        f"{name}: {NAMES[made['backbones']]}, {made['dtype']}, {made['device']}{batch}", fontsize=10
    )
    return figure


def _bars(case: dict[str, Any]) -> Figure:
    """Returns a bar for each side."""
    sides = case["seconds"]
    figure = Figure(figsize=(7.5, 0.8 + 0.32 * len(sides)), layout="constrained")
    axes = figure.subplots()
    medians = [side["median"] for side in sides.values()]
    # matplotlib takes the lengths of the error bars, not their ends.
    errors = [
        [side["median"] - side["low"] for side in sides.values()],
        [side["high"] - side["median"] for side in sides.values()],
    ]
    colours = [THEIRS if name.startswith(PEERS) else OURS for name in sides]
    axes.barh(
        range(len(sides)),
        medians,
        xerr=errors,
        color=colours,
        error_kw={"ecolor": "#333333", "elinewidth": 1, "capsize": 2},
    )
    axes.set_yticks(range(len(sides)), list(sides))
    # matplotlib counts upwards; the first side must stand on top.
    axes.invert_yaxis()
    axes.set_xlabel("seconds, median and 10th to 90th percentile")
    # On a linear axis a bar of a fiftieth would be too short to read.
    if max(medians) > 50 * min(medians):
        axes.set_xscale("log")
    return figure


def _lines(case: dict[str, Any]) -> Figure:
    """Returns the lines of the case "scaling": time above, peak memory below."""
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    grid = figure.subplots(2, 2)
    for column, (axis, title) in enumerate(AXES.items()):
        points = case[axis]
        places = [int(value) for value in points]
        taken = [point["seconds"] for point in points.values()]
        time, memory = grid[0, column], grid[1, column]
        time.plot(places, [side["median"] for side in taken], marker="o", color=OURS)
        time.fill_between(
            places,
            [side["low"] for side in taken],
            [side["high"] for side in taken],
            color=OURS,
            alpha=0.2,
        )
        # On a GPU the memory of the GPU is the one that limits the batch.
        key = "peak_gpu_megabytes" if case["made"]["device"] == "cuda" else "peak_megabytes"
        memory.plot(places, [point[key] for point in points.values()], marker="o", color=OURS)
        for axes, label in ((time, "seconds"), (memory, "peak MB")):
            axes.set(xlabel=title, ylabel=label)
            # From zero, so that a line's slope shows how the quantity grows.
            axes.set_xlim(left=0)
            axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    return figure


def main(
    check: Annotated[
        bool, typer.Option("--check", help="Draw nothing; fail where a picture is stale.")
    ] = False,
) -> None:
    """Draws the plots, or checks that they are up to date."""
    if check:
        if wrong := stale():
            Console(stderr=True).print(
                f"stale: {', '.join(wrong)}. Run: python -m benchmarks.plots", soft_wrap=True
            )
            raise typer.Exit(1)
        return
    FIGURES.mkdir(parents=True, exist_ok=True)
    # Stale pictures go first, so that those of cases that are gone do not stay.
    for name in stale():
        (FIGURES / name).unlink(missing_ok=True)
    for name, (title, case) in plots().items():
        if not (FIGURES / name).exists():
            draw(title, case).savefig(FIGURES / name, dpi=110, metadata={SOURCE: digest(case)})


if __name__ == "__main__":
    typer.run(main)
