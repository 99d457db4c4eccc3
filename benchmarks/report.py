"""Tables of what was measured: on the terminal while it runs, and from the JSON in the README and on the documentation's page.

python -m benchmarks.report
python -m benchmarks.report --check
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.headline import headline

ROOT = Path(__file__).resolve().parents[1]
README, PAGE = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results"
PLOTTED = ("text tower", "fused forward", "peers", "scaling", "epoch")
"""The cases that are shown as a plot, too."""

START, END = "<!-- benchmarks:start -->", "<!-- benchmarks:end -->"
NAMES = {
    "base": "ViT-B/16 and BERT-base",
    "small": "EfficientNet-Lite0 and a MiniLM of six layers",
    "tiny": "tiny towers, whose figures mean nothing",
}

AXES = {"batch": "batch size", "length": "tokens of each text, batch 8"}
"""What grows in the case "scaling", and how its table is headed."""


def print_case(console: Console, name: str, found: dict[str, Any]) -> None:
    """Print a case: its seconds as tables, and its other figures as JSON."""
    for title, part in _timed(name, found):
        table = Table(
            "side",
            "median ms",
            "10th to 90th percentile",
            "times the first",
            "of the matmul rate",
            title=title,
        )
        for row in _rows(part):
            table.add_row(*row)
        console.print(table)
    for key in (
        "share_of_forward_time",
        "pairs",
        "batch",
        "length",
        "filling_the_cache_seconds",
        "absent",
        "skipped",
    ):
        if key in found:
            console.print(f"{key}: {json.dumps(found[key], indent=2)}", highlight=False)


def picture(stem: str, case: str) -> str:
    """The name of a case's plot."""
    return f"{stem}-{case.replace(' ', '-')}.png"


def render(stem: str, cases: dict[str, Any]) -> str:
    """A file's tables in Markdown, each case with its plot, and with where and by which command it was measured."""
    lines: list[str] = []
    for name, found in cases.items():
        made = found["made"]
        lines += [
            f"## {name.capitalize()}, {NAMES[made['backbones']].split(',')[0]}, {made['dtype']}",
            "",
            _made(made),
            "",
        ]
        if name in PLOTTED and "skipped" not in found:
            alt = f"Seconds of each side of the case {name}, as in the table below"
            lines += [f"```{{image}} figures/{picture(stem, name)}", f":alt: {alt}", "```", ""]
        for title, part in _timed(name, found):
            header = [title, "median ms", "10th to 90th percentile", "times the first"]
            if "matmul_rate" in part:
                header.append(
                    f"of the rate of matrix products ({part['matmul_rate'] / 1e9:.0f} GFLOP/s)"
                )
            lines += [
                _line(header),
                _line(["---"] * len(header)),
                *(_line(row[: len(header)]) for row in _rows(part)),
                "",
            ]
        if "share_of_forward_time" in found:
            shares = ", ".join(
                f"{fusion} {share:.1%}" for fusion, share in found["share_of_forward_time"].items()
            )
            lines += [f"Mapper and fusion, of the forward time: {shares}.", ""]
        lines += _remarks(found)
        for axis, title in AXES.items():
            if axis in found:
                lines += _growing(title, found[axis])
        if "pairs" in found:
            lines += ["| pairs | pairs per second | peak MB |", "| --- | --- | --- |"]
            for count, measured in found["pairs"].items():
                rate, peak = measured["pairs_per_second"], measured["peak_megabytes"]
                lines.append(f"| {int(count):,} | {rate:,.0f} | {peak:,.0f} |")
            lines.append("")
    return "\n".join(lines)


def _remarks(found: dict[str, Any]) -> Iterator[str]:
    """What must be said beside a table."""
    for name, side in found.get("seconds", {}).items():
        if "percentile_99" in side:
            yield f"99th percentile of {name}: {side['percentile_99'] * 1e3:.1f} ms.\n"
    if "filling_the_cache_seconds" in found:
        yield f"{found['samples']:,} pairs an epoch; the cache was filled once, in {found['filling_the_cache_seconds']:.1f} s.\n"
    if "keras_backend" in found:
        yield f"Keras on {found['keras_backend']}.\n"
    if found.get("absent"):
        yield f"Not installed, so not measured: {', '.join(found['absent'])}.\n"
    if "skipped" in found:
        yield f"Skipped: {found['skipped']}.\n"


def _growing(title: str, points: dict[str, Any]) -> Iterator[str]:
    """The table of a quantity that grows."""
    on_gpu = any("peak_gpu_megabytes" in point for point in points.values())
    yield f"| {title} | median ms | 10th to 90th percentile | pairs per second | peak MB |{' GPU peak MB |' if on_gpu else ''}"
    yield "| --- | --- | --- | --- | --- |" + " --- |" * on_gpu
    for value, point in points.items():
        taken = point["seconds"]
        spread = f"{taken['low'] * 1e3:.1f} to {taken['high'] * 1e3:.1f}"
        row = f"| {value} | {taken['median'] * 1e3:.1f} | {spread} | {point['pairs_per_second']:.2f} |"
        row += f" {point['peak_megabytes']:,.0f} |"
        yield row + (f" {point['peak_gpu_megabytes']:,.0f} |" if on_gpu else "")
    yield ""


def _made(made: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    inputs = made.get(
        "inputs", f"batch {made['batch_size']}, texts of the lengths of Open-i reports"
    )
    where = (
        made["machine"].get("accelerator")
        or f"{made['machine']['processor']}, {made['machine']['threads']} threads"
    )
    return f"{NAMES[made['backbones']]}, random weights, {made['dtype']}, {inputs}; {where}; {versions}; `{made['command']}`."


def put(text: str, tables: str) -> str:
    """`text` with the tables between its two marker lines.

    Raises:
        ValueError: when a marker is not there once.
    """
    if text.count(START) != 1 or text.count(END) != 1:
        raise ValueError(f"the text must hold {START} and {END} once each.")
    before, rest = text.split(START)
    return f"{before}{START}\n\n{tables}\n{END}{rest.split(END)[1]}"


def read_runs(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """The cases of all runs that this package wrote into `folder`, by the files' names without their ending."""
    runs = {
        file.stem: json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(folder.glob("*.json"), key=lambda file: file.stem)
    }
    return {stem: run["cases"] for stem, run in runs.items() if "cases" in run}


def written(runs: dict[str, dict[str, Any]]) -> dict[Path, str]:
    """Each file with its two marker lines -> its text with what the runs say between them."""
    tables = "\n".join(render(stem, cases) for stem, cases in runs.items())
    return {
        file: put(file.read_text(encoding="utf-8"), made)
        for file, made in ((README, headline(runs)), (PAGE, tables))
    }


def main(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail where a file is stale.")
    ] = False,
) -> None:
    """Write the benchmarks' tables into README.md and docs/benchmarks.md, or check them."""
    for file, text in written(read_runs()).items():
        if not check:
            file.write_text(text, encoding="utf-8")
        elif text != file.read_text(encoding="utf-8"):
            Console(stderr=True).print(
                f"{file} is stale. Run: python -m benchmarks.report", markup=False, soft_wrap=True
            )
            raise typer.Exit(1)


def _timed(name: str, found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The parts of a case that have sides, each with its title."""
    if "seconds" in found:
        yield name, found
    for key, value in found.items():
        if isinstance(value, dict) and isinstance(value.get("seconds"), dict):
            yield f"{name}, {key}", value


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    sides = found["seconds"]
    first = next(iter(sides.values()))["median"]
    shares = found.get("share_of_matmul_rate", {})
    for name, taken in sides.items():
        share = f"{shares[name]:.0%}" if name in shares else ""
        spread = f"{taken['low'] * 1e3:.1f} to {taken['high'] * 1e3:.1f}"
        yield name, f"{taken['median'] * 1e3:.1f}", spread, f"{taken['median'] / first:.2f}", share


def _line(cells: Sequence[str]) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    typer.run(main)
