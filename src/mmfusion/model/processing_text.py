"""Texts as token ids: cut, cut in the middle, or in overlapping windows where they are too long."""

from collections.abc import Sequence
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
    mask = encoded["attention_mask"]
    reached = max_length is not None and bool((mask.sum(1) >= max_length).any())
    # A fast tokenizer reports the tokens that it cut. Without that report, every text that reaches
    # the limit counts as cut.
    known = encoded.encodings
    cut = reached and (not known or any(one.overflowing for one in known))
    return TokenIds(encoded["input_ids"], mask, cut)


def _windows(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, overlap: int
) -> TokenIds:
    """Returns texts in windows; without an axis of them if each text has one."""
    encoded = tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=max_length,
        stride=overlap,
        return_overflowing_tokens=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    owners = encoded["overflow_to_sample_mapping"].tolist()
    if len(owners) == len(texts):
        return TokenIds(ids, mask, False)
    most = max(owners.count(row) for row in set(owners))
    shape = (len(texts), most, ids.shape[1])
    of_all, of_mask = ids.new_full(shape, int(tokenizer.pad_token_id)), mask.new_zeros(shape)
    place = 0
    for window, owner in enumerate(owners):
        place = place + 1 if window and owners[window - 1] == owner else 0
        of_all[owner, place], of_mask[owner, place] = ids[window], mask[window]
    return TokenIds(of_all, of_mask, False)


def _head_and_tail(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> TokenIds:
    """Returns the beginning and the end of texts that are too long, with their special tokens."""
    encoded = tokenizer(list(texts), return_special_tokens_mask=True, verbose=False)
    rows, cut = [], False
    for ids, special in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
        if len(ids) > max_length:
            own = [place for place, flag in enumerate(special) if not flag]
            before, after = ids[: own[0]], ids[own[-1] + 1 :]
            room = max(0, max_length - len(before) - len(after))
            head = int(room * _HEAD)
            body = ids[own[0] : own[-1] + 1]
            ids, cut = before + body[:head] + body[len(body) - (room - head) :] + after, True
        rows.append(ids)
    padded = tokenizer.pad({"input_ids": rows}, return_attention_mask=True, return_tensors="pt")
    return TokenIds(padded["input_ids"], torch.as_tensor(padded["attention_mask"]), cut)
