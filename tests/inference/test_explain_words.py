"""Words of a text, against `str.split`, for tokenizers of several kinds."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tokenizers.normalizers import BertNormalizer
from transformers import PreTrainedTokenizerFast

from mmfusion import FusionProcessor
from mmfusion.data.toy import word_tokenizer
from mmfusion.inference.explain_words import read_text, written_text

TEXT = "Left-sided  pleural effusion;\n(see X-ray of 12.5.2020)  no\tpneumothorax."


def trained(kind: str) -> PreTrainedTokenizerFast:
    """Returns a tokenizer that divides words into several tokens."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=special)
    elif kind == "bytes":
        tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=alphabet
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="[UNK]")
    tokenizer.train_from_iterator([TEXT, "肺炎 あり"], trainer)
    ids = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]",
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "metaspace"])
def test_words_are_what_stands_between_white_space(kind):
    tokenizer = trained(kind)
    ids = tokenizer(TEXT)["input_ids"]
    reading = read_text(FusionProcessor(tokenizer), TEXT, [ids])
    assert [TEXT[start:end] for start, end in reading.words] == TEXT.split()
    assert len(ids) > len(reading.words) + 2, "the words must have several tokens"
    assert reading.owners[0] == reading.owners[-1] == -1 and not reading.is_cut
    # Each token lies in its word, and together the tokens of a word are the whole word.
    for number, word in enumerate(TEXT.split()):
        own = [one for one, owner in zip(ids, reading.owners, strict=True) if owner == number]
        alone = tokenizer(word, add_special_tokens=False)["input_ids"]
        assert len(own) >= 1 and (kind != "wordpiece" or own == alone)


def test_a_script_without_spaces_is_divided_by_the_tokenizer():
    tokenizer = trained("wordpiece")
    text = "肺炎 no"
    reading = read_text(FusionProcessor(tokenizer), text, [tokenizer(text)["input_ids"]])
    assert [text[start:end] for start, end in reading.words] == ["肺", "炎", "no"]


def test_weights_of_tokens_add_up_over_words():
    tokenizer = trained("wordpiece")
    ids = tokenizer(TEXT)["input_ids"]
    reading = read_text(FusionProcessor(tokenizer), TEXT, [ids])
    values = torch.arange(1.0, len(ids) + 1)
    sums = [0.0] * len(reading.words)
    offsets = tokenizer(TEXT, return_offsets_mapping=True)["offset_mapping"]
    starts = [TEXT.index(word) for word in TEXT.split()]
    for value, (start, end) in zip(values.tolist(), offsets, strict=True):
        if end > start:
            sums[max(i for i, first in enumerate(starts) if first <= start)] += value
    assert reading.of_words(values).tolist() == sums
    assert reading.of_words(values.expand(2, 3, -1)).shape == (2, 3, len(sums))


def test_a_text_that_is_cut_ends_where_it_was_read():
    processor = FusionProcessor(word_tokenizer([TEXT]), max_length=5)
    reading = read_text(processor, TEXT, processor(text=TEXT)["input_ids"].tolist())
    assert [TEXT[start:end] for start, end in reading.words] == TEXT.split()[:3]
    assert reading.is_cut


def test_windows_that_overlap_share_their_words():
    tokenizer = word_tokenizer(["a b c d e"])
    a, b, c, d, e = tokenizer("a b c d e", add_special_tokens=False)["input_ids"]
    windows = [[2, a, b, c, 3], [2, c, d, e, 3]]
    reading = read_text(FusionProcessor(tokenizer), "a b c d e", windows)
    assert reading.owners == (-1, 0, 1, 2, -1, -1, 2, 3, 4, -1) and not reading.is_cut
    # The head and the tail of a text in one window, and a text that repeats itself.
    reading = read_text(FusionProcessor(tokenizer), "a b c d e", [[2, a, b, e, 3]])
    assert reading.words == ((0, 1), (2, 3), (8, 9)) and reading.is_cut
    repeated = read_text(FusionProcessor(tokenizer), "a b a b", [[2, a, b, 3], [2, a, b, 3]])
    assert repeated.owners == (-1, 0, 1, -1, -1, 2, 3, -1)


def test_without_offsets_each_token_is_a_word():
    tokenizer = word_tokenizer(["no effusion"])

    class Slow:
        """A tokenizer that tells no offsets."""

        is_fast, all_special_ids = False, tokenizer.all_special_ids
        decode, convert_ids_to_tokens = tokenizer.decode, tokenizer.convert_ids_to_tokens

    processor = FusionProcessor(tokenizer)
    processor.tokenizer = Slow()
    reading = read_text(processor, "no effusion", [tokenizer("no effusion")["input_ids"]])
    assert reading.is_by_token and reading.text == "no effusion"
    assert reading.words == ((0, 2), (3, 11)) and reading.owners == (-1, 0, 1, -1)


def test_a_template_writes_the_text():
    processor = FusionProcessor(word_tokenizer(["male, 60"]), template="{sex}, {age}")
    assert written_text({"sex": "male", "age": 60}, processor) == "male, 60"
    assert written_text({"sex": None, "age": None}, processor) is None
    assert written_text("  ", processor) is None and written_text("a", processor) == "a"
