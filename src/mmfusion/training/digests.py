"""Digests of what a training, a comparison or a stored feature depends on."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor

_ROWS_AT_ONCE = 1000


def add_tensors(digest: Any, named: Iterable[tuple[str, Tensor]]) -> None:
    """Updates a digest of hashlib with tensors and their names, in the given order.

    Args:
        digest: as `hashlib.sha256()` returns it.
        named: pairs of a name and a tensor on any device.
    """
    for name, value in named:
        digest.update(name.encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)


def rows_digest(table: datasets.Dataset) -> str:
    """Returns a digest of the samples and labels of a dataset, in their order.

    Of a picture in a file, the name and the size of the file count, so that the folder may be
    moved. Columns other than `image`, `text` and `label` do not count.

    Args:
        table: with some of the three columns.

    Example:
        >>> one = datasets.Dataset.from_dict({"text": ["a", "b"], "age": [1, 2]})
        >>> other = datasets.Dataset.from_dict({"text": ["a", "b"], "age": [3, 4]})
        >>> rows_digest(one) == rows_digest(other), rows_digest(one) == rows_digest(one.select([0]))
        (True, False)
    """
    names = [name for name in ("image", "text", "label") if name in table.column_names]
    digest = hashlib.sha256(repr([(name, table.features[name]) for name in names]).encode())
    plain = table.select_columns(names).with_format("arrow")
    for start in range(0, len(table), _ROWS_AT_ONCE):
        batch = plain[start : start + _ROWS_AT_ONCE]
        for name in names:
            values = batch[name].to_pylist()
            told = [_file(value) for value in values] if name == "image" else values
            digest.update(repr(told).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _file(value: Any) -> Any:
    """Returns the name and the size of the file at a path, also in a list of them.

    Another value comes back as it is.
    """
    if isinstance(value, list):
        return [_file(one) for one in value]
    if not isinstance(value, str) or not Path(value).is_file():
        return value
    return os.path.basename(value), os.path.getsize(value)
