"""Tokenizers of open_clip models, against those that open_clip itself makes."""

import json
import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mmfusion import FusionProcessor, TextEncoder
from mmfusion.model.processing_open_clip import open_clip_tokenizer

sys.path.insert(0, str(Path(__file__).parent))

from open_clip_samples import hub_folder, tokenizer

TEXTS = [
    "No focal  consolidation,\npneumothorax or pleural effusion.",
    "Röntgen: L4/5, 3.5 cm — it's the patient's 2nd visit!",
    "a",
    "лёгкие чистые; 肺 ok_ok",
]


def ids_of(tokenizer: Any, text: str, length: int) -> list[int]:
    ids: list[int] = tokenizer(text, truncation=True, max_length=length)["input_ids"]
    return ids


def test_the_vocabulary_of_clip_that_open_clip_ships() -> None:
    ours, theirs = open_clip_tokenizer("ViT-B-32", {}), open_clip.get_tokenizer("ViT-B-32")
    assert len(ours) == 49408
    for text in [*TEXTS, "word " * 100]:
        ids = ids_of(ours, text, 77)
        padded = torch.tensor(ids + [0] * (77 - len(ids)))
        assert torch.equal(padded, theirs([text])[0])


@pytest.mark.parametrize("clean", ["canonicalize", "whitespace", "lower"])
def test_texts_are_cleaned_as_published(clean: str, tmp_path: Path) -> None:
    folder, _ = hub_folder("siglip", tmp_path)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"clean": clean}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    theirs = open_clip.get_tokenizer(f"local-dir:{folder}")
    processor = FusionProcessor.from_encoders(None, TextEncoder(f"local-dir:{folder}"))
    processor.save_pretrained(tmp_path / "saved")
    again = FusionProcessor.from_pretrained(tmp_path / "saved")
    texts = ["W4, w5;", "  w6\n\tw7 ", "w8_w9 (w10)", "w4!w5", 'w6"w7 w8\\w9 [w10] w11^']
    for text in texts:
        for one in (processor, again):
            inputs = one(text=[text])
            ids = inputs["input_ids"][inputs["attention_mask"].bool()].tolist()
            assert ids + [1] * (12 - len(ids)) == theirs([text])[0].tolist()


def test_a_tokenizer_that_changes_ids_afterwards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"whose own one has \['strip_sep_token'\]"):
        open_clip_tokenizer("x", {"tokenizer_kwargs": {"strip_sep_token": True}})
    with pytest.raises(ValueError, match="whose own one has 'upper'"):
        open_clip_tokenizer("x", {"tokenizer_kwargs": {"clean": "upper"}})
    with pytest.raises(ValueError, match=r"whose own one has \['tokenizer_mode'\]"):
        open_clip_tokenizer("x", {"tokenizer_mode": "clips"})


def test_a_padding_id_that_is_not_known_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = hub_folder("siglip", tmp_path)
    assert TextEncoder(str(folder)).backbone.config.pad_token_id == 1
    for file in folder.glob("tokenizer*"):
        file.unlink()
    encoder = TextEncoder(str(folder))
    assert encoder.backbone.config.pad_token_id == 0
    assert "The padding id 0 is assumed" in caplog.text
    # A tokenizer of the user's own.
    processor = FusionProcessor.from_encoders(None, encoder, tokenizer=tokenizer())
    assert processor(text=["w4 w5"])["input_ids"].tolist() == [[4, 5, 61]]


def test_a_slow_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tokenizer()
    monkeypatch.setattr(PreTrainedTokenizerFast, "backend_tokenizer", None)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *args, **options: slow)
    with pytest.raises(ValueError, match="is not a fast tokenizer"):
        open_clip_tokenizer(str(tmp_path), {"hf_tokenizer_name": "x"})
