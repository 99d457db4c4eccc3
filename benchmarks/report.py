"""Tables of what was measured."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table


def print_case(console: Console, name: str, found: dict[str, Any]) -> None:
    """Print a case: its seconds as a table, what is nested as a table each, and whatever else it holds as JSON."""
    if "seconds" in found:
        console.print(_table(name, found))
    for key, value in found.items():
        if isinstance(value, dict) and "seconds" in value and isinstance(value["seconds"], dict):
            console.print(_table(f"{name}, {key}", value))
        elif key in ("share_of_forward_time", "pairs", "largest_difference") and isinstance(value, dict):
            console.print(f"{key}: {json.dumps(value, indent=2)}", highlight=False)


def _table(title: str, found: dict[str, Any]) -> Table:
    """Milliseconds of each side, its share of the machine's rate, and how many times the first side is faster."""
    table = Table("side", "median ms", "10th to 90th percentile", "of the matmul rate", "times the first side", title=title)
    sides = found["seconds"]
    first = next(iter(sides.values()))["median"]
    shares = found.get("share_of_matmul_rate", {})
    for name, taken in sides.items():
        share = f"{shares[name]:.0%}" if name in shares else ""
        spread = f"{taken['low'] * 1e3:.1f} to {taken['high'] * 1e3:.1f}"
        table.add_row(name, f"{taken['median'] * 1e3:.1f}", spread, share, f"{taken['median'] / first:.2f}")
    return table
