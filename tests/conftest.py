"""The setup of all tests.

There is no network. Tensor shapes are checked at run time. Real data are used only where the
variable MMFUSION_DATA names their folder.
"""

import functools
import gc
import importlib.util
import inspect
import os
import resource
import signal
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Self

# Keras has one backend in a process. The tests of segmentation start another process for the other.
os.environ.setdefault("KERAS_BACKEND", "torch")
# These must be set before transformers is imported, because it reads them only once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# The workers of pytest-xdist share the cores. Threads of one would wait for cores that others hold,
# and spin meanwhile. The processes that tests start inherit this.
os.environ.update(
    {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    if "PYTEST_XDIST_WORKER" in os.environ
    else {}
)
# The processes that tests start read tests/processes/sitecustomize.py.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).with_name("processes")), os.environ.get("PYTHONPATH")])
)

import beartype
import jaxtyping
import pytest
import torch

# The hook below makes Python compile what is imported inside of it anew. torchao, which this module
# imports, has a text with a backslash that is an error then.
import transformers.modeling_utils  # noqa: F401
from transformers.utils import logging

CHECKED_CALLS = 4
"""How many calls of each function of the library are checked in one test.

Checking every call took half of the time of the tests. A model calls most functions with the same
shapes in every block and every batch.
"""
_calls: Counter[str] = Counter()
_no_longer_checked: list[Any] = []


def _check_no_more(module: str, qualname: str) -> None:
    """Ends the check of a function until the next test begins.

    A function inside of another one is not found by its name, and is checked in every call.
    """
    found: Any = sys.modules[module]
    for name in qualname.split("."):
        found = inspect.getattr_static(found, name, None)
    found = getattr(found, "fget", found)
    if found is not None:
        original = inspect.unwrap(getattr(found, "__func__", found))
        # jaxtyping reads this attribute, which typing.no_type_check sets, in every call.
        original.__no_type_check__ = True
        _no_longer_checked.append(original)


def _checked(function: Callable[..., Any]) -> Any:
    """Returns `function` with its arguments checked by beartype."""
    # beartype takes Self only in decorated classes, so that annotation is left out.
    function.__annotations__ = {
        name: hint for name, hint in function.__annotations__.items() if hint is not Self
    }
    checking = beartype.beartype(function)
    name = f"{function.__module__}:{function.__qualname__}"

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        # torch.export calls with symbolic shapes. Comparing them would fix them to numbers.
        if torch.compiler.is_exporting():
            return function(*args, **kwargs)
        _calls[name] += 1
        # The arguments and the answer are checked by two functions of one name.
        if _calls[name] == 2 * CHECKED_CALLS:
            _check_no_more(function.__module__, function.__qualname__)
        return checking(*args, **kwargs)

    return checked


# The import hook finds the checker by its name, in a module that can be imported.
_checker = types.ModuleType("mmfusion_shape_checker")
vars(_checker)["checked"] = _checked
sys.modules[_checker.__name__] = _checker

# `configuration` is left out because it has no tensors.
UNSHAPED = ("__init__", "configuration", "graph", "images", "processing", "registry", "types")
SHAPED: tuple[str, ...] = tuple(
    path.stem
    for path in sorted((Path(__file__).parents[1] / "src/mmfusion/model").glob("*.py"))
    if path.stem not in UNSHAPED and not path.stem.startswith("load_")
)
# The process of the tests of compiled code sets this, because torch.compile and the check clash.
if os.environ.get("MMFUSION_SHAPES_UNCHECKED"):
    SHAPED = ()
_loaded = [name for name in SHAPED if f"mmfusion.model.{name}" in sys.modules]
assert not _loaded, f"the shape check comes too late for {_loaded}, imported already"
jaxtyping.install_import_hook(
    [f"mmfusion.model.{name}" for name in SHAPED], "mmfusion_shape_checker.checked"
)

IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if IS_WORKER:
    # Where a plugin imported torch before, the variables above come too late.
    torch.set_num_threads(1)


UNCOUNTED = ("contracts", "examples", "fuzz", "golden", "properties", "reference")
"""Folders of tests during which no lines are counted for the coverage."""
UNCOUNTED_FILES = ("test_encoder_families.py", "test_load_timm.py", "test_parts.py")
"""Files with many cases that run the same lines."""
UNCOUNTED_WORDS = ("_law", "_exported_graph")
"""Words in the names of tests that call the conformance kit or an exporter."""


def pytest_configure(config: pytest.Config) -> None:
    """Hides the GPU, except from the tests that are chosen with `-m cuda`, and stops a counter.

    The Trainer would move models to the GPU, and the other tests compare with the CPU.
    """
    if config.option.markexpr != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    counting = config.pluginmanager.getplugin("_cov")
    if counting is not None and IS_WORKER:
        # pytest-cov starts a counter when it is loaded and another one when the session starts.
        # `no_cover` pauses the second one alone.
        counting.cov_controller.cov.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves tests that run the same lines over and over out of the coverage.

    Counting lines makes Python about 40 % slower. The coverage is that of the tests that mirror the
    library's folders, and of the first case of each test that has several. The processes that tests
    start are not counted either, so the coverage is a lower bound.
    """
    here = Path(__file__).parent
    counted: set[str] = set()
    for item in items:
        name = item.nodeid.partition("[")[0]
        if item.get_closest_marker("no_cover") is not None:
            continue
        if name in counted:
            item.add_marker(pytest.mark.no_cover)
        elif item.path.is_relative_to(here):
            counted.add(name)
            first, *rest = item.path.relative_to(here).parts
            is_long = item.path.name in UNCOUNTED_FILES or any(
                w in item.name for w in UNCOUNTED_WORDS
            )
            if first in UNCOUNTED or not rest or is_long:
                item.add_marker(pytest.mark.no_cover)


@pytest.fixture(autouse=True, scope="module")
def _lasting_objects_are_searched_once() -> Iterator[None]:
    """Lets the garbage collector leave out what outlived the tests of a file, such as caches.

    Every training collects garbage, and would search millions of objects that others left.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _shapes_are_checked() -> Iterator[None]:
    """Checks the first calls of every function in each test, whatever ran before it."""
    yield
    _calls.clear()
    while _no_longer_checked:
        del _no_longer_checked.pop().__no_type_check__


@pytest.fixture(autouse=True)
def _threads_stay() -> Iterator[None]:
    """Takes back the number of threads that a test sets.

    A worker with two threads waits for a core that the other worker holds, and spins meanwhile. The
    trainings behind such a test took four times as long.
    """
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _warnings_are_heard() -> None:
    """Lets each test hear what is said once per process, whatever ran before it."""
    logging.warning_once.cache_clear()


@pytest.fixture(scope="session")
def docs_extension() -> Callable[[str], types.ModuleType]:
    """Returns a function that loads a module of `docs/_ext` by its name."""

    def load(name: str) -> types.ModuleType:
        path = Path(__file__).parents[1] / "docs" / "_ext" / f"{name}.py"
        found = importlib.util.spec_from_file_location(name, path)
        assert found is not None and found.loader is not None
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Returns the folder of the real data sets."""
    folder = os.environ.get("MMFUSION_DATA")
    if not folder:
        pytest.skip("needs the real data: set MMFUSION_DATA to their folder")
    return Path(folder)


def _empty_on_cuda(value: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    kind = value.dtype if dtype is None or not value.is_floating_point() else dtype
    return torch.empty(value.shape, dtype=kind, device="cuda")


def _fake_on_cuda(held: Any, dtype: torch.dtype | None = None) -> Any:
    if isinstance(held, dict):
        return {name: _empty_on_cuda(value, dtype) for name, value in held.items()}
    for module in held.modules():
        for name, value in module._parameters.items():
            if value is not None:
                empty = _empty_on_cuda(value, dtype)
                module._parameters[name] = torch.nn.Parameter(empty, value.requires_grad)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = _empty_on_cuda(value, dtype)
    return held


@pytest.fixture(scope="session")
def fake_on_cuda() -> Callable[..., Any]:
    """Returns a function that moves a module, or a batch, to a CUDA device that is not there.

    It is called where tensors are fake. It takes the type of the floating-point numbers, too.
    """
    return _fake_on_cuda


@contextmanager
def _full_disk(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel sends a signal, which would end the process. Without it, a write fails.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(scope="session")
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """Returns a context in which no file can grow beyond a size in bytes, as on a full disk."""
    return _full_disk
