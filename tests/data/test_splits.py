"""The splits: no leak, fair shares, and a clear error where these are impossible."""

import logging
from collections import Counter

import datasets
import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from mmfusion.data.splits import components, fold_indices, folds, split


def rows(n: int, **columns: list[object]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"number": list(range(n)), **columns})


def test_components_join_through_groups_and_texts() -> None:
    data = rows(
        7,
        group=["a", "a", "b", "c", None, None, " "],
        text=["x", "y", "Y!", "z", None, None, "..."],
    )
    assert components(data).tolist() == [0, 0, 0, 1, 2, 3, 4]
    assert components(data, text=None).tolist() == [0, 0, 1, 2, 3, 4, 5]
    assert components(data, group=None).tolist() == [0, 1, 1, 2, 3, 4, 5]


def test_nan_is_no_group() -> None:
    assert components(rows(3, group=[float("nan"), float("nan"), 1.0])).tolist() == [0, 1, 2]


def test_split_keeps_proportions() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=1000, p=[0.6, 0.3, 0.1]).tolist()
    parts = split(rows(1000, label=labels, group=[str(number) for number in range(1000)]))
    whole = Counter(labels)
    for (name, part), fraction in zip(parts.items(), (0.7, 0.15, 0.15), strict=True):
        assert abs(len(part) - 1000 * fraction) <= 2, name
        for label, count in Counter(part["label"]).items():
            assert abs(count - whole[label] * fraction) <= 2
    assert sorted(number for part in parts.values() for number in part["number"]) == list(
        range(1000)
    )
    assert all(part["number"][:] == sorted(part["number"]) for part in parts.values())


def test_multi_label_is_stratified() -> None:
    rng = np.random.default_rng(1)
    known = (rng.random((600, 4)) < [0.5, 0.3, 0.1, 0.05]).astype(float)
    known[rng.random((600, 4)) < 0.1] = np.nan
    data = rows(600, label=known.tolist(), group=list(range(600)))
    for _, test in fold_indices(data, n=3):
        assert np.abs(np.nansum(known[test], axis=0) - np.nansum(known, axis=0) / 3).max() <= 3


def test_as_even_as_scikit_learn() -> None:
    def worst(tests: list[np.ndarray]) -> float:
        counts = np.array([np.bincount(labels[test], minlength=4) for test in tests])
        return float(np.abs(counts - np.bincount(labels, minlength=4) / 5).max())

    ours, theirs = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        groups = rng.integers(0, 80, size=400)
        labels = rng.integers(0, 4, size=80)[groups]
        data = rows(400, label=labels.tolist(), group=groups.tolist())
        ours.append(worst([test for _, test in fold_indices(data, seed=seed)]))
        reference = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        theirs.append(worst([test for _, test in reference.split(labels, labels, groups)]))
    assert np.mean(ours) <= np.mean(theirs) + 0.25


def test_the_seed_decides() -> None:
    data = rows(60, group=list(range(60)), label=[0, 1] * 30)
    tests = [[test.tolist() for _, test in fold_indices(data, seed=seed)] for seed in (0, 0, 1)]
    assert tests[0] == tests[1]
    assert tests[0] != tests[2]


def test_absent_defaults(caplog: pytest.LogCaptureFixture) -> None:
    parts = split(rows(20), sizes={"a": 0.5, "b": 0.5})
    assert [len(part) for part in parts.values()] == [10, 10]
    assert "every row counts as a group" in caplog.text


def test_glued_texts_are_answered(caplog: pytest.LogCaptureFixture) -> None:
    data = rows(100, group=list(range(100)), text=["male", "female"] * 50)
    with pytest.raises(
        ValueError, match=r"0 rows of about 15.0 asked for 'validation'.*text=None.*then has 1 rows"
    ):
        split(data)
    assert len(split(data, text=None)["test"]) == 15
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        split(data, sizes={"a": 0.5, "b": 0.5})
    assert "tie 50 of 100 rows together" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": {"train": 0.7, "test": 0.2}}, "add up to 1"),
        ({"sizes": {"train": 1.0}}, "two or more"),
        ({"sizes": {"train": 1.2, "test": -0.2}}, "positive fractions"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"seed": 0.5}, "got 0.5"),
        ({"group": "patient"}, r"group must be one of the columns .*got 'patient'"),
        ({"text": "txet"}, r"got 'txet'. Did you mean 'text'\? "),
        ({"label": "labels"}, r"Did you mean 'label'\? Pass label=None"),
    ],
)
def test_bad_arguments(options: dict[str, object], message: str) -> None:
    data = rows(10, group=list(range(10)), text=["x"] * 10, label=[0] * 10)
    with pytest.raises(ValueError, match=message):
        split(data, **{"text": None, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [1, 0, 2.0, True])
def test_bad_number_of_folds(n: object) -> None:
    with pytest.raises(ValueError, match="n must be a whole number of at least 2"):
        fold_indices(rows(10), n=n)  # type: ignore[arg-type]


def test_too_few_groups() -> None:
    with pytest.raises(
        ValueError, match=r"form 3 inseparable sets, the largest of 2 rows. Ask for fewer parts"
    ):
        fold_indices(rows(5, group=["a", "a", "b", "b", "c"]))


def test_one_group_too_large() -> None:
    with pytest.raises(ValueError, match=r"the largest of 90 rows"):
        fold_indices(rows(100, group=[0] * 90 + list(range(1, 11))))


def test_nothing_to_split() -> None:
    with pytest.raises(ValueError, match="got 0 rows"):
        split(rows(0, group=[]))


@pytest.mark.parametrize("samples", ["rows.csv", {"a"}, datasets.DatasetDict()])
def test_not_a_dataset(samples: object) -> None:
    with pytest.raises(TypeError, match="samples must be a datasets.Dataset, .* got "):
        split(samples)


def test_folds_are_the_parts_of_their_indices() -> None:
    data = rows(40, group=[str(number // 2) for number in range(40)])
    pairs = fold_indices(data, n=4, seed=1)
    for fold, (train, test) in zip(folds(data, n=4, seed=1), pairs, strict=True):
        assert list(fold) == ["train", "test"]
        assert fold["train"].to_dict() == data.select(train).to_dict()
        assert fold["test"].to_dict() == data.select(test).to_dict()
