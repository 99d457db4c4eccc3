"""Texts as token ids: cut, cut in the middle, or in overlapping windows where they are too long."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .validation import check_choice

LONG_TEXT = ("truncate", "head_tail", "chunk")
"""What may be done with texts that are longer than the encoder takes."""

_HEAD = 1 / 4
"""The share of a text's beginning in "head_tail": 128 of 510 tokens (Sun et al. 2019)."""


@final
class TokenIds(NamedTuple):
    """Tokenized texts.

    Attributes:
        ids: token ids [B, L], or [B, W, L] if a text has several windows.
        mask: 1 where a token is real, of the same shape.
        cut: whether a token of some text was left out.
    """

    ids: Tensor
    mask: Tensor
    cut: bool


def checked_long_text(
    long_text: str, overlap: int | None, max_length: int | None, tokenizer: Any
) -> int | None:
    """Returns how many tokens two windows share; None where texts have no windows.

    Args:
        long_text: one of `LONG_TEXT`.
        overlap: what the user said; None means 0. A token that two windows share counts twice
            in the mean over the tokens of a text.
        max_length: the largest number of tokens of a text or a window, special tokens included.
        tokenizer: of transformers, or None.

    Raises:
        ValueError: for another name, for an overlap without windows or as long as one, or for
            windows without a limit or a fast tokenizer.
    """
    check_choice("long_text", long_text, LONG_TEXT)
    if long_text != "chunk":
        if overlap is not None:
            raise ValueError(
                f"overlap must be left out with long_text={long_text!r}, got {overlap!r}. Only "
                "'chunk' makes windows."
            )
        return None
    if max_length is None or tokenizer is None or not tokenizer.is_fast:
        raise ValueError(
            "long_text='chunk' must come with max_length and a fast tokenizer, got "
            f"max_length={max_length!r} and {type(tokenizer).__name__}."
        )
    room = max_length - tokenizer.num_special_tokens_to_add()
    overlap = 0 if overlap is None else overlap
    if isinstance(overlap, bool) or not isinstance(overlap, int) or not 0 <= overlap < room:
        raise ValueError(
            f"overlap must be in 0 .. {room - 1} (a window has room for {room} tokens of the "
            f"text), got {overlap!r}."
        )
    return overlap


def tokenized(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int | None,
    long_text: str = "truncate",
    overlap: int | None = None,
) -> TokenIds:
    """Returns the token ids of texts.

    Args:
        tokenizer: of transformers.
        texts: one string per sample.
        max_length: the largest number of tokens of a text or a window; None without a limit.
        long_text: "truncate" keeps the beginning. "head_tail" keeps a quarter of the beginning and
            three quarters of the end. "chunk" keeps all, in windows.
        overlap: how many tokens two windows share.

    Source: Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?" (arXiv 1905.05583),
    section 5.3.1 ("head+tail").
    """
    if long_text == "chunk":
        assert max_length is not None and overlap is not None
        return _windows(tokenizer, texts, max_length, overlap)
    if long_text == "head_tail" and max_length is not None:
        return _head_and_tail(tokenizer, texts, max_length)
    limit: dict[str, Any] = {"truncation": True, "max_length": max_length} if max_length else {}
    encoded = tokenizer(
        list(texts),
        padding=True,
        return_tensors="pt",
        # The tokenizer of a SigLIP 2 gives none unasked, because its model takes none.
        return_attention_mask=True,
        return_overflowing_tokens=False,
        **limit,
    )
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    if max_length is None:
        return TokenIds(ids, mask, False)
    # Whether a text was cut is found out by counting its tokens again. tokenizers 0.23.1 and 0.23.2
    # do not report what they cut (huggingface/tokenizers#2091).
    full = (mask.sum(1) >= max_length).tolist()
    reached = [text for text, flag in zip(texts, full, strict=True) if flag]
    whole = tokenizer(reached, verbose=False)["input_ids"] if reached else []
    return TokenIds(ids, mask, any(len(one) > max_length for one in whole))


def _windows(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, overlap: int
) -> TokenIds:
    """Returns texts in windows; without an axis of them if each text has one."""
    windows, counts = [], []
    for before, body, after in _whole(tokenizer, texts):
        room = max_length - len(before) - len(after)
        # The last window ends with the last token.
        starts = range(0, max(1, len(body) - overlap), room - overlap)
        windows += [before + body[start : start + room] + after for start in starts]
        counts.append(len(starts))
    ids, mask = _padded(tokenizer, windows)
    most = max(counts, default=1)
    if most == 1:
        return TokenIds(ids, mask, False)
    shape = (len(texts), most, ids.shape[1])
    of_all, of_mask = ids.new_full(shape, int(tokenizer.pad_token_id)), mask.new_zeros(shape)
    places = [(row, place) for row, count in enumerate(counts) for place in range(count)]
    for window, (row, place) in enumerate(places):
        of_all[row, place], of_mask[row, place] = ids[window], mask[window]
    return TokenIds(of_all, of_mask, False)


def _head_and_tail(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> TokenIds:
    """Returns the beginning and the end of texts that are too long, with their special tokens."""
    rows, cut = [], False
    for before, body, after in _whole(tokenizer, texts):
        room = max(0, max_length - len(before) - len(after))
        if len(body) > room:
            head = int(room * _HEAD)
            body, cut = body[:head] + body[len(body) - (room - head) :], True
        rows.append(before + body + after)
    ids, mask = _padded(tokenizer, rows)
    return TokenIds(ids, mask, cut)


def _whole(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Yields the ids of each whole text: special tokens before it, its own, and those behind it."""
    encoded = tokenizer(list(texts), return_special_tokens_mask=True, verbose=False)
    for ids, special in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
        own = [place for place, flag in enumerate(special) if not flag]
        first, last = (own[0], own[-1] + 1) if own else (len(ids), len(ids))
        yield ids[:first], ids[first:last], ids[last:]


def _padded(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Returns rows of token ids as one tensor, and its mask."""
    padded = tokenizer.pad({"input_ids": rows}, return_attention_mask=True, return_tensors="pt")
    return padded["input_ids"], torch.as_tensor(padded["attention_mask"])
