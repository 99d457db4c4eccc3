"""The tables of results.

While the benchmarks run, the tables are printed on the terminal. This command writes them from the
JSON files into README.md, docs/speed.md and docs/benchmarks.md:

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

from benchmarks.headline import README_ROWS, headline

ROOT = Path(__file__).resolve().parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
SPEED, PAGE = DOCS / "speed.md", DOCS / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results"
PLOTTED = ("text tower", "fused forward", "peers", "scaling", "epoch")
"""The cases that the page shows as a plot, too."""

START, END = "<!-- benchmarks:start -->", "<!-- benchmarks:end -->"
"""The lines between which the tables stand."""

NAMES = {
    "base": "ViT-B/16 and BERT-base",
    "small": "EfficientNet-Lite0 and a MiniLM of six layers",
    "tiny": "tiny towers, whose figures mean nothing",
}
"""The backbones of each preset, as the page names them."""

AXES = {"batch": "batch size", "length": "tokens of each text, batch 8"}
"""The quantities that grow in the case "scaling", with the headings of their tables."""


def print_case(console: Console, name: str, found: dict[str, Any]) -> None:
    """Prints a case: its seconds as tables, and its other figures as JSON."""
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
        "device_at_work",
        "parity",
        "skipped",
    ):
        if key in found:
            console.print(f"{key}: {json.dumps(found[key], indent=2)}", highlight=False)


def picture(stem: str, case: str) -> str:
    """Returns the file name of a case's plot."""
    return f"{stem}-{case.replace(' ', '-')}.png"


def render(stem: str, cases: dict[str, Any]) -> str:
    """Returns the tables of one file of results in Markdown.

    Each case comes with its plot, its machine and the command that measured it.
    """
    lines: list[str] = []
    for name, case in cases.items():
        made = case["made"]
        lines += [
            f"## {name.capitalize()}, {NAMES[made['backbones']].split(',')[0]}, {made['dtype']}"
            + "".join(f", {device}" for device in [made["machine"].get("accelerator")] if device),
            "",
            _made(made),
            "",
        ]
        # A skipped case has no times, so it has no plot.
        if name in PLOTTED and "skipped" not in case:
            alt = f"Seconds of each side of the case {name}, as in the table below"
            lines += [f"```{{image}} figures/{picture(stem, name)}", f":alt: {alt}", "```", ""]
        for title, part in _timed(name, case):
            lines += _table(title, part)
        if "share_of_forward_time" in case:
            shares = ", ".join(
                f"{fusion} {share:.1%}" for fusion, share in case["share_of_forward_time"].items()
            )
            lines += [f"Mapper and fusion, of the forward time: {shares}.", ""]
        lines += _remarks(case)
        for axis, title in AXES.items():
            if axis in case:
                lines += _growing(title, case[axis])
        if "pairs" in case:
            lines += ["| pairs | pairs per second | peak MB |", "| --- | --- | --- |"]
            for count, measured in case["pairs"].items():
                rate, peak = measured["pairs_per_second"], measured["peak_megabytes"]
                lines.append(f"| {int(count):,} | {rate:,.0f} | {peak:,.0f} |")
            lines.append("")
    return "\n".join(lines)


def _table(title: str, part: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of the table of the sides of a part."""
    header = [title, "median ms", "10th to 90th percentile", "times the first"]
    if "matmul_rate" in part:
        header.append(f"of the rate of matrix products ({part['matmul_rate'] / 1e9:.0f} GFLOP/s)")
    yield _line(header)
    yield _line(["---"] * len(header))
    for row in _rows(part):
        # Without a rate the row's last cell, the share of it, has no column.
        yield _line(row[: len(header)])
    yield ""


def _remarks(case: dict[str, Any]) -> Iterator[str]:
    """Yields the lines that stand below a table."""
    for name, side in case.get("seconds", {}).items():
        if "percentile_99" in side:
            yield f"99th percentile of {name}: {side['percentile_99'] * 1e3:.1f} ms.\n"
    if "filling_the_cache_seconds" in case:
        filling = case["filling_the_cache_seconds"]
        yield (
            f"{case['samples']:,} pairs an epoch; the cache was filled once, in {filling:.1f} s.\n"
        )
    for name, found in case.get("parity", {}).items():
        yield (
            f"{name}: logits differ from float32 eager by {found['mean']:.2g} on average and "
            f"{found['largest']:.2g} at most; their own standard deviation is "
            f"{found['spread']:.2g}.\n"
        )
    for name, found in case.get("device_at_work", {}).items():
        yield (
            f"{name}: the GPU computes {found['busy']:.0%} of the time, the longest gap is "
            f"{found['longest_gap_microseconds']:.0f} microseconds, {found['kernels']:.0f} kernels "
            f"and {found['waits']:.1f} waits of the host in each pass.\n"
        )
    if "keras_backend" in case:
        yield f"Keras on {case['keras_backend']}.\n"
    if case.get("absent"):
        yield f"Not installed, so not measured: {', '.join(case['absent'])}.\n"
    if "skipped" in case:
        yield f"Skipped: {case['skipped']}.\n"


def _growing(title: str, points: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of the table of a quantity that grows."""
    # The column of the GPU appears only where a point was measured on one.
    on_gpu = any("peak_gpu_megabytes" in point for point in points.values())
    header = f"| {title} | median ms | 10th to 90th percentile | pairs per second | peak MB |"
    yield header + " GPU peak MB |" * on_gpu
    yield "| --- | --- | --- | --- | --- |" + " --- |" * on_gpu
    for value, point in points.items():
        taken = point["seconds"]
        spread = f"{taken['low'] * 1e3:.1f} to {taken['high'] * 1e3:.1f}"
        rate, peak = point["pairs_per_second"], point["peak_megabytes"]
        row = f"| {value} | {taken['median'] * 1e3:.1f} | {spread} | {rate:.2f} | {peak:,.0f} |"
        yield row + (f" {point['peak_gpu_megabytes']:,.0f} |" if on_gpu else "")
    yield ""


def _made(made: dict[str, Any]) -> str:
    """Returns the sentence on where and by which command a case was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    inputs = made.get(
        "inputs", f"batch {made['batch_size']}, texts of the lengths of Open-i reports"
    )
    if made.get("calls", 1) > 1:
        inputs += f", {made['calls']} calls in a row"
    # On a GPU the processor does not decide the times.
    where = (
        made["machine"].get("accelerator")
        or f"{made['machine']['processor']}, {made['machine']['threads']} threads"
    )
    return (
        f"{NAMES[made['backbones']]}, random weights, {made['dtype']}, {inputs}; {where}; "
        f"{versions}; `{made['command']}`."
    )


def put(text: str, tables: str) -> str:
    """Returns `text` with the tables between its two marker lines.

    Raises:
        ValueError: when a marker does not occur exactly once.
    """
    # Text between two wrong markers would be lost, so the markers are checked first.
    if text.count(START) != 1 or text.count(END) != 1:
        raise ValueError(f"the text must hold {START} and {END} once each.")
    before, rest = text.split(START)
    return f"{before}{START}\n\n{tables}\n{END}{rest.split(END)[1]}"


def read_runs(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Returns the cases of all runs that this package wrote into `folder`.

    Returns:
        The files' names without their ending -> their cases.
    """
    runs = {
        file.stem: json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(folder.glob("*.json"), key=lambda file: file.stem)
    }
    # The files of unet.py lie in the same folder; they have another form.
    return {stem: run["cases"] for stem, run in runs.items() if "cases" in run}


def written(runs: dict[str, dict[str, Any]]) -> dict[Path, str]:
    """Returns the new text of each file that holds tables: the file -> its text."""
    tables = "\n".join(render(stem, cases) for stem, cases in runs.items())
    return {
        file: put(file.read_text(encoding="utf-8"), made)
        for file, made in (
            (README, headline(runs, README_ROWS)),
            (SPEED, headline(runs)),
            (PAGE, tables),
        )
    }


def main(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail where a file is stale.")
    ] = False,
) -> None:
    """Writes the tables into README.md, docs/speed.md and docs/benchmarks.md, or checks them."""
    for file, text in written(read_runs()).items():
        if not check:
            file.write_text(text, encoding="utf-8")
        elif text != file.read_text(encoding="utf-8"):
            Console(stderr=True).print(
                f"{file} is stale. Run: python -m benchmarks.report", markup=False, soft_wrap=True
            )
            raise typer.Exit(1)


def _timed(name: str, case: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the parts of a case that have sides, each with its title."""
    if "seconds" in case:
        yield name, case
    # The case "export" holds such a part for each batch size.
    for key, value in case.items():
        if isinstance(value, dict) and isinstance(value.get("seconds"), dict):
            yield f"{name}, {key}", value


def _rows(part: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yields the cells of each side: name, median, spread, ratio to the first side, share."""
    sides = part["seconds"]
    first = next(iter(sides.values()))["median"]
    shares = part.get("share_of_matmul_rate", {})
    # The roofline is known only for cases whose operations were counted.
    for name, taken in sides.items():
        share = f"{shares[name]:.0%}" if name in shares else ""
        spread = f"{taken['low'] * 1e3:.1f} to {taken['high'] * 1e3:.1f}"
        yield name, f"{taken['median'] * 1e3:.1f}", spread, f"{taken['median'] / first:.2f}", share


def _line(cells: Sequence[str]) -> str:
    """Returns a line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    typer.run(main)
