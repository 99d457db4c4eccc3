"""report.html of a comparison: one file that needs no other file and no network."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .compare_report import EXPLANATION, choice_lines, provenance, table_cells

_STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5a6675; --line: #dde3ea; --mark: #eef4fb; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 2rem 1.25rem 4rem; color: var(--ink);
  background: #fff; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
.verdict { font-size: 1.1rem; padding: 1rem 1.25rem; background: var(--mark);
  border-left: 4px solid #2f6fb3; border-radius: 4px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; }
th, td { padding: .4rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
tr.fused td { background: #fafcff; }
p.small, ul { color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
.plots { display: grid; gap: 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; max-width: 720px; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .4rem; }
"""


def page(results: Mapping[str, Any], plots: Sequence[tuple[str, str]], folder: Path) -> str:
    """Returns the page, with its plots inside.

    Args:
        results: the content of results.json.
        plots: the file and the caption of each plot.
        folder: where the plots are.
    """
    title = escape(results["title"])
    fused = {row["name"] for row in results["rows"] if len(row["modalities"]) == 2}
    header, *body = table_cells(results)
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        f"<h1>{title}</h1>",
        f'<p class="verdict">{escape(results["verdict"])}</p>',
        _bullets(results["notes"]),
        "<h2>All rows</h2>",
        '<div class="scroll"><table>',
        f"<thead>{_line('th', header)}</thead><tbody>",
        *(_line("td", cells, "fused" if cells[0] in fused else "") for cells in body),
        "</tbody></table></div>",
        f'<p class="small">{escape(EXPLANATION).replace("*", "")}</p>',
        "<h2>Choices and calibration</h2>",
        _bullets(choice_lines(results)),
        "<h2>Plots</h2>",
        '<div class="plots">',
        *(_figure(folder / file, caption) for file, caption in plots),
        "</div>",
        "<h2>How it was made</h2>",
        _bullets(provenance(results)),
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def _bullets(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _line(tag: str, cells: Sequence[str], kind: str = "") -> str:
    inside = "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)
    return f'<tr class="{kind}">{inside}</tr>' if kind else f"<tr>{inside}</tr>"


def _figure(file: Path, caption: str) -> str:
    """Returns a figure whose picture is part of the page."""
    content = base64.b64encode(file.read_bytes()).decode()
    text = escape(caption)
    # An SVG inside a data address keeps its identifiers apart from those of the other plots.
    return (
        f'<figure><img alt="{text}" src="data:image/svg+xml;base64,{content}">'
        f"<figcaption>{text}</figcaption></figure>"
    )
