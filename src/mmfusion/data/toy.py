"""Made-up samples to try things on, without a download and without medical data.

A sample is a grey picture of a shape, and a text that names a colour.
"""

import csv
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_OPENINGS = (
    "a sketch of something",
    "this one was painted",
    "it looks",
    "a drawing that came out",
    "the colour is",
    "seen from afar it is",
)
_ENDINGS = (
    "and rather small",
    "on a dark wall",
    "drawn by hand",
    "as far as one can tell",
    "in poor light",
    "with a rough edge",
)


def draw_shapes(
    folder: str | os.PathLike[str],
    n: int = 200,
    *,
    seed: int = 0,
    size: int = 64,
    missing: float = 0.0,
) -> Path:
    """Draws `n` made-up samples, writes them, and returns the path of their manifest.

    A sample is a grey picture of a circle or a square, and a text that names a colour. The four
    classes are "red circle", "blue circle", "red square" and "blue square". The picture shows the
    shape, and only the text names the colour. Therefore a model with one modality gets half of the
    samples right, and a model with both gets all of them right.

    Args:
        folder: the folder for `manifest.csv` and the pictures. It is made if it does not exist.
        n: the number of samples, at least 1.
        seed: the same seed draws the same samples.
        size: the side of the pictures in pixels.
        missing: the share in [0, 0.5] of samples without a picture. The same share has no text.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(draw_shapes(folder, 2).read_text().splitlines()[0])
        image,text,label,group
    """
    if n < 1 or not 0 <= missing <= 0.5:
        raise ValueError(
            f"n must be at least 1 and missing in [0, 0.5], got {n!r} and {missing!r}."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    path = folder / "manifest.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "label", "group"])
        for index in range(n):
            shape, colour = ("circle", "square")[index % 2], ("red", "blue")[index // 2 % 2]
            _draw(shape, size, generator).save(folder / f"{index:05d}.png")
            opening, ending = generator.choice(_OPENINGS), generator.choice(_ENDINGS)
            # The number makes every text different, because a split does not separate equal texts.
            text = f"{opening} {colour} {ending}, number {index}"
            # One draw decides both, so that no sample loses the picture and the text.
            draw = generator.random()
            image = "" if draw < missing else f"{index:05d}.png"
            writer.writerow(
                [
                    image,
                    "" if missing <= draw < 2 * missing else text,
                    f"{colour} {shape}",
                    f"sheet {index // 2}",
                ]
            )
    return path


def word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Returns a tokenizer whose tokens are the words of `texts`, between [CLS] and [SEP].

    It serves small models that are trained from scratch.

    Args:
        texts: the texts whose words become tokens. All other words become [UNK].

    Example:
        >>> word_tokenizer(["a red circle"])("red circle")["input_ids"]
        [2, 6, 5, 3]
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = sorted({word for text in texts for word in text.lower().split()})
    vocabulary = {word: index for index, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def _draw(shape: str, size: int, generator: np.random.Generator) -> Image.Image:
    """Returns a picture of a grey shape at a random place, on a dark and noisy ground."""
    noise = generator.integers(0, 60, (size, size), dtype=np.uint8)
    picture = Image.fromarray(noise)
    side = generator.integers(size // 3, size // 2 + 1)
    left, top = generator.integers(0, size - side, 2)
    grey = int(generator.integers(120, 255))
    draw = ImageDraw.Draw(picture)
    box = (int(left), int(top), int(left + side), int(top + side))
    (draw.ellipse if shape == "circle" else draw.rectangle)(box, fill=grey)
    return picture
