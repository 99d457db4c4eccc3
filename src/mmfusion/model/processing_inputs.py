"""What a processor is given: one sample or many, options as numbers, a tokenizer by name."""

import operator
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
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
    return [None if is_not_a_number(value) else value for value in listed]


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


def is_not_a_number(value: Any) -> bool:
    """Returns whether a cell is NaN or pandas.NA.

    Args:
        value: any cell.
    """
    is_float = isinstance(value, float | np.floating)
    return bool(is_float and value != value) or type(value).__name__ == "NAType"


def aligned(
    pictures: list[Any] | None, texts: list[Any] | None, without: Sequence[bool]
) -> tuple[list[Any], list[Any]]:
    """Returns pictures and texts as two lists of equal length.

    Args:
        pictures: what the processor was given, or None.
        texts: the same.
        without: whether the processor has no part for pictures, and none for texts.

    Raises:
        ValueError: if both are None, if they differ in length, or if there is no part for one.
    """
    if pictures is None and texts is None:
        raise ValueError("images or text must be given, got neither. Pass one of them, or both.")
    names = ("images", "text")
    for values, name, lacks in zip((pictures, texts), names, without, strict=True):
        if values is not None and lacks and any(value is not None for value in values):
            raise ValueError(
                f"{name} must be left out of a processor without that part, got {len(values)}."
            )
    length = len(pictures if pictures is not None else texts or [])
    if pictures is not None and texts is not None and len(texts) != length:
        raise ValueError(
            f"images and text must be equally many, got {length} and {len(texts)}. "
            "Use None for a missing one."
        )
    return pictures or [None] * length, texts or [None] * length


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int | None) -> None:
    """Refuses a tokenizer with more tokens than a text encoder has embeddings for.

    Args:
        tokenizer: of transformers.
        size: how many the encoder has; None if it does not say.

    Raises:
        ValueError: an id beyond the vocabulary would fail inside the embedding, far from its cause.
    """
    if size is not None and len(tokenizer) > size:
        raise ValueError(
            f"tokenizer must know at most the text encoder's {size} tokens, got {len(tokenizer)}. "
            "Use the tokenizer published with the text encoder."
        )


def check_samples(data: Mapping[str, Tensor]) -> None:
    """Refuses samples that have neither an image nor a text.

    Args:
        data: the inputs that a processor made.

    Raises:
        ValueError: naming the rows.
    """
    flags = [data[name] for name in ("image_present", "text_present") if name in data]
    present = [one if one.ndim == 1 else one.any(1) for one in flags]
    nothing = (~torch.stack(present).any(0)).nonzero().flatten().tolist()
    if nothing:
        raise ValueError(
            f"every sample must have an image or a text, got neither in rows {nothing[:10]}. "
            "Leave them out."
        )


def as_views(sample: Any, num_views: int, row: int) -> list[Any]:
    """Returns the pictures of one sample, None where there is none.

    Args:
        sample: a picture, a list of pictures, or None.
        num_views: the most pictures of one sample.
        row: of the sample, for the error.

    Raises:
        ValueError: if there are more, or several for a processor of one.
    """
    is_list = isinstance(sample, (list, tuple))
    views = list(sample) if is_list else [sample]
    if len(views) > num_views:
        raise ValueError(
            f"images must hold at most {num_views} pictures per sample, got {len(views)} in row "
            f"{row}. Make processor and classifier with num_views={len(views)}."
        )
    return views + [None] * (num_views - len(views))


def checked_count(name: str, value: Any, advice: str = "") -> int:
    """Returns a whole number above 0; numpy's integers count.

    Args:
        name: of the option, for the error.
        value: what the user gave.
        advice: what to do, for the error.

    Raises:
        ValueError: if it is none.
    """
    try:
        number = 0 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} must be a whole number above 0, got {value!r}. {advice}".strip())
    return number


def checked_max_length(value: Any) -> int | None:
    """Returns the largest number of tokens as an int; numpy's integers count.

    Args:
        value: what the processor was given.

    Raises:
        ValueError: if it is neither None nor a whole number above 0.
    """
    if value is None:
        return None
    return checked_count("max_length", value, "None means no limit.")


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


def check_keywords(return_tensors: str | None, padding: bool | str, truncation: bool | str) -> None:
    """Refuses values of transformers' usual keywords that this library does not have.

    Args:
        return_tensors: only torch tensors are made.
        padding: texts are padded to the longest one of the call.
        truncation: texts are cut at the encoder's limit.

    Raises:
        ValueError: naming what to use instead.
    """
    if return_tensors not in ("pt", None):
        raise ValueError(
            f"return_tensors must be 'pt' or None, got {return_tensors!r}. Call .numpy() on the "
            "tensors."
        )
    if padding not in (True, "longest"):
        raise ValueError(
            f"padding must be True or 'longest', got {padding!r}. The answer does not depend on "
            "the padding."
        )
    if truncation not in (True, "longest_first"):
        raise ValueError(
            f"truncation must be True, got {truncation!r}. Make the processor with max_length= or "
            "long_text='chunk'."
        )
