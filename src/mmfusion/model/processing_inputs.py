"""What a processor is given: one sample or many, options as numbers, a tokenizer by name."""

import operator
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase


def as_list(values: Any, name: str) -> list[Any] | None:
    """Returns one sample or many as a list, or None where the modality was left out.

    A string, a path, a mapping, a picture and a DICOM object are one sample. So is an array or a
    tensor of numbers with at most three axes. Everything else that can be walked in order is a list
    of samples: lists, tuples, columns of datasets, pandas or pyarrow, arrays of strings, and arrays
    of numbers with four axes (a batch of pictures). NaN and pandas.NA in it stand for None.

    Args:
        values: what the processor was given.
        name: of its argument, for the error.

    Raises:
        ValueError: for an empty list.
        TypeError: for a set, which has no order, or for a table of several columns.
    """
    if values is None:
        return None
    if _is_one(values):
        return [values]
    # A table yields the names of its columns when it is walked.
    is_array = isinstance(values, np.ndarray | Tensor)
    is_table = not is_array and getattr(values, "ndim", 1) != 1
    if is_table or isinstance(values, set | frozenset):
        raise TypeError(
            f"{name} must be one sample or a list of samples, got {type(values).__name__}. "
            "Pass a list, or one column."
        )
    # Columns of pyarrow yield wrapped values when they are walked.
    listed = values.to_pylist() if hasattr(values, "to_pylist") else list(values)
    if not listed:
        raise ValueError(f"{name} must be at least one sample, got an empty list.")
    return [None if _is_not_a_number(value) else value for value in listed]


def _is_one(values: Any) -> bool:
    """Returns whether something is a single sample."""
    if isinstance(values, str | bytes | os.PathLike | Mapping | Image.Image):
        return True
    # An object can only be of this class if its library is loaded already.
    dataset = getattr(sys.modules.get("pydicom"), "Dataset", ())
    if isinstance(values, dataset) or not isinstance(values, Iterable):
        return True
    if not isinstance(values, np.ndarray | Tensor):
        return False
    numeric = isinstance(values, Tensor) or values.dtype.kind in "buifc"
    return values.ndim == 0 or (numeric and values.ndim <= 3)


def _is_not_a_number(value: Any) -> bool:
    """Returns whether a cell is NaN or pandas.NA."""
    is_float = isinstance(value, float | np.floating)
    return bool(is_float and value != value) or type(value).__name__ == "NAType"


def checked_max_length(value: Any) -> int | None:
    """Returns the largest number of tokens as an int; numpy's integers count.

    Args:
        value: what the processor was given.

    Raises:
        ValueError: if it is neither None nor a whole number above 0.
    """
    if value is None:
        return None
    try:
        number = 0 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(
            f"max_length must be a whole number above 0, got {value!r}. None means no limit."
        )
    return number


def load_tokenizer(name: str | os.PathLike[str], **options: Any) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of a hub name or a folder. Its own code is never run.

    Args:
        name: the hub name or the folder.
        **options: as AutoTokenizer takes them.

    Raises:
        ValueError: if there is none, if it cannot be read, or if it consists of code.
    """
    try:
        # Without trust_remote_code=False, transformers asks on standard input whether to run code.
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
        # Some damage shows only when a text is read.
        tokenizer("a")
        return tokenizer
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    # Damaged files raise errors of many kinds from inside tokenizers. One of them, the panic of its
    # Rust code, is no Exception.
    except BaseException as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"tokenizer must be one of transformers' own, got {os.fspath(name)!r}, whose "
                "tokenizer_config.json names Python code (auto_map). Code of a checkpoint is never "
                "run. Pass tokenizer=an object that you made."
            ) from error
        raise ValueError(
            "tokenizer must be given for a text encoder without a checkpoint, and "
            f"{os.fspath(name)!r} has none: {reason} Pass tokenizer=..."
        ) from error


def saved_tokenizer(name: Any, options: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Returns the tokenizer that lies beside a saved processor.

    Args:
        name: a hub name or a folder.
        options: what the reading of the processor was called with.

    Raises:
        ValueError: as `load_tokenizer` raises it.
    """
    known = {key: options[key] for key in ("revision", "token", "cache_dir") if key in options}
    # Pass an empty config. The one in the folder is the classifier's, which does not say what kind
    # of tokenizer it is.
    return load_tokenizer(name, config=PreTrainedConfig(), **known)
