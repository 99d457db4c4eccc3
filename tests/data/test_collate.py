"""`FusionCollator` and `Augmented`: their batches, their errors, and repeatable augmentation."""

import math
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from mmfusion.data.collate import Augmented, FusionCollator
from mmfusion.model.images import ImageError


def fake_processor(
    images: list[Image.Image | None] | None = None, text: list[str | None] | None = None
) -> dict[str, torch.Tensor]:
    """Returns the mean of each picture, the length of each text, and which samples have them."""
    batch = {}
    if images is not None:
        means = [0.0 if image is None else float(np.mean(np.asarray(image))) for image in images]
        batch["pixel_values"] = torch.tensor(means)
        batch["image_present"] = torch.tensor([image is not None for image in images])
    if text is not None:
        batch["input_ids"] = torch.tensor([len(one or "") for one in text])
        batch["text_present"] = torch.tensor([one is not None for one in text])
    return batch


def noise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (4, 4), dtype=np.uint8))


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    names = [str(tmp_path / f"{number}.png") for number in range(6)]
    for number, name in enumerate(names):
        Image.new("L", (4, 4), 10 * number).save(name)
    return names


def test_a_batch(paths: list[str]) -> None:
    rows = [
        {"image": paths[1], "text": None, "label": 1},
        {"image": None, "text": "abc", "label": 0},
    ]
    batch = FusionCollator(fake_processor)(rows)
    assert batch["pixel_values"].tolist() == [10, 0]
    assert batch["image_present"].tolist() == [True, False]
    assert batch["input_ids"].tolist() == [0, 3]
    assert batch["text_present"].tolist() == [False, True]
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == [1, 0]


def test_an_absent_column_is_not_passed(paths: list[str]) -> None:
    collator = FusionCollator(fake_processor)
    assert set(collator([{"image": paths[0]}])) == {"pixel_values", "image_present", "facts"}
    assert set(collator([{"text": None, "label": 2}])) == {"input_ids", "text_present", "labels"}


def test_multi_label() -> None:
    labels = FusionCollator(fake_processor)(
        [{"text": "a", "label": [1.0, math.nan]}, {"text": "b", "label": [0.0, None]}]
    )["labels"]
    assert labels.dtype == torch.float32
    assert labels.shape == (2, 2)
    assert labels.isnan().tolist() == [[False, True], [False, True]]


@pytest.mark.parametrize(
    "labels", [[1, None], ["a", "b"], [[1.0], [1.0, 0.0]], [1, [1.0]], [0.5, 1]]
)
def test_bad_labels(labels: list[Any]) -> None:
    with pytest.raises(ValueError, match="label must be a class number in every row"):
        FusionCollator(fake_processor)([{"text": "a", "label": label} for label in labels])


@pytest.mark.parametrize("rows", [[], [{"label": 1}]])
def test_nothing_to_collate(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        FusionCollator(fake_processor)(rows)


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"bad\.png"):
        FusionCollator(fake_processor)([{"image": str(tmp_path / "bad.png")}])


def test_augmentation_must_return_a_picture(paths: list[str]) -> None:
    collator = FusionCollator(fake_processor, augment=lambda image, rng: np.asarray(image))  # type: ignore[arg-type, return-value]
    rows = Augmented(datasets.Dataset.from_dict({"image": paths}))
    with pytest.raises(
        TypeError, match=r"augment must be .* returns a PIL image, got ndarray for .*0\.png"
    ):
        collator([rows[0]])


def test_only_augmented_rows_are_changed(paths: list[str]) -> None:
    collator = FusionCollator(fake_processor, augment=noise)
    data = datasets.Dataset.from_dict({"image": paths})
    assert collator(list(data))["pixel_values"].tolist() == [0, 10, 20, 30, 40, 50]
    changed = collator([Augmented(data)[number] for number in range(6)])["pixel_values"]
    assert len(set(changed.tolist())) == 6


def run(paths: list[str], workers: int, seed: int = 0) -> list[list[float]]:
    """Returns the values of two epochs of a shuffled loader, each epoch sorted."""
    rows = Augmented(datasets.Dataset.from_dict({"image": paths, "text": paths}), seed=seed)
    loader = torch.utils.data.DataLoader(
        rows, batch_size=2, shuffle=True, collate_fn=FusionCollator(fake_processor, augment=noise),
        num_workers=workers, persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(workers),
    )  # fmt: skip
    epochs = []
    for epoch in range(2):
        rows.set_epoch(epoch)
        epochs.append(sorted(float(value) for batch in loader for value in batch["pixel_values"]))
    return epochs


def test_augmentation_repeats_whatever_the_workers(paths: list[str]) -> None:
    alone = run(paths, workers=0)
    assert alone[0] != alone[1]
    assert run(paths, workers=2) == alone
    assert run(paths, workers=0, seed=1) != alone


def test_augmented() -> None:
    rows = Augmented(datasets.Dataset.from_dict({"text": ["a", "b", "c"]}), seed=5)
    assert len(rows) == 3
    assert rows.column_names == ["text", "seed", "epoch", "index"]
    rows.set_epoch(2)
    assert rows[-1] == {"text": "c", "seed": 5, "epoch": 2, "index": 2}
    assert pickle.loads(pickle.dumps(rows))[0] == rows[0]
    with pytest.raises(IndexError):
        rows[3]


@pytest.mark.parametrize("value", [-1, 0.5, None])
def test_bad_seed_and_epoch(value: Any) -> None:
    data = datasets.Dataset.from_dict({"text": ["a"]})
    with pytest.raises(ValueError, match="seed must be a whole number"):
        Augmented(data, seed=value)
    with pytest.raises(ValueError, match="epoch must be a whole number"):
        Augmented(data).set_epoch(value)


def test_taken_columns() -> None:
    with pytest.raises(ValueError, match=r"got \['epoch'\]. Rename"):
        Augmented(datasets.Dataset.from_dict({"epoch": [1]}))
