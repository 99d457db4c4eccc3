"""transformers' own bars and reports are hidden for a while, and come back."""

from logging import Handler
from pathlib import Path
from typing import Any

import pytest
from transformers import BertModel
from transformers.utils import logging

from mmfusion import TextEncoder
from mmfusion.model.quiet import without_bars_of_files, without_messages


@pytest.mark.parametrize("context", [without_bars_of_files, without_messages])
def test_what_was_hidden_comes_back(context: Any) -> None:
    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    with pytest.raises(KeyError), context():
        assert not logging.is_progress_bar_enabled()
        raise KeyError
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == before


def test_a_checkpoint_is_read_without_a_word(tmp_path: Path, bert: Any) -> None:
    """Its pooler is left out, which transformers would report as unexpected keys."""
    BertModel(bert()).save_pretrained(tmp_path)
    said: list[str] = []
    handler = Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.add_handler(handler)
    try:
        TextEncoder(str(tmp_path))
    finally:
        logging.remove_handler(handler)
    assert said == []
