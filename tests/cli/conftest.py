"""A small model with awkward class names, and samples for it."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from transformers.utils import logging

from mmfusion import FusionProcessor
from mmfusion.data.toy import word_tokenizer
from mmfusion.testing import tiny_classifier

CLASSES = ["=1+1", "\x1b[31mred", "well"]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a model of image and text, and a manifest of 40 rows."""
    folder = tmp_path_factory.mktemp("small")
    model = tiny_classifier("concat", "linear", "timm_vit", "bert")
    model.config.id2label = dict(enumerate(CLASSES))
    model.config.label2id = {name: number for number, name in enumerate(CLASSES)}
    processor = FusionProcessor(
        word_tokenizer(["clear lungs no effusion"]), model.image_encoder.input_spec
    )
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    draw = random.Random(0)
    lines = ["image,text,label,group,=note"]
    for number in range(40):
        Image.new("L", (24, 24), draw.randrange(256)).save(folder / f"{number}.png")
        label = draw.choice(CLASSES)
        lines.append(f"{number}.png,clear lungs {number},{label},p{number},@SUM({number})")
    (folder / "rows.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(autouse=True)
def _loud_again() -> Iterator[None]:
    """The commands silence transformers in their process, which here goes on with other tests."""
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    yield
    logging.set_verbosity(verbosity)
    if had_bars:
        logging.enable_progress_bar()
