"""The words of a text, and which tokens of a tokenizer belong to which word."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..model.missing import is_blank
from ..model.processing import FusionProcessor
from ..model.template import write_text

Span = tuple[int, int]
"""The first character of a token or a word, and the one behind its last."""


@final
@dataclass(frozen=True)
class Reading:
    """How a tokenizer reads a text.

    Attributes:
        text: the text.
        words: the span of each word that was read, in the order of the text.
        owners: for each real token of each window, the number of its word, or -1 for a special
            token.
        is_cut: whether a part of the text was not read.
        is_by_token: whether each token counts as a word, because the tokenizer does not say where
            its tokens stand.
    """

    text: str
    words: tuple[Span, ...]
    owners: tuple[int, ...]
    is_cut: bool = False
    is_by_token: bool = False

    def of_words(self, values: Tensor) -> Tensor:
        """Returns the sum over the tokens of each word; special tokens are left out.

        Args:
            values: one value per real token, in the last axis.

        Shape:
            values [..., tokens] -> [..., words].

        Example:
            >>> reading = Reading("a bc", ((0, 1), (2, 4)), (-1, 0, 1, 1, -1))
            >>> reading.of_words(torch.tensor([9.0, 1.0, 2.0, 3.0, 9.0])).tolist()
            [1.0, 5.0]
        """
        sums = values.new_zeros(*values.shape[:-1], len(self.words) + 1)
        owners = torch.tensor(self.owners, dtype=torch.int64, device=values.device)
        # Special tokens are summed in a place behind the words, which is then cut off.
        places = torch.where(owners < 0, len(self.words), owners)
        return sums.index_add(-1, places, values)[..., :-1]


def read_text(processor: FusionProcessor, text: str, windows: Sequence[Sequence[int]]) -> Reading:
    """Returns the words of a text, and which of the tokens belong to which word.

    Words end where white space stands. Scripts that are written without spaces, such as Chinese,
    are divided as the tokenizer divides them.

    Args:
        processor: with a tokenizer.
        text: the text that the processor was given.
        windows: the real token ids that it made of the text, window by window.

    Example:
        >>> from mmfusion.data.toy import word_tokenizer
        >>> processor = FusionProcessor(word_tokenizer(["no effusion"]))
        >>> ids = processor(text="No effusion")["input_ids"].tolist()
        >>> read_text(processor, "No effusion", ids)
        Reading(text='No effusion', words=((0, 2), (3, 11)), owners=(-1, 0, 1, -1), is_cut=False,
            is_by_token=False)
    """
    tokenizer = processor.tokenizer
    assert tokenizer is not None
    spans: list[list[tuple[Span, int] | None]] | None = None
    if getattr(tokenizer, "is_fast", False):
        spans = _spans(tokenizer, text, windows)
    if spans is None:
        return _by_token(tokenizer, windows)
    starts = sorted({found for window in spans for found in window if found is not None})
    words: list[Span] = []
    number_of: dict[Span, int] = {}
    for (span, piece), before in zip(starts, [None, *starts], strict=False):
        if before is not None and not _parted(text, before, (span, piece)):
            words[-1] = (words[-1][0], max(words[-1][1], span[1]))
        else:
            words.append(span)
        number_of[span] = len(words) - 1
    owners = [-1 if found is None else number_of[found[0]] for window in spans for found in window]
    return Reading(text, tuple(words), tuple(owners), _is_cut(text, words))


def _spans(
    tokenizer: Any, text: str, windows: Sequence[Sequence[int]]
) -> list[list[tuple[Span, int] | None]] | None:
    """Returns span and piece of each token; None for special tokens.

    Returns None where the windows are not parts of what the tokenizer makes of the text.
    """
    whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, pieces = whole["input_ids"], whole.word_ids()
    found: list[tuple[Span, int] | None] = []
    for (start, stop), piece in zip(whole["offset_mapping"], pieces, strict=True):
        # Some tokenizers count the space before a word as a part of its first token.
        while start < stop and text[start].isspace():
            start += 1
        # A token of white space belongs to no word.
        found.append(((start, stop), -1 if piece is None else piece) if start < stop else None)
    special, placed, least = set(tokenizer.all_special_ids), [], 0
    for window in windows:
        inside: list[tuple[Span, int] | None] = [None] * len(window)
        unknown = set(range(len(window)))
        # Also right where a window is the head and the tail of a text.
        matcher = SequenceMatcher(None, list(window), ids[least:], autojunk=False)
        blocks = [block for block in matcher.get_matching_blocks() if block.size]
        for block in blocks:
            at = least + block.b
            inside[block.a : block.a + block.size] = found[at : at + block.size]
            unknown -= set(range(block.a, block.a + block.size))
        if not special.issuperset(window[place] for place in unknown):
            return None
        placed.append(inside)
        # A later window begins later. Without this, a repeated sentence would be found twice at
        # its first place.
        least += blocks[0].b + 1 if blocks else 0
    return placed


def _parted(text: str, before: tuple[Span, int], after: tuple[Span, int]) -> bool:
    """Returns whether a word ends between two tokens."""
    (_, stop), piece = before
    (start, end), next_piece = after
    if any(sign.isspace() for sign in text[stop:start]):
        return True
    wide = [
        unicodedata.east_asian_width(sign) in "WF"
        for sign in (text[stop - 1], text[start:end][:1])
        if sign
    ]
    return piece != next_piece and any(wide)


def _is_cut(text: str, words: Sequence[Span]) -> bool:
    """Returns whether characters other than white space belong to no word."""
    read = [False] * len(text)
    for start, stop in words:
        read[start:stop] = [True] * (stop - start)
    return any(not here and not sign.isspace() for here, sign in zip(read, text, strict=True))


def _by_token(tokenizer: PreTrainedTokenizerBase, windows: Sequence[Sequence[int]]) -> Reading:
    """Returns each token as a word, where the tokenizer does not say where its tokens stand."""
    special = set(tokenizer.all_special_ids)
    written, words, owners = "", [], []
    for one in (one for window in windows for one in window):
        if one in special:
            owners.append(-1)
            continue
        token = str(tokenizer.decode([one])).strip() or str(tokenizer.convert_ids_to_tokens(one))
        words.append((len(written), len(written) + len(token)))
        written += f"{token} "
        owners.append(len(words) - 1)
    return Reading(written.rstrip(), tuple(words), tuple(owners), is_by_token=True)


def written_text(text: Any, processor: FusionProcessor) -> Any:
    """Returns the text that the processor reads, written by its template where it has one.

    A blank text is None.

    Args:
        text: the text, or the values of the columns.
        processor: the processor.
    """
    if isinstance(text, Mapping) and processor.template is not None:
        text = write_text(processor.template, text)
    return None if is_blank(text) else text
