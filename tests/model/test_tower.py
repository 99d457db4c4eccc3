"""Towers: up to where they may be cached, and how many real tokens each row has."""

import itertools
from typing import Any

import pytest
import torch

from mmfusion import (
    Joint,
)
from mmfusion import testing as kit
from mmfusion.model.missing import complete_inputs
from mmfusion.model.tower import Tower
from mmfusion.model.tower_start import start_tower
from mmfusion.model.types import CachePoint


def test_how_far_a_tower_may_be_cached(classifier: Any) -> None:
    assert classifier().cache_point("image") == CachePoint(0)
    assert classifier().freeze("image").cache_point("image") == CachePoint(3, pooled=True)
    assert classifier(fusion=Joint(at=1)).freeze("image").cache_point("image") == CachePoint(1)
    assert classifier().freeze("image", keep_last=1).cache_point("image") == CachePoint(2)
    assert classifier(text_encoder=None).freeze("image").cache_point("image") == CachePoint(
        3, pooled=True
    )


def tower(name: str, start: str, missing: tuple[bool, ...]) -> Tower:
    """Returns a tower of three samples, from inputs or from what a cache stored."""
    other = "text" if name == "image" else "image"
    kind = {"image": kit.tiny_image_encoder, "text": kit.tiny_text_encoder}[name]
    encoder = kind("transformers_vit" if name == "image" else "bert").eval()
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 0, 0, 1], [1, 1, 1, 1, 1]]).bool()
    values = torch.randn(3, 3, 32, 32) if name == "image" else torch.randint(3, 40, (3, 5))
    inputs = (values,) if name == "image" else (values, mask)
    tensors = {f"{name}_present": ~torch.tensor(missing), f"{other}_state": torch.zeros(3, 2, 1)}
    if name == "text":
        tensors["attention_mask"] = mask
    if start == "inputs":
        tensors["pixel_values" if name == "image" else "input_ids"] = values
    elif start == "block 1":
        tensors[f"{name}_state"] = encoder.walk(0, 1, encoder.embed(*inputs)).values
    else:
        encoded = encoder(*inputs)
        tensors[f"{name}_state"], tensors[f"{name}_pooled"] = encoded.tokens, encoded.pooled
    batch = complete_inputs(("image", "text"), tensors)
    point = CachePoint(1 if start == "block 1" else 0)
    return start_tower(encoder, name, batch, torch.ones(encoder.dim), point)


@torch.no_grad()
@pytest.mark.parametrize("start", ["inputs", "block 1", "whole tower"])
@pytest.mark.parametrize("name", ["image", "text"])
def test_lengths_are_the_sums_of_the_mask(name: str, start: str) -> None:
    for missing in itertools.product([False, True], repeat=3):
        encoded = tower(name, start, missing).encode()
        lengths = tower(name, start, missing).lengths_of(encoded)
        assert lengths == encoded.mask.sum(1).tolist()
        full = 17 if name == "image" else None
        for row, absent in enumerate(missing):
            assert lengths[row] == (1 if absent else full or (3, 2, 5)[row])
            if absent:
                assert torch.equal(encoded.pooled[row], torch.ones(encoded.pooled.shape[1]))


def test_a_tower_whose_mask_may_change_has_unknown_lengths() -> None:
    encoder = kit.tiny_image_encoder("custom").eval()
    inputs = (torch.zeros(2, 3, 32, 32),)
    walked = Tower(encoder, inputs, torch.tensor([True, False]), torch.ones(encoder.dim))
    assert walked.lengths_of(walked.encode()) is None
    empty = Tower(encoder, inputs, torch.tensor([False, False]), torch.ones(encoder.dim))
    assert empty.lengths_of(empty.encode()) == [1, 1]


def test_a_tower_that_was_not_told_the_lengths_does_not_guess_them() -> None:
    encoder = kit.tiny_text_encoder("bert").eval()
    ids, mask = torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    present = torch.ones(2, dtype=torch.bool)
    tower = Tower(encoder, (ids, mask), present, None)
    assert tower.lengths_of(tower.encode()) is None
    told = Tower(encoder, (ids, mask), present, None, lengths=(3, 1))
    assert told.lengths_of(told.encode()) == [3, 1]
