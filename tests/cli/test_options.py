"""The options' help texts."""

import pytest

from mmfusion.cli import options
from mmfusion.model.fusion import BUILT_IN
from mmfusion.model.mapper import MAPPERS


def test_the_help_lists_the_tables() -> None:
    helps = [option.__metadata__[0].help for option in (options.Fusion, options.Mapper)]
    for text, table in zip(helps, (BUILT_IN, MAPPERS), strict=True):
        assert text.rstrip(".").replace(" or ", ", ").split(", ") == list(table)


def test_a_table_that_is_not_there_is_an_error() -> None:
    with pytest.raises(AssertionError, match="has no table NOTHING"):
        options._either("fusion", "NOTHING")
