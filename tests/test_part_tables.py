"""The tables of strategies and mappers that the documentation shows are those of the code."""

import json
from collections.abc import Callable
from types import ModuleType

import pytest

from mmfusion.model.fusion import BUILT_IN, FUSIONS
from mmfusion.model.mapper import MAPPERS


@pytest.fixture(scope="module")
def part_tables(docs_extension: Callable[[str], ModuleType]) -> ModuleType:
    return docs_extension("part_tables")


def test_the_readme_lists_what_the_tables_hold(part_tables: ModuleType) -> None:
    text = part_tables.README.read_text(encoding="utf-8")
    assert part_tables.inserted(text) == text, "run python docs/_ext/part_tables.py"
    for name in (*BUILT_IN, *MAPPERS):
        assert f"| `{name}`" in text
    for name in BUILT_IN:
        assert FUSIONS[name].summary, f"{name} must say what it does"


def test_the_page_of_families_lists_what_was_measured(part_tables: ModuleType) -> None:
    text = part_tables.FAMILIES.read_text(encoding="utf-8")
    assert part_tables.inserted(text, part_tables.families()) == text, (
        "run docs/_ext/part_tables.py"
    )
    assert "| `fnet` | text | laws hold | groups of equal length |" in text
    assert "| `layoutlm` | text | refused: takes bbox |" in text


def test_a_readme_without_markers_is_refused(part_tables: ModuleType) -> None:
    with pytest.raises(ValueError, match="must hold the lines"):
        part_tables.inserted("# mmfusion")


def test_the_api_page_lists_every_strategy(part_tables: ModuleType) -> None:
    entries = part_tables.directives()
    assert [f".. autoclass:: {FUSIONS[name].__name__}" in entries for name in BUILT_IN] == [
        True
    ] * len(BUILT_IN)


def test_the_table_of_imbalance_holds_what_was_measured(part_tables: ModuleType) -> None:
    results = json.loads(part_tables.IMBALANCE.read_text(encoding="utf-8"))
    lines = part_tables.imbalance().splitlines()
    assert len(lines) == 2 + 3 * len(results["rows"])
    for name, rows in results["rows"].items():
        for loss, row in rows.items():
            shown = f"| {name} | {loss} | {row['balanced_accuracy']['estimate']:.3f} |"
            assert any(line.startswith(shown) for line in lines)
        gap = results["balanced_minus_plain"][name]["auroc"]
        assert f"{gap['difference']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})" in lines[-1]
