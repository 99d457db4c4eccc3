"""The versions that are written beside figures."""

import importlib.metadata

from mmfusion.training.versions import version_of, versions


def test_versions_are_those_that_are_installed() -> None:
    assert versions()["torch"] == importlib.metadata.version("torch")
    assert version_of("no-such-package") == "not installed"
