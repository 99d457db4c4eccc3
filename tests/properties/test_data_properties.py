"""The guarantees of the splits, for any groups, texts and labels."""

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfusion.data.splits import components, fold_indices, split
from mmfusion.data.text import normalise_text

cells = st.one_of(
    st.none(), st.sampled_from(["a", "A.", " a", "b", "b b", "B  b!", "c", "d", "...", ""])
)
row = st.tuples(st.one_of(st.none(), st.integers(0, 12)), cells, st.integers(0, 2))


def dataset(rows: list[tuple[int | None, str | None, int]]) -> datasets.Dataset:
    groups, texts, labels = (list(column) for column in zip(*rows, strict=True))
    features = datasets.Features(
        group=datasets.Value("int64"), text=datasets.Value("string"), label=datasets.Value("int64")
    )
    return datasets.Dataset.from_dict(
        {"group": groups, "text": texts, "label": labels}, features=features
    )


def brute_force(rows: list[tuple[int | None, str | None, int]]) -> list[set[int]]:
    """Returns the inseparable sets, by merging sets of rows until nothing changes."""
    sets = [{number} for number in range(len(rows))]
    changed = True
    while changed:
        changed = False
        for one in sets:
            for other in sets:
                if one is not other and any(tied(rows[i], rows[j]) for i in one for j in other):
                    one |= other
                    sets.remove(other)
                    changed = True
                    break
            if changed:
                break
    return sorted(sets, key=min)


def tied(
    one: tuple[int | None, str | None, int], other: tuple[int | None, str | None, int]
) -> bool:
    same_group = one[0] is not None and one[0] == other[0]
    texts = [normalise_text(text or "") for text in (one[1], other[1])]
    return same_group or (texts[0] != "" and texts[0] == texts[1])


@settings(max_examples=60, deadline=None)
@given(st.lists(row, min_size=1, max_size=14))
def test_components_are_the_brute_force_union(
    rows: list[tuple[int | None, str | None, int]],
) -> None:
    component = components(dataset(rows))
    found = [
        set(np.flatnonzero(component == number).tolist()) for number in range(component.max() + 1)
    ]
    assert found == brute_force(rows)


@settings(max_examples=60, deadline=None)
@given(st.lists(row, min_size=4, max_size=40), st.integers(2, 4), st.integers(0, 9))
def test_folds_separate_no_component(
    rows: list[tuple[int | None, str | None, int]], n: int, seed: int
) -> None:
    data = dataset(rows)
    component = components(data)
    try:
        pairs = fold_indices(data, n=n, seed=seed)
    except ValueError as error:
        # An error is right only if a set is too large or if there are too few sets.
        assert "inseparable sets" in str(error)
        assert np.bincount(component).max() > len(rows) / n / 2 or component.max() + 1 < n
        return
    assert sorted(np.concatenate([test for _, test in pairs]).tolist()) == list(range(len(rows)))
    for train, test in pairs:
        assert not set(component[train]) & set(component[test])
        assert sorted([*train, *test]) == list(range(len(rows)))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=40, max_size=120),
    st.lists(st.integers(1, 5), min_size=2, max_size=4),
    st.integers(0, 9),
)
def test_single_rows_give_the_asked_sizes(labels: list[int], weights: list[int], seed: int) -> None:
    data = dataset([(number, None, label) for number, label in enumerate(labels)])
    sizes = {str(number): weight / sum(weights) for number, weight in enumerate(weights)}
    parts = split(data, sizes=sizes, seed=seed)
    rows = [group for part in parts.values() for group in part["group"]]
    assert sorted(rows) == list(range(len(labels)))
    for name, fraction in sizes.items():
        assert abs(len(parts[name]) - fraction * len(labels)) <= 2
        for label in range(4):
            got = parts[name]["label"][:].count(label)
            assert got == pytest.approx(fraction * labels.count(label), abs=2)


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once
    assert normalise_text(f"\t{text.upper()} .") == normalise_text(text.upper())
    assert "  " not in once
