"""The table of image processors in the documentation is what comes of them."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "_ext" / "processor_table.py"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("processor_table", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLE = script()
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
    with pytest.raises(ValueError, match="must hold the lines"):
        TABLE.inserted("# Preprocessing", "")
    page = f"before\n{TABLE.START}\nold\n{TABLE.END}\nafter\n"
    assert TABLE.inserted(page, "new") == f"before\n{TABLE.START}\n\nnew\n\n{TABLE.END}\nafter\n"
