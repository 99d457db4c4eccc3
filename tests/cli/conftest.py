"""A small model with awkward class names, and samples for it."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from transformers.utils import logging
from typer.testing import CliRunner

from mmfusion import FusionProcessor
from mmfusion.cli import app
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


@pytest.fixture(scope="session")
def call() -> Callable[..., str]:
    """Returns a function that runs a command by its words and returns what it prints.

    A command that must fail has its exit status as `code`. Its error stream is returned as well.
    """

    def called(*words: object, code: int = 0) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result.output if code else result.stdout

    return called


@pytest.fixture(autouse=True)
def _loud_again() -> Iterator[None]:
    """The commands silence transformers in their process, which here goes on with other tests."""
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    yield
    logging.set_verbosity(verbosity)
    if had_bars:
        logging.enable_progress_bar()
