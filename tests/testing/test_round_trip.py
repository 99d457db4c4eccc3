"""The round trip law reports what goes wrong in the new process."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mmfusion import (
    EmbeddingMapper,
    Fused,
)
from mmfusion import testing as kit
from mmfusion.model.tower import Tower

Act = Callable[[Any, Tower, Tower, EmbeddingMapper], Fused]


def _fused(fusion: Any, image: Tensor, text: Tensor) -> Fused:
    return Fused(torch.cat([image, text], dim=-1), fusion.head(image, text), image, text)


def _plain(fusion: Any, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
    return _fused(fusion, image.encode().pooled, mapper(text.encode()).pooled)


def test_the_round_trip_law_reports_what_the_new_process_says(plug_in: Any) -> None:
    model = plug_in("known-here-alone", _plain)
    with pytest.raises(
        AssertionError, match=r"(?s)the new process failed:.*got 'known-here-alone'"
    ):
        kit.check_round_trip_law((model, kit.tiny_batch(model)))
