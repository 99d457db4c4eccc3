"""Batches for tiny classifiers: the same texts padded anew, and absent slots damaged."""

import pytest
import torch

from mmfusion import testing as kit


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_padded_anew_hold_the_same_tokens(side: str) -> None:
    batch = kit.tiny_batch(kit.tiny_classifier(), 5)
    again = kit.repadded(batch, side=side, extra=3, seed=1)
    assert again["input_ids"].shape[1] == batch["input_ids"].shape[1] + 3
    for row in range(5):
        texts = [one["input_ids"][row][one["attention_mask"][row].bool()] for one in (batch, again)]
        assert torch.equal(*texts)
        mask = again["attention_mask"][row].tolist()
        assert mask == sorted(mask, reverse=side == "right")
    # Padding with ids outside the vocabulary shows who reads it.
    assert int(again["input_ids"].max()) > 1000


def test_only_absent_slots_are_damaged() -> None:
    batch = kit.tiny_batch(kit.tiny_classifier(), 4)
    damaged = kit.corrupted(batch)
    has_image, has_text = batch["image_present"], batch["text_present"]
    assert bool(damaged["pixel_values"][~has_image].isnan().all()) and not bool(has_image.all())
    assert torch.equal(damaged["pixel_values"][has_image], batch["pixel_values"][has_image])
    assert bool(damaged["attention_mask"][~has_text].all()) and not bool(has_text.all())
    assert torch.equal(damaged["input_ids"][has_text], batch["input_ids"][has_text])


def test_a_batch_fits_the_problem_and_the_seed() -> None:
    model = kit.tiny_classifier(problem_type="multi_label_classification")
    labels = kit.tiny_batch(model, 6)["labels"]
    assert labels.shape == (6, 3) and bool(labels[0, 0].isnan())
    first, second, other = (kit.tiny_batch(model, 6, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first["pixel_values"], second["pixel_values"])
    assert not torch.equal(first["pixel_values"], other["pixel_values"])
