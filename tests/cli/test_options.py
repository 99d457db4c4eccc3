"""The options' help texts."""

import pytest

from mmfusion.cli import options
from mmfusion.inference.explain_gradients import IMAGE_METHODS
from mmfusion.inference.explain_text import WORD_METHODS
from mmfusion.model.fusion import BUILT_IN
from mmfusion.model.mapper import MAPPERS


def test_the_help_lists_the_tables() -> None:
    tables = {
        options.Fusion: BUILT_IN,
        options.Mapper: MAPPERS,
        options.HeatMethod: IMAGE_METHODS,
        options.WordMethod: WORD_METHODS,
    }
    for option, table in tables.items():
        names = option.__metadata__[0].help.rpartition(": ")[2]
        assert names.rstrip(".").replace(" or ", ", ").split(", ") == list(table)


def test_a_table_that_is_not_there_is_an_error() -> None:
    with pytest.raises(AssertionError, match="has no table NOTHING"):
        options._either("model/fusion", "NOTHING")
