"""The summary of the measurements: all rows for docs/speed.md, some for the README.

It has a column for each file of results with the large pair of backbones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Cases = Mapping[str, Any]
"""The cases of one file of results, by name."""

TO_THE_LONGEST, TO_512 = "to the longest", "to 512"


def headline(runs: Mapping[str, Cases], labels: Sequence[str] | None = None) -> str:
    """Returns the table in Markdown.

    The cell of a figure that was not measured is empty. A row without any figure is left out.

    Args:
        runs: the files' names without their ending -> their cases. The file "NAME-small" holds the
            measurements of the small pair, which stand in the column of "NAME".
        labels: the rows; None takes all.
    """
    # The small pair shares the column of the large one, and a file without figures gets no column.
    columns = [
        name
        for name in runs
        if not name.endswith("-small") and any(row(runs[name]) for row in LARGE.values())
    ]
    lines = [
        f"| | {' | '.join(_title(runs[name]) for name in columns)} |",
        f"| --- |{' --- |' * len(columns)}",
    ]
    for rows, ending in ((LARGE, ""), (SMALL, "-small")):
        for label, row in rows.items():
            if labels is not None and label not in labels:
                continue
            cells = [row(runs.get(name + ending, {})) for name in columns]
            # A row that no file has measured would be an empty line.
            if any(cells):
                lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _title(cases: Cases) -> str:
    """Returns a column's heading: the dtype, the accelerator or else the processor, the batch."""
    # The heading is that of the first case: a file is meant to hold one machine and one dtype.
    made = next(iter(cases.values()))["made"]
    machine = made["machine"]
    device = machine.get("accelerator") or machine["processor"]
    return f"{made['dtype']}, {device}, batch {made['batch_size']}"


def _times(case: str, slow: str, fast: str) -> Callable[[Cases], str]:
    """Returns a row whose cell is the median of the side `slow` divided by that of `fast`."""

    def row(cases: Cases) -> str:
        sides = cases.get(case, {}).get("seconds", {})
        return (
            f"{sides[slow]['median'] / sides[fast]['median']:.2f}"
            if slow in sides and fast in sides
            else ""
        )

    return row


def _joined(*rows: Callable[[Cases], str]) -> Callable[[Cases], str]:
    """Returns a row whose cell holds the figures of several rows, with slashes between them."""

    def row(cases: Cases) -> str:
        cells = [each(cases) for each in rows]
        # A cell with one figure missing could be read as the wrong figure, so it stays empty.
        return " / ".join(cells) if all(cells) else ""

    return row


def _rate(side: str) -> Callable[[Cases], str]:
    """Returns a row whose cell is the side's share of the rate of matrix products."""

    def row(cases: Cases) -> str:
        shares = cases.get("fused forward", {}).get("share_of_matmul_rate", {})
        return f"{shares[side]:.0%}" if side in shares else ""

    return row


def _pairs_per_second(side: str) -> Callable[[Cases], str]:
    """Returns a row whose cell is the batch divided by the side's median in "fused forward"."""

    def row(cases: Cases) -> str:
        case = cases.get("fused forward", {})
        sides = case.get("seconds", {})
        return f"{case['made']['batch_size'] / sides[side]['median']:,.0f}" if side in sides else ""

    return row


def _shares(cases: Cases) -> str:
    """Returns each strategy's share of the forward time, separated by commas."""
    shares = cases.get("parts", {}).get("share_of_forward_time", {})
    return ", ".join(f"{fusion} {share:.1%}" for fusion, share in shares.items())


def _milliseconds(side: str) -> Callable[[Cases], str]:
    """Returns a row whose cell is the side's median in the case "latency", in milliseconds."""

    def row(cases: Cases) -> str:
        sides = cases.get("latency", {}).get("seconds", {})
        return f"{sides[side]['median'] * 1e3:.3g}" if side in sides else ""

    return row


def _onnx(batch: str) -> Callable[[Cases], str]:
    """Returns a row whose cell compares eager with onnxruntime in the case "export"."""
    return lambda cases: _times(batch, "eager", "onnxruntime")(cases.get("export", {}))


def _streamed(cases: Cases) -> str:
    """Returns the rate and the peak memory of each number of streamed pairs."""
    points = cases.get("growth", {}).get("pairs", {})
    return "; ".join(
        f"{int(count):,}: {point['pairs_per_second']:,.0f}/s, {point['peak_megabytes']:,.0f} MB"
        for count, point in points.items()
    )


COMPILED = (
    f"forward pass compiled, against transformers' dual encoder padded {TO_THE_LONGEST} / {TO_512}"
)

LARGE: dict[str, Callable[[Cases], str]] = {
    f"text tower packed, against transformers padded {TO_THE_LONGEST} / {TO_512}": _joined(
        *(
            _times("text tower", f"transformers, {width}", "packed")
            for width in (TO_THE_LONGEST, TO_512)
        )
    ),
    f"forward pass, against transformers' dual encoder padded {TO_THE_LONGEST} / {TO_512}": _joined(
        *(
            _times("fused forward", f"dual encoder, {width}", "concat")
            for width in (TO_THE_LONGEST, TO_512)
        )
    ),
    COMPILED: _joined(
        *(
            _times("fused forward", f"dual encoder, {width}", "concat, compiled")
            for width in (TO_THE_LONGEST, TO_512)
        )
    ),
    "forward pass, share of the rate of matrix products, eager / compiled": _joined(
        _rate("concat"), _rate("concat, compiled")
    ),
    "pairs per second, eager / compiled": _joined(
        _pairs_per_second("concat"), _pairs_per_second("concat, compiled")
    ),
    "mapper and fusion, share of the forward time": _shares,
    "training step packed, against padded": _times(
        "training step", "padded to the longest", "packed"
    ),
    "one pair, milliseconds, eager / compiled": _joined(
        _milliseconds("concat"), _milliseconds("concat, compiled")
    ),
    "onnxruntime, against eager, batch 1 / 32": _joined(_onnx("batch 1"), _onnx("batch 32")),
    "pairs streamed (tiny towers): rate and peak memory": _streamed,
}
"""The rows of the large pair: label -> the function that makes a cell from a file's cases."""

SMALL: dict[str, Callable[[Cases], str]] = {
    "epoch with cached embeddings, against frozen encoders without a cache (small pair)": _times(
        "epoch", "frozen", "cached"
    ),
}
"""The rows of the small pair, in the same form as `LARGE`."""

README_ROWS = (
    f"text tower packed, against transformers padded {TO_THE_LONGEST} / {TO_512}",
    COMPILED,
    "pairs per second, eager / compiled",
    "one pair, milliseconds, eager / compiled",
)
"""The rows that the README shows."""
