"""Fixtures of the examples' tests. The folders of their scripts are put on the import path."""

import sys
from pathlib import Path

import pytest

STUDY = Path(__file__).resolve().parents[2] / "examples" / "lung_disease"
sys.path[:0] = [str(STUDY), str(STUDY.parent)]


@pytest.fixture(scope="session")
def reports():
    """All reports of the installed torchxrayvision package."""
    pytest.importorskip("pooch", reason="needs the extra study")
    import openi

    try:
        return openi.read_reports()
    except ValueError as error:
        pytest.skip(f"needs the Open-i reports: {error}")
