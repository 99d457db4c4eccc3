"""Labels of every kind, as one array and with their names."""

import math

import datasets
import numpy as np
import pytest
import torch

from mmfusion.data.labels import class_names, is_multi_label, label_array, label_tensor


def table(labels: list[object], feature: object = None) -> datasets.Dataset:
    features = None if feature is None else datasets.Features({"label": feature})
    return datasets.Dataset.from_dict({"label": labels}, features=features)


NAMED = [{"mass": 1.0, "fluid": None}, {"mass": 0.0, "fluid": 1.0}]


@pytest.mark.parametrize(
    ("rows", "names", "expected"),
    [
        (table([1, 0], datasets.ClassLabel(names=["no", "yes"])), ["no", "yes"], [1, 0]),
        (table([1, 0]), None, [1, 0]),
        (table(NAMED), ["mass", "fluid"], [[1, math.nan], [0, 1]]),
        (table([[1.0, None], [0.0, 1.0]]), None, [[1, math.nan], [0, 1]]),
    ],
)
@pytest.mark.parametrize("form", [None, "torch", "numpy"])
def test_every_kind_of_column(rows, names, expected, form) -> None:
    assert class_names(rows) == names
    assert is_multi_label(rows) == isinstance(expected[0], list)
    # A format of torch or numpy turns the cells into tensors and arrays.
    found = label_array(rows.with_format(form))
    assert found.dtype == (np.float32 if isinstance(expected[0], list) else np.int64)
    np.testing.assert_array_equal(found, np.array(expected, dtype=float))


@pytest.mark.parametrize(
    "labels",
    [
        [0.5],
        ["yes"],
        [None],
        [1, [1.0]],
        [[1.0], [1.0, 0.0]],
        [{"mass": 1.0}, {"fluid": 1.0}],
        [{"mass": 1.0, "fluid": 0.0}, {"fluid": 0.0, "mass": 1.0}],
        [{"mass": 1.0}, [1.0]],
    ],
)
def test_labels_that_differ_in_kind_are_refused(labels) -> None:
    """The same names in another order would be other columns."""
    with pytest.raises(ValueError, match="label must be a class number in every row"):
        label_tensor(labels)


def test_numbers_of_numpy_and_torch() -> None:
    found = label_tensor([np.int64(2), torch.tensor(1), True])
    assert found.dtype == torch.int64 and found.tolist() == [2, 1, 1]
