"""What holds for every test: no network, shapes checked at run time, real data only where a variable says."""

import functools
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

# One backend a process; the tests of segmentation start another process for the other one.
os.environ.setdefault("KERAS_BACKEND", "torch")
# Before transformers is imported, which reads them once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import beartype
import jaxtyping
import pytest
import torch


def _checked(function: Callable[..., Any]) -> Any:
    """`function` checked by beartype, but for Self, which beartype takes in decorated classes alone."""
    function.__annotations__ = {
        name: hint for name, hint in function.__annotations__.items() if hint is not Self
    }
    checking = beartype.beartype(function)

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        # torch.export calls with shapes that are symbols: to compare them would make numbers of
        # them.
        return (function if torch.compiler.is_exporting() else checking)(*args, **kwargs)

    return checked


# The hook wants the checker's name in a module that can be imported.
_checker = types.ModuleType("mmfusion_shape_checker")
vars(_checker)["checked"] = _checked
sys.modules[_checker.__name__] = _checker

# `configuration` holds no tensors.
SHAPED: tuple[str, ...] = tuple(
    path.stem
    for path in sorted((Path(__file__).parents[1] / "src/mmfusion/model").glob("*.py"))
    if path.stem not in ("__init__", "configuration")
)
# Where only compiled code is tested, another process asks for no check: the two clash.
if os.environ.get("MMFUSION_SHAPES_UNCHECKED"):
    SHAPED = ()
_loaded = [name for name in SHAPED if f"mmfusion.model.{name}" in sys.modules]
assert not _loaded, f"the shape check comes too late for {_loaded}, imported already"
jaxtyping.install_import_hook(
    [f"mmfusion.model.{name}" for name in SHAPED], "mmfusion_shape_checker.checked"
)

if os.environ.get("PYTEST_XDIST_WORKER"):
    # Each worker has a core of its own to itself at best.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets."""
    folder = os.environ.get("MMFUSION_DATA")
    if not folder:
        pytest.skip("needs the real data: set MMFUSION_DATA to their folder")
    return Path(folder)
