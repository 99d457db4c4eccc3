"""The study's tables in Markdown, made from results/*.json alone and written into the README.

They replace the text between two marker lines of it:

    python examples/lung_disease/readme_table.py
    python examples/lung_disease/readme_table.py --check

With `--check` nothing is written. The exit status is 1 if the README does not match the JSON files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
README = HERE.parents[1] / "README.md"
START, END = "<!-- results:start -->", "<!-- results:end -->"
NO_RESULTS = "No results are stored yet."
_SEGMENTED = {"none": "", "mask": ", black outside the lungs", "crop": ", cut to the lungs"}
# The keys that the tables need. A file without one of them was not written by the study.
_KEYS = ("dataset", "synthetic_images", "command", "settings", "versions", "comparisons", "rows")


def read_results(folder: str | Path = RESULTS) -> list[dict[str, Any]]:
    """Returns the content of a folder's JSON files, ordered by file name.

    Args:
        folder: the folder of stored results. Without the folder the list is empty.

    Raises:
        ValueError: if a file is no JSON, or lacks a key that the study writes.

    Example:
        >>> read_results("/no/such/place")
        []
    """
    results = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{path} must be JSON, got a file that is not: {error}. Run the study again."
            ) from error
        absent = [key for key in _KEYS if not isinstance(result, dict) or key not in result]
        if absent:
            raise ValueError(
                f"{path} must be a study's results.json, got one without {absent}. "
                "Run the study again."
            )
        results.append(result)
    return results


def render(results: Sequence[dict[str, Any]]) -> str:
    """Returns the Markdown of all results.

    Each run has its command, and each protocol of it a verdict and a table.

    Args:
        results: the results, as `read_results` returns them.
    """
    if not results:
        return NO_RESULTS
    return "\n\n".join(_run(result) for result in results)


def put(text: str, content: str) -> str:
    r"""Returns the text with the content between its two marker lines.

    Args:
        text: the text of the README.
        content: what replaces the text between the markers.

    Raises:
        ValueError: if the text does not hold each marker once, in this order.

    Example:
        >>> put(f"a\n{START}\nold\n{END}\nb", "new") == f"a\n{START}\n\nnew\n\n{END}\nb"
        True
    """
    counts = text.count(START), text.count(END)
    if counts != (1, 1) or text.index(END) < text.index(START):
        raise ValueError(
            f"README must hold {START} and, after it, {END} once each, "
            f"got {counts[0]} and {counts[1]}. Restore them."
        )
    return f"{text[: text.index(START)]}{START}\n\n{content}\n\n{text[text.index(END) :]}"


def _run(result: dict[str, Any]) -> str:
    """Returns the Markdown of one run."""
    settings = result["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    seeds = ", ".join(str(seed) for seed in settings["seeds"])
    lines = [
        f"`{result['command']}`{_at_commit(result)}",
        "",
        f"{settings['folds']} folds, encoders: {settings['train']}, seeds {seeds}; {versions}.",
    ]
    # A dict keeps the order of the rows, unlike a set.
    for protocol, way in dict.fromkeys((row["protocol"], row["segment"]) for row in result["rows"]):
        rows = [
            row for row in result["rows"] if (row["protocol"], row["segment"]) == (protocol, way)
        ]
        lines += ["", f"**{result['dataset']}, text: {protocol}{_SEGMENTED[way]}**", ""]
        # The warning stands directly above the figures that it concerns.
        if result["synthetic_images"]:
            lines += [
                "The pictures are synthetic: rows that use them say nothing about X-rays. "
                "The texts are real.",
                "",
            ]
        # Segmented pictures are compared with raw ones, whose own table stands above.
        if any("auroc_minus_raw" in row for row in rows):
            lines += _against_raw(rows)
            continue
        # Empty where the user ran only some rows.
        verdicts = [
            entry
            for entry in result["comparisons"]
            if (entry["protocol"], entry["segment"]) == (protocol, way)
        ]
        lines += [_verdict(entry) + "\n" for entry in verdicts]
        lines += _table(rows, result["synthetic_images"])
    return "\n".join(lines)


def _at_commit(result: dict[str, Any]) -> str:
    """Returns the commit of a stored run, if the defaults have changed since that run."""
    return (
        f" at commit {result['commit']}, whose defaults were others" if "commit" in result else ""
    )


def _verdict(comparison: dict[str, Any]) -> str:
    """Returns the comparison of the fused model with the best single modality as a sentence."""
    # "Beats" and "loses to" only where the whole interval is on one side of zero.
    word = "cannot be told apart from"
    if comparison["fused_significantly_better"]:
        word = "beats"
    elif comparison["fused_significantly_worse"]:
        word = "loses to"
    difference = _difference(*(comparison[f"difference{end}"] for end in ("", "_low", "_high")))
    return (
        "Each chosen on validation data and compared on the test folds, "
        f"the fused model {word} the best single modality: "
        f"AUROC {comparison['fused_auroc']:.3f} against {comparison['single_auroc']:.3f}, "
        f"difference {difference}."
    )


def _table(rows: Sequence[dict[str, Any]], synthetic: bool) -> list[str]:
    lines = [
        "| model | pictures | accuracy | AUROC | AUROC minus best single | published accuracy |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        pictures = "none" if row["modality"] == "text" else "synthetic" if synthetic else "real"
        figures = [
            f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"
            for name in ("accuracy", "auroc")
        ]
        # Runs with too few rows for a comparison have no difference.
        difference = ""
        if "auroc_minus_single" in row:
            difference = _difference(
                *(row[f"auroc_minus_single{end}"] for end in ("", "_low", "_high"))
            )
        published = "" if row["published_accuracy"] is None else f"{row['published_accuracy']:.2f}"
        lines.append(f"| {' | '.join([row['model'], pictures, *figures, difference, published])} |")
    return lines


def _against_raw(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the table of the differences between segmented and raw pictures."""
    lines = [
        "| model | accuracy | AUROC | accuracy minus raw | AUROC minus raw | "
        "p of the accuracy (Holm) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if "auroc_minus_raw" in row:
            gains = [
                _difference(*(row[f"{n}_minus_raw{end}"] for end in ("", "_low", "_high")))
                for n in ("accuracy", "auroc")
            ]
            p = f"{row['accuracy_minus_raw_p']:.3f} ({row['accuracy_minus_raw_p_holm']:.3f})"
            lines.append(
                f"| {row['model']} | {row['accuracy']:.3f} | {row['auroc']:.3f} | "
                f"{' | '.join(gains)} | {p} |"
            )
    return lines


def _difference(difference: float, low: float, high: float) -> str:
    return f"{difference:+.3f} ({low:+.3f} to {high:+.3f})"


def main(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail where the README is stale.")
    ] = False,
    results: Annotated[Path, typer.Option(help="Folder of the JSON files.")] = RESULTS,
    readme: Annotated[Path, typer.Option(help="The file with the two marker lines.")] = README,
) -> None:
    """Write the study's tables into the README, or check them."""
    console = Console(stderr=True)
    try:
        old = readme.read_text(encoding="utf-8")
        new = put(old, render(read_results(results)))
    except (ValueError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    if not check:
        readme.write_text(new, encoding="utf-8")
    elif new != old:
        console.print(
            f"{readme} is stale. Run: python examples/lung_disease/readme_table.py",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
