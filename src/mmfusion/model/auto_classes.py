"""The registration of the library's classes with transformers' Auto classes, on their first use.

`import mmfusion` must not load transformers. It must also make `AutoProcessor.from_pretrained` know
the library's processor: transformers returns a tokenizer without a warning where it does not know
the class of a processor. So the registration waits for the first call.
"""

import functools
import importlib
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, final

REGISTERING = ("configuration", "modeling", "processing")
"""The modules of this folder that register a class when they are imported."""

_READERS = {
    "transformers.models.auto.configuration_auto": "AutoConfig",
    "transformers.models.auto.processing_auto": "AutoProcessor",
}
"""Module -> the class whose `from_pretrained` meets the type of a saved model. `AutoModel` asks
`AutoConfig`."""


def register() -> None:
    """Registers FusionConfig, FusionClassifier and FusionProcessor with the Auto classes."""
    for name in REGISTERING:
        importlib.import_module(f".{name}", __package__)


def register_on_first_use() -> None:
    """Lets the first `from_pretrained` of an Auto class register the library's classes."""
    waiting = set(_READERS)
    for name in _READERS.keys() & sys.modules.keys():
        _let_reader_register(sys.modules[name])
        waiting.remove(name)
    if waiting:
        sys.meta_path.insert(0, _Watch(waiting))


def _let_reader_register(module: ModuleType) -> None:
    """Wraps `from_pretrained` of a module's Auto class until its first call."""
    reader = getattr(module, _READERS[module.__name__])
    own = vars(reader)["from_pretrained"]

    @functools.wraps(own.__func__)
    def from_pretrained(cls: type, *args: Any, **kwargs: Any) -> Any:
        if vars(reader)["from_pretrained"] is wrapped:
            reader.from_pretrained = own
        register()
        return own.__get__(None, cls)(*args, **kwargs)

    wrapped: Any = classmethod(from_pretrained)
    reader.from_pretrained = wrapped


@final
class _Watch(MetaPathFinder):
    """A finder that finds nothing itself. It sees the import of the modules of `_READERS`.

    Args:
        waiting: the names of the modules that are not imported yet.
    """

    def __init__(self, waiting: set[str]) -> None:
        self._waiting = waiting

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec that the other finders give, for a module that is waited for."""
        if fullname not in self._waiting:
            return None
        self._waiting.remove(fullname)
        if not self._waiting:
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _let_reader_register(module)

        # This loader serves this one import, so the method is replaced on it alone.
        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
