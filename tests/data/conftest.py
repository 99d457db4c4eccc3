"""The folder of pictures that the tests of manifests and tables share."""

from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a folder with two pictures. A third picture lies outside of it."""
    inside = tmp_path / "set"
    (inside / "images").mkdir(parents=True)
    for name, value in (("images/a.png", 10), ("images/b.png", 20), ("../outside.png", 30)):
        Image.new("L", (4, 4), value).save(inside / name)
    return inside
