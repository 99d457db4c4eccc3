"""Contexts in which transformers prints no bars and no reports of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def without_bars_of_files() -> Iterator[None]:
    """Hides the bars that transformers shows for every file of weights that it writes or reads."""
    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_bars:
            logging.enable_progress_bar()


@contextmanager
def without_messages() -> Iterator[None]:
    """Hides the bars, warnings and reports of transformers. Its errors are still raised."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with without_bars_of_files():
            yield
    finally:
        logging.set_verbosity(verbosity)
