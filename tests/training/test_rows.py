"""The rows that the Trainer reads: as they are, augmented or cached, and their collator."""

from pathlib import Path

import datasets
import numpy as np

from mmfusion import Augmented, FusionCollator, evaluate, fit, predict_proba, training_arguments
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


def test_a_frame_trains_and_is_measured_as_the_dataset_is(compose, rows, quiet, tmp_path) -> None:
    """The frame has names in the place of numbers, and the parts lack classes."""
    import pandas as pd

    names = rows.features["label"].names
    frame = pd.DataFrame({name: rows[name] for name in ("image", "text", "group")})
    frame["label"] = [names[number] for number in rows["label"]]
    results = []
    for number, samples in enumerate((rows, frame)):
        model, processor = compose(rows, id2label=dict(enumerate(names)))
        train, held_out = samples, samples
        if number:
            train = frame.iloc[:30]
            held_out = frame.iloc[30:][frame["label"][30:] != names[0]]
        else:
            train = rows.select(range(30))
            kept = [row for row in range(30, 40) if rows["label"][row] != 0]
            held_out = rows.select(kept)
        fit(model, processor, train, held_out, arguments=quiet(tmp_path / str(number)))
        found = evaluate(model, processor, held_out)
        probabilities = predict_proba(model, processor, held_out)
        np.testing.assert_allclose(probabilities, found.probabilities)
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
        results.append(found)
    np.testing.assert_array_equal(results[0].logits, results[1].logits)
    np.testing.assert_array_equal(results[0].labels, results[1].labels)
    assert str(results[0]).splitlines()[0].startswith("accuracy ")
    assert " to " in str(results[0])
