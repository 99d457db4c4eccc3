"""The tables of the stored results: three rows per data set, and all rows.

They are made from the JSON files of the examples alone:

    python examples/lung_disease/results_table.py
    python examples/lung_disease/results_table.py --check

The first command writes the short table into docs/comparing.md, between its two marker lines. With
`--check` nothing is written. The exit status is 1 if the page does not match the JSON files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mmfusion.training.compare_report import table_cells

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
FOLDERS = (RESULTS, HERE.parent / "results")
PAGE = HERE.parents[1] / "docs" / "comparing.md"
START, END = "<!-- results:start -->", "<!-- results:end -->"
NO_RESULTS = "No results are stored yet."
_SEGMENTED = {"none": "", "mask": ", black outside the lungs", "crop": ", cut to the lungs"}
# The keys that the tables need. A file without one of them was not written by the study.
_KEYS = ("dataset", "synthetic_images", "command", "versions", "comparisons")
_SYNTHETIC = (
    "The pictures are synthetic: rows that use them say nothing about X-rays. The texts are real."
)


def read_results(folders: Iterable[str | Path] = FOLDERS) -> list[dict[str, Any]]:
    """Returns the content of the JSON files of some folders, ordered by file name.

    The results of a single `mmfusion.compare` are read as a study with one comparison.

    Args:
        folders: the folders of stored results. One that does not exist is empty.

    Raises:
        ValueError: if a file is no JSON, or lacks a key that the tables need.

    Example:
        >>> read_results(["/no/such/place"])
        []
    """
    results = []
    for path in (path for folder in folders for path in sorted(Path(folder).glob("*.json"))):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{path} must be JSON, got a file that is not: {error}. Run the study again."
            ) from error
        if isinstance(result, dict) and "choice" in result:
            result = {
                "dataset": result["title"],
                "synthetic_images": False,
                "command": f"python examples/{path.stem}.py DIR",
                "versions": result["versions"],
                "comparisons": [{"protocol": "", "segment": "none", **result}],
            }
        absent = [key for key in _KEYS if not isinstance(result, dict) or key not in result]
        if absent:
            raise ValueError(
                f"{path} must be a study's results.json, got one without {absent}. "
                "Run the study again."
            )
        results.append(result)
    return results


def render(results: Sequence[dict[str, Any]]) -> str:
    """Returns the Markdown of all results: for each comparison its verdict and its table.

    Args:
        results: the results, as `read_results` returns them.
    """
    if not results:
        return NO_RESULTS
    return "\n\n".join(_run(result) for result in results)


def telling(results: Sequence[dict[str, Any]]) -> str:
    """Returns a table with three rows for each comparison: each modality alone, and both.

    The fused model is the one that was chosen in each fold. Comparisons on segmented pictures, and
    those without a choice, are left out.

    Args:
        results: the results, as `read_results` returns them.
    """
    lines = [
        "| data | model | accuracy | AUROC | AUROC minus best single |",
        "| --- | --- | --- | --- | --- |",
    ]
    for result in results:
        for entry in result["comparisons"]:
            if entry["segment"] != "none" or entry["choice"] is None:
                continue
            rows = {row["name"]: row for row in entry["rows"]}
            fused = entry["choice"]["fused"] | {"minus_single": entry["choice"]["difference"]}
            shown = [(name, rows[name]) for name in ("image only", "text only") if name in rows]
            for name, row in [*shown, ("**fused**", fused)]:
                cells = [_named(result, entry), name, *(_interval(row[m]) for m in _METRICS)]
                lines.append(f"| {' | '.join([*cells, _gap(row.get('minus_single'))])} |")
    return "\n".join(lines) if len(lines) > 2 else NO_RESULTS


_METRICS = ("accuracy", "auroc")


def put(text: str, content: str) -> str:
    r"""Returns the text with the content between its two marker lines.

    Args:
        text: the text of the page.
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
            f"the page must hold {START} and, after it, {END} once each, "
            f"got {counts[0]} and {counts[1]}. Restore them."
        )
    return f"{text[: text.index(START)]}{START}\n\n{content}\n\n{text[text.index(END) :]}"


def _run(result: dict[str, Any]) -> str:
    """Returns the Markdown of one run."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [f"`{result['command']}`", "", f"{versions}."]
    for entry in result["comparisons"]:
        settings = entry["settings"]
        lines += ["", f"**{_named(result, entry)}{_SEGMENTED[entry['segment']]}**", ""]
        # The warning stands directly above the figures that it concerns.
        if result["synthetic_images"]:
            lines += [_SYNTHETIC, ""]
        lines += [f"{settings['folds']} folds, {settings['seeds']} seeds. {entry['verdict']}", ""]
        header, *body = table_cells(entry)
        lines += [_line(header), _line(["---"] * len(header)), *map(_line, body)]
        # Segmented pictures are compared with raw ones, whose own table stands above.
        if any("auroc_minus_raw" in row for row in entry["rows"]):
            lines += ["", *_against_raw(entry["rows"])]
    return "\n".join(lines)


def _named(result: dict[str, Any], entry: dict[str, Any]) -> str:
    """Returns the name of the data, and that of the text protocol if it has one."""
    text = f", text: {entry['protocol']}" if entry["protocol"] else ""
    drawn = " (synthetic pictures)" if result["synthetic_images"] else ""
    return f"{result['dataset']}{text}{drawn}"


def _against_raw(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the table of the differences between segmented and raw pictures."""
    header = ["model", "accuracy minus raw", "AUROC minus raw", "p of the accuracy (Holm)"]
    lines = [_line(header), _line(["---"] * len(header))]
    for row in rows:
        if "auroc_minus_raw" in row:
            gains = [
                _signed(*(row[f"{n}_minus_raw{end}"] for end in ("", "_low", "_high")))
                for n in _METRICS
            ]
            p = f"{row['accuracy_minus_raw_p']:.3f} ({row['accuracy_minus_raw_p_holm']:.3f})"
            lines.append(_line([row["name"], *gains, p]))
    return lines


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _interval(one: dict[str, float]) -> str:
    return f"{one['estimate']:.3f} ({one['low']:.3f} to {one['high']:.3f})"


def _gap(gap: dict[str, float] | None) -> str:
    return "" if gap is None else _signed(gap["estimate"], gap["low"], gap["high"])


def _signed(difference: float, low: float, high: float) -> str:
    return f"{difference:+.3f} ({low:+.3f} to {high:+.3f})"


def main(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail where the page is stale.")
    ] = False,
    results: Annotated[
        list[Path] | None, typer.Option(help="Folder of JSON files; may be given several times.")
    ] = None,
    page: Annotated[Path, typer.Option(help="The file with the two marker lines.")] = PAGE,
) -> None:
    """Write the table of results into the page, or check it."""
    console = Console(stderr=True)
    try:
        old = page.read_text(encoding="utf-8")
        new = put(old, telling(read_results(results or FOLDERS)))
    except (ValueError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    if not check:
        page.write_text(new, encoding="utf-8")
    elif new != old:
        console.print(
            f"{page} is stale. Run: python examples/lung_disease/results_table.py",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
