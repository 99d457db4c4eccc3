"""The rows that the Trainer reads: as they are, augmented or cached, and their collator."""

from pathlib import Path

import datasets

from mmfusion import Augmented, FusionCollator, training_arguments
from mmfusion import testing as kit
from mmfusion.training.feature_cache import CachedCollator, CachedDataset
from mmfusion.training.rows import first_views, has_modality, rows_and_collator, without


def test_columns_without_a_tower_are_left_aside(tmp_path: Path, rows, compose) -> None:
    model, processor = compose(rows)
    arguments = training_arguments(tmp_path)
    read, collate = rows_and_collator(model, processor, rows, arguments, None)
    assert set(read.column_names) == set(rows.column_names)
    assert isinstance(collate, FusionCollator)
    text_only = kit.tiny_classifier(image=None, text="bert", num_labels=4)
    read, _ = rows_and_collator(text_only, processor, rows, arguments, None)
    assert "image" not in read.column_names and "text" in read.column_names


def test_augmented_rows_follow_the_seed_of_the_arguments(tmp_path: Path, rows, compose) -> None:
    model, processor = compose(rows)
    arguments = training_arguments(tmp_path, seed=7)
    read, _ = rows_and_collator(
        model, processor, rows, arguments, None, lambda picture, rng: picture
    )
    assert isinstance(read, Augmented) and read[0]["seed"] == 7


def test_a_cache_gives_cached_rows(tmp_path: Path, rows, compose) -> None:
    model, processor = compose(rows)
    model.freeze("image")
    few: datasets.Dataset = rows.select(range(4))
    arguments = training_arguments(tmp_path)
    read, collate = rows_and_collator(model, processor, few, arguments, tmp_path / "cache")
    assert isinstance(read, CachedDataset) and isinstance(collate, CachedCollator)
    assert read.modalities == ("image",)
    batch = collate([read[0], read[1]])
    assert "image_state" in batch and "pixel_values" not in batch


def test_a_row_has_a_modality_if_one_of_them_is_there():
    table = datasets.Dataset.from_dict(
        {"image": ["a", None, None, "b"], "text": ["x", "y", None, None]}
    )
    assert has_modality(table, ("image", "text")).tolist() == [True, True, False, True]
    assert has_modality(table, ("text",)).tolist() == [True, True, False, False]
    without = table.remove_columns("image")
    assert has_modality(without, ("image", "text")).tolist() == [True, True, False, False]


def test_a_table_of_one_column_keeps_its_rows() -> None:
    table = datasets.Dataset.from_dict({"image": [["a.png", "b.png"], None]})
    assert without(table, "image")["image"][:] == [None, None]
    assert first_views(table, 1)["image"][:] == ["a.png", None]
