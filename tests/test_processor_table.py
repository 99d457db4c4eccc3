"""The table of image processors in the documentation is what comes of them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs" / "_ext"))

import processor_table as TABLE

ROWS = {
    cells[1].strip(" `"): (cells[2].strip(), cells[3].strip())
    for cells in (
        line.split("|")
        for line in TABLE.PAGE.read_text(encoding="utf-8").split(TABLE.START)[1].splitlines()
        if line.startswith("| `")
    )
}


def test_every_image_processor_has_a_row() -> None:
    assert sorted(ROWS) == TABLE.default_processors(), "run python docs/_ext/processor_table.py"


@pytest.mark.parametrize("name", TABLE.default_processors())
def test_the_row_says_what_comes_of_it(name: str) -> None:
    # `verdict` compares the pixels with those of the image processor itself.
    assert TABLE.verdict(name) == ROWS[name], "run python docs/_ext/processor_table.py"


def test_a_page_without_markers_is_refused() -> None:
    markers = TABLE.START, TABLE.END
    with pytest.raises(ValueError, match="must hold the lines '<!-- processors:start"):
        TABLE.inserted("# Preprocessing", "", *markers)
    page = f"before\n{TABLE.START}\nold\n{TABLE.END}\nafter\n"
    expected = f"before\n{TABLE.START}\n\nnew\n\n{TABLE.END}\nafter\n"
    assert TABLE.inserted(page, "new", *markers) == expected
