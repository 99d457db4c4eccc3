"""Fixtures of the study's tests. The folder of its scripts is put on the import path."""

import sys
from pathlib import Path

import pytest

STUDY = Path(__file__).resolve().parents[2] / "examples" / "lung_disease"
sys.path.insert(0, str(STUDY))


@pytest.fixture(scope="session")
def reports():
    """All reports of the installed torchxrayvision package."""
    pytest.importorskip("pooch", reason="needs the extra study")
    import openi

    try:
        return openi.read_reports()
    except ValueError as error:
        pytest.skip(f"needs the Open-i reports: {error}")
