"""Splits that keep together the samples of one patient and the samples of one text.

Rows that share a group or a normalised text are inseparable. In the bipartite graph whose nodes are
the groups and the texts and whose edges are the rows, they form a connected component.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import datasets
import numpy as np
from numpy.typing import NDArray

from ..model.cells import write_cell
from ..model.missing import is_blank
from ..model.printing import list_names
from ..model.validation import did_you_mean
from .labels import label_tensor
from .samples import Samples, as_dataset
from .text import normalise_text

logger = logging.getLogger(__name__)

DEFAULT_SIZES: Mapping[str, float] = MappingProxyType(
    {"train": 0.7, "validation": 0.15, "test": 0.15}
)
LEAST_SHARE = 0.5
"""A part must get at least this share of the rows that `sizes` asks for."""
GLUED_SHARE = 0.1
"""Warn if identical texts tie together more than this share of the rows."""


def components(
    dataset: datasets.Dataset, *, group: str | None = "group", text: str | None = "text"
) -> NDArray[np.int64]:
    """Returns for each row the number of its inseparable set.

    The sets are numbered in the order in which they first appear. A row without a group (None, NaN,
    blank or a word such as "NA") is a group of its own. A row without a text is tied to no row by
    its text.

    Args:
        dataset: the samples.
        group: the column that names the patient. None: each row is its own group. The default name
            may be absent.
        text: the column of texts. None: identical texts may be separated. The default name may be
            absent.

    Returns:
        an array of the dataset's length.

    Raises:
        TypeError: if `dataset` is not a `datasets.Dataset`.
        ValueError: if a named column does not exist.

    Example:
        >>> columns = {"group": ["a", "b", "b", "c"], "text": ["x", "X.", None, "y"]}
        >>> rows = datasets.Dataset.from_dict(columns)
        >>> components(rows).tolist()
        [0, 0, 0, 1]
        >>> components(rows, text=None).tolist()
        [0, 1, 1, 2]
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    # The same patient may be 7 in one file and 7.0 in another.
    groups = _codes(map(write_cell, _column(dataset, group, "group")))
    if len(groups) == 0:
        return groups
    texts = _codes(
        None if is_blank(value) else normalise_text(str(value))
        for value in _column(dataset, text, "text")
    )
    # The nodes of the texts are numbered after those of the groups, so that all numbers differ.
    nodes = int(groups.max()) + int(texts.max()) + 2
    edges = (np.ones(len(groups)), (groups, texts + groups.max() + 1))
    _, of_node = connected_components(coo_matrix(edges, shape=(nodes, nodes)), directed=False)
    return _codes(of_node[groups].tolist())


def split(
    dataset: Samples,
    *,
    sizes: Mapping[str, float] = DEFAULT_SIZES,
    seed: int = 0,
    group: str | None = "group",
    text: str | None = "text",
    label: str | None = "label",
    warns: bool = True,
) -> datasets.DatasetDict:
    """Returns the dataset in named parts that share neither a group nor a normalised text.

    Inseparable sets of rows (see `components`) are assigned to the parts from the largest set to
    the smallest. Each goes to the part p with the least sum over the labels c of
    x_c (2 a_pc + x_c) / (T_c f_p). Here x_c, a_pc and T_c are the rows of label c in the set, in
    the part and in the dataset, and f_p is the fraction that `sizes` asks for. All rows together
    count as one more label. If every set is a single row and all rows have the same label, this is
    the Webster / Sainte-Lague apportionment. For parts of equal size, scikit-learn's
    StratifiedGroupKFold spreads the labels just as well, but it has neither unequal parts nor
    several labels per row.

    Args:
        dataset: the samples, in any form that `as_dataset` takes.
        sizes: the fraction of the rows for each part; positive, together 1.
        seed: a whole number of at least 0. The same seed gives the same parts.
        group: the column that names the patient. None: each row is its own group. The default name
            may be absent.
        text: the column of texts. None: identical texts may be separated. Use None where equal
            texts are no leak, such as "male, 45", because they would tie most rows together. The
            default name may be absent.
        label: the column to stratify by, of names, of numbers or, for multi-label, of lists. None:
            no stratification. The default name may be absent.
        warns: whether a warning is logged if identical texts tie many rows together.

    Returns:
        the parts under the names of `sizes`, each in the dataset's own order.

    Raises:
        TypeError: if `dataset` has none of these forms.
        ValueError: if sizes, seed or a column's name are wrong; or if the inseparable sets are so
            few or so large that a part would get no row, or less than half of the rows that it
            should get (rounded down).

    Example:
        >>> columns = {"group": list("aabbccdd"), "label": [0, 0, 1, 1] * 2}
        >>> parts = split(datasets.Dataset.from_dict(columns), sizes={"train": 0.5, "test": 0.5})
        >>> sorted(parts["train"]["label"])
        [0, 0, 1, 1]
        >>> set(parts["train"]["group"]) & set(parts["test"]["group"])
        set()
    """
    fractions = [float(size) for size in sizes.values()]
    if (
        len(sizes) < 2
        or any(not 0 < size < 1 for size in fractions)
        or not math.isclose(sum(fractions), 1)
    ):
        raise ValueError(
            f"sizes must be two or more positive fractions that add up to 1, got {dict(sizes)!r}. "
            'Write for example {"train": 0.8, "test": 0.2}.'
        )
    dataset = as_dataset(dataset)
    part = _parts(
        dataset,
        list(sizes),
        fractions,
        seed=seed,
        group=group,
        text=text,
        label=label,
        warns=warns,
    )
    return datasets.DatasetDict(
        {name: dataset.select(np.flatnonzero(part == number)) for number, name in enumerate(sizes)}
    )


def folds(
    dataset: Samples,
    *,
    n: int = 5,
    seed: int = 0,
    group: str | None = "group",
    text: str | None = "text",
    label: str | None = "label",
) -> list[datasets.DatasetDict]:
    """Returns `n` pairs of "train" and "test" parts.

    The two parts of a pair have no group and no text in common.

    The test parts are disjoint and together hold every row once. They are made as in `split`.

    Args:
        dataset: the samples, in any form that `as_dataset` takes.
        n: the number of folds, at least 2.
        seed: a whole number of at least 0. The same seed gives the same folds.
        group: as in `split`.
        text: as in `split`.
        label: as in `split`.

    Returns:
        for each fold its two parts, each in the dataset's own order.

    Raises:
        TypeError: if `dataset` has none of these forms.
        ValueError: as in `split`, and if `n` is below 2.

    Example:
        >>> rows = datasets.Dataset.from_dict({"group": list("aabb"), "label": [0, 1, 0, 1]})
        >>> [(fold["train"]["group"][:], fold["test"]["group"][:]) for fold in folds(rows, n=2)]
        [(['b', 'b'], ['a', 'a']), (['a', 'a'], ['b', 'b'])]
    """
    dataset = as_dataset(dataset)
    pairs = fold_indices(dataset, n=n, seed=seed, group=group, text=text, label=label)
    return [
        datasets.DatasetDict({"train": dataset.select(train), "test": dataset.select(test)})
        for train, test in pairs
    ]


def fold_indices(
    dataset: Samples,
    *,
    n: int = 5,
    seed: int = 0,
    group: str | None = "group",
    text: str | None = "text",
    label: str | None = "label",
    warns: bool = True,
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Returns the row numbers of the parts that `folds` gives.

    Use them to divide several datasets of the same samples in the same way, such as X-rays before
    and after segmentation.

    Args:
        dataset: as in `folds`.
        n: as in `folds`.
        seed: as in `folds`.
        group: as in `folds`.
        text: as in `folds`.
        label: as in `folds`.
        warns: whether a warning says that identical texts tie many rows together.

    Returns:
        for each fold the sorted train indices and the sorted test indices.

    Raises:
        TypeError: as in `folds`.
        ValueError: as in `folds`.

    Example:
        >>> rows = datasets.Dataset.from_dict({"group": list("aabb"), "label": [0, 1, 0, 1]})
        >>> sorted((train.tolist(), test.tolist()) for train, test in fold_indices(rows, n=2))
        [([0, 1], [2, 3]), ([2, 3], [0, 1])]
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 2:
        raise ValueError(
            f"n must be a whole number of at least 2, got {n!r}. Five folds are customary."
        )
    names = [f"fold {number}" for number in range(n)]
    dataset = as_dataset(dataset)
    part = _parts(
        dataset, names, [1 / n] * n, seed=seed, group=group, text=text, label=label, warns=warns
    )
    return [(np.flatnonzero(part != number), np.flatnonzero(part == number)) for number in range(n)]


def find_column(columns: Sequence[str], name: str | None, role: str) -> str | None:
    """Returns the column that has a role, or None if there is none.

    The default name of a role is the role itself. Only this name may be absent.

    Args:
        columns: the columns of the dataset.
        name: the name of the wanted column, or None.
        role: "image", "text", "label" or "group".

    Raises:
        ValueError: if a column other than the default does not exist.

    Example:
        >>> find_column(["image", "notes"], "notes", "text"), find_column(["image"], "text", "text")
        ('notes', None)
    """
    if name is None or name in columns:
        return name
    if name == role:
        return None
    raise ValueError(
        f"{role} must be one of the columns {list_names(columns)}, got {name!r}."
        f"{did_you_mean(name, columns)} Pass {role}=None if there is no such column."
    )


def _codes(values: Iterable[object]) -> NDArray[np.int64]:
    """Returns a number for each value, the same for equal values and one of its own for a blank."""
    numbers: dict[object, int] = {}
    # The key of a blank cell is its row number. All other keys are strings, so none equals it.
    keys = (row if is_blank(value) else str(value) for row, value in enumerate(values))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _column(dataset: datasets.Dataset, name: str | None, role: str) -> list[object]:
    if not isinstance(dataset, datasets.Dataset):
        raise TypeError(
            f"dataset must be a datasets.Dataset, got {type(dataset).__name__}. "
            "Make one with load_manifest or datasets.Dataset.from_dict."
        )
    column = find_column(dataset.column_names, name, role)
    if column is not None:
        return list(dataset[column])
    if name is not None and role == "group":
        logger.warning("No column %r: every row counts as a group of its own.", name)
    return [None] * len(dataset)


def _strata(dataset: datasets.Dataset, label: str | None) -> NDArray[np.float64]:
    """Returns what to spread evenly, one column each: all rows, then the rows of each label.

    In a multi-label problem, each label has two columns: the rows with 1, and the rows with 0.
    """
    everything = np.ones((len(dataset), 1))
    values = _column(dataset, label, "label")
    if values and isinstance(values[0], list | dict):
        answers = label_tensor(values).numpy().astype(np.float64)
        # The unknown labels, NaN, count neither as 1 nor as 0.
        return np.concatenate(
            [everything, np.nan_to_num(answers), np.nan_to_num(1 - answers)], axis=1
        )
    codes = _codes(str(value) for value in values)
    return np.concatenate([everything, np.eye(codes.max(initial=0) + 1)[codes]], axis=1)


def _parts(
    dataset: datasets.Dataset,
    names: Sequence[str],
    fractions: Sequence[float],
    *,
    seed: int,
    group: str | None,
    text: str | None,
    label: str | None,
    warns: bool = True,
) -> NDArray[np.int64]:
    """Returns the number of each row's part, after checking that every part has enough rows."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}. Write seed=0.")
    component = components(dataset, group=group, text=text)
    if len(component) == 0:
        raise ValueError("dataset must be not empty, got 0 rows. There is nothing to split.")
    part = _hand_out(component, _strata(dataset, label), np.asarray(fractions), seed)
    got = np.bincount(part, minlength=len(names))
    largest = int(np.bincount(component).max())
    untied = int(np.bincount(components(dataset, group=group, text=None)).max())
    # Advise text=None only where the texts are the reason for the size of the largest set.
    way_out = "Ask for fewer parts, or bring more groups."
    if largest > untied:
        way_out = (
            "If the text says too little to give a sample away, such as 'male, 45', pass text=None "
            f"(the largest set then has {untied} rows)."
        )
        if warns and largest > GLUED_SHARE * len(component):
            logger.warning(
                "Identical texts tie %d of %d rows together. %s", largest, len(component), way_out
            )
    for name, rows, asked in zip(names, got, np.asarray(fractions) * len(component), strict=True):
        if rows < max(1, math.floor(LEAST_SHARE * asked)):
            raise ValueError(
                "the parts must be reachable without separating a group or identical texts, "
                f"got {rows} rows of about {asked:.1f} asked for {name!r}: "
                f"the {len(component)} rows form {component.max() + 1} inseparable sets, "
                f"the largest of {largest} rows. {way_out}"
            )
    logger.info("Rows per part: %s", dict(zip(names, got.tolist(), strict=True)))
    return part


def _hand_out(
    component: NDArray[np.int64],
    strata: NDArray[np.float64],
    fractions: NDArray[np.float64],
    seed: int,
) -> NDArray[np.int64]:
    """Returns the part of each row, by the rule in the docstring of `split`."""
    counts = np.zeros((int(component.max()) + 1, strata.shape[1]))
    np.add.at(counts, component, strata)
    weights = 1 / np.maximum(counts.sum(axis=0), 1)
    order = np.random.default_rng(seed).permutation(len(counts))
    # The large sets come first, because the small ones can then even out the shares. The sort is
    # stable, so the seed decides the order of sets of one size.
    order = order[np.argsort(-counts[order, 0], kind="stable")]
    filled = np.zeros((len(fractions), strata.shape[1]))
    chosen = np.zeros(len(counts), dtype=np.int64)
    for number in order:
        new = counts[number]
        costs = (2 * filled + new) @ (new * weights) / fractions
        chosen[number] = np.argmin(costs)
        filled[chosen[number]] += new
    return chosen[component]
