"""Tables of the pages on choosing a strategy and on serving, from stored results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "examples" / "lung_disease" / "results"
LOAD = ROOT / "benchmarks" / "results" / "serving.json"
SETS = (
    ("covid", None, "COVID, notes"),
    ("shenzhen", None, "Shenzhen, sex and age"),
    ("phantom", "published", "phantom, published text"),
)


def strategies() -> str:
    """Returns what each strategy adds to the AUROC of the best single modality."""
    from mmfusion.model.fusion import BUILT_IN

    columns = [_differences(name, protocol) for name, protocol, _ in SETS]
    head = ["strategy", *(title for _, _, title in SETS)]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for name in BUILT_IN:
        cells = [column.get(name, "") for column in columns]
        lines.append(f"| {' | '.join([f'`{name}`', *cells])} |")
    return "\n".join(lines)


def _differences(name: str, protocol: str | None) -> dict[str, str]:
    found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    comparison: Any = next(
        one for one in found["comparisons"] if protocol is None or one["protocol"] == protocol
    )
    return {
        row["name"].removesuffix(" (linear)"): (
            f"{row['minus_single']['estimate']:+.3f} "
            f"({row['minus_single']['low']:+.3f} to {row['minus_single']['high']:+.3f})"
        )
        for row in comparison["rows"]
        if "minus_single" in row
    }


def serving() -> str:
    """Returns the figures of the load test."""
    found = json.loads(LOAD.read_text(encoding="utf-8"))
    head = ["engine", "requests/s", "p50, ms", "p99, ms", "lost", "wrong", "memory, MiB"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for one in found:
        memory = f"{one['memory_before_mib']:,} to {one['memory_after_mib']:,}"
        names = ("engine", "requests_per_second", "p50_ms", "p99_ms", "lost", "wrong")
        lines.append(f"| {' | '.join([*(str(one[name]) for name in names), memory])} |")
    return "\n".join(lines)
