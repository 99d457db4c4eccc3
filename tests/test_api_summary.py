"""The API pages begin with a table of all names that they document."""

import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

import api_summary as SUMMARY  # noqa: E402 (its folder is on the path only here)


@pytest.mark.parametrize("path", sorted(DOCS.glob("api-*.md")), ids=lambda path: path.stem)
def test_the_table_has_every_name_of_the_page(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    found = SUMMARY.with_summary(page)
    block = next(block for block in page.split("```{eval-rst}") if ".. auto" in block)
    documented = [
        line.split(":: ")[1]
        for line in block.partition("```")[0].splitlines()
        if line.startswith(".. auto")
    ]
    # The table is all that was added.
    start = page.index(SUMMARY.START) + len(SUMMARY.START) if SUMMARY.START in page else 0
    stop = start + len(found) - len(page)
    assert found[:start] + found[stop:] == page
    table = [word.lstrip("~") for word in found[start:stop].split()[3:]]
    assert table == (documented if start and len(documented) > 1 else [])
