"""The pages link names of other libraries to the documentation of these."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from docutils import nodes


@pytest.fixture(scope="module")
def links(docs_extension: Callable[[str], ModuleType]) -> ModuleType:
    return docs_extension("other_libraries")


def imported(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_every_name_is_that_of_the_object_it_stands_for(links: ModuleType) -> None:
    for name in links.PAGES:
        assert imported(name) is not None
    for other, name in links.OTHER_NAMES.items():
        assert name in links.PAGES and other.rpartition(".")[2] == name.rpartition(".")[2]
        if other.split(".")[0] in ("torch", "datasets", "transformers"):
            assert imported(other) is imported(name)


def test_a_known_name_becomes_a_link_and_another_one_stays(links: ModuleType) -> None:
    shown = nodes.literal(text="Module")
    found = links._link(None, None, {"reftarget": "nn.Module"}, shown)
    assert found["refuri"] == (
        "https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module"
    )
    assert found.children == [shown]
    assert links._link(None, None, {"reftarget": "Module"}, shown) is None
