"""Texts that are too long, against a loop over their tokens."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mmfusion import FusionProcessor
from mmfusion.model.processing_text import checked_long_text, tokenized

WORDS = [f"w{i}" for i in range(40)]
START, END, PAD = 41, 42, 0


def tokenizer(specials: bool = True) -> PreTrainedTokenizerFast:
    """Returns a tokenizer whose word w7 has the id 8, between the ids 41 and 42."""
    names = ["pad", *WORDS, "start", "end"]
    backend = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="pad"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if specials:
        backend.post_processor = processors.TemplateProcessing(
            single="start $A end", special_tokens=[("start", START), ("end", END)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="pad", unk_token="pad")


def text_of(length: int) -> str:
    return " ".join(WORDS[:length])


def real(ids: Any, mask: Any) -> list[int]:
    return [int(i) for i, m in zip(ids, mask, strict=True) if m]


@pytest.mark.parametrize("specials", [True, False])
@pytest.mark.parametrize("overlap", [0, 1, 3])
def test_windows_hold_every_token_in_order(overlap: int, specials: bool) -> None:
    lengths, limit = [3, 8, 9, 20, 0], 8
    found = tokenized(
        tokenizer(specials),
        [text_of(n) for n in lengths],
        max_length=limit,
        long_text="chunk",
        overlap=overlap,
    )
    room = limit - 2 * specials
    assert not found.cut and found.ids.shape == found.mask.shape
    for row, length in enumerate(lengths):
        own, windows, start = list(range(1, length + 1)), [], 0
        # Each window begins `overlap` tokens before the end of the one before it.
        while not windows or start + overlap < length:
            body = own[start : start + room]
            windows.append([START, *body, END] if specials else body)
            start += room - overlap
        given = [real(ids, mask) for ids, mask in zip(found.ids[row], found.mask[row], strict=True)]
        assert [one for one in given if one] == [one for one in windows if one]
        covered = {token for one in given for token in one} - {START, END}
        assert covered == set(own)


def test_texts_that_fit_have_no_axis_of_windows() -> None:
    texts = [text_of(3), text_of(6)]
    plain = tokenized(tokenizer(), texts, max_length=8)
    windows = tokenized(tokenizer(), texts, max_length=8, long_text="chunk", overlap=2)
    assert windows.ids.tolist() == plain.ids.tolist()
    assert windows.mask.tolist() == plain.mask.tolist()


@pytest.mark.parametrize("specials", [True, False])
def test_head_and_tail(specials: bool) -> None:
    limit = 10
    found = tokenized(
        tokenizer(specials), [text_of(4), text_of(40)], max_length=limit, long_text="head_tail"
    )
    room = limit - 2 * specials
    tail = room - room // 4
    kept = [*range(1, 1 + room // 4), *range(41 - tail, 41)]
    expected = [START, *kept, END] if specials else kept
    assert real(found.ids[1], found.mask[1]) == expected and found.cut
    short = [START, 1, 2, 3, 4, END] if specials else [1, 2, 3, 4]
    assert real(found.ids[0], found.mask[0]) == short
    whole = tokenized(tokenizer(), [text_of(4)], max_length=None, long_text="head_tail")
    assert not whole.cut


def test_options_that_do_not_fit() -> None:
    own = tokenizer()
    with pytest.raises(ValueError, match="long_text must be .* got 'cut'"):
        FusionProcessor(own, long_text="cut")
    with pytest.raises(ValueError, match="overlap must be left out with long_text='truncate'"):
        FusionProcessor(own, max_length=8, overlap=2)
    with pytest.raises(ValueError, match="must come with max_length and a fast tokenizer"):
        FusionProcessor(own, long_text="chunk")
    with pytest.raises(ValueError, match=r"overlap must be in 0 .. 5 .* got 6"):
        FusionProcessor(own, max_length=8, long_text="chunk", overlap=6)
    assert checked_long_text("chunk", None, 64, own) == 0
    assert checked_long_text("chunk", 8, 64, own) == 8
    with pytest.raises(ValueError, match="num_views must be a whole number above 0, got 0"):
        FusionProcessor(own, num_views=0)


def test_the_processor_keeps_its_options(tmp_path: Path) -> None:
    processor = FusionProcessor(tokenizer(), max_length=8, long_text="chunk", overlap=1)
    processor.save_pretrained(tmp_path / "chunk")
    again = FusionProcessor.from_pretrained(tmp_path / "chunk")
    assert (again.long_text, again.overlap) == ("chunk", 1)
    inputs = again(text=[text_of(20), "w1"])
    # Windows of 6 words, each beginning 1 before the end of the one before it.
    assert inputs["attention_mask"].sum(-1).tolist() == [[8, 8, 8, 7], [3, 0, 0, 0]]
    # Processors that use none of this are saved as they were.
    FusionProcessor(tokenizer(), max_length=8).save_pretrained(tmp_path / "plain")
    saved = (tmp_path / "plain" / "processor_config.json").read_text()
    assert not any(name in saved for name in ("num_views", "long_text", "overlap"))
