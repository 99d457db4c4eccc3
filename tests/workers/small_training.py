"""A small training that the workers share, with the same model and data in every process."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmfusion import FusionClassifier, FusionProcessor, ImageEncoder, TextEncoder, load_manifest
from mmfusion.data.toy import draw_shapes, word_tokenizer
from mmfusion.testing import tiny_config

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def rows_in(folder: Path, n: int = 36, missing: float = 0.15) -> Any:
    """Returns the made-up samples; the first call draws them."""
    manifest = folder / "manifest.csv"
    return load_manifest(
        manifest if manifest.exists() else draw_shapes(folder, n, size=32, missing=missing)
    )


def compose(rows: Any, dropout: float, **options: Any) -> tuple[FusionClassifier, FusionProcessor]:
    """Returns a classifier of a small ViT and BERT, with the same weights in each call."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(text for text in rows["text"] if text)
    image = tiny_config("vit", **SMALL, image_size=32, patch_size=8, hidden_dropout_prob=dropout)
    text = tiny_config(
        "bert",
        **SMALL,
        vocab_size=len(tokenizer),
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    model = FusionClassifier(
        image_encoder=ImageEncoder(image),
        text_encoder=TextEncoder(text),
        num_labels=4,
        fusion="cross_attention",
        **options,
    )
    return model, FusionProcessor.from_encoders(
        model.image_encoder, model.text_encoder, tokenizer=tokenizer
    )


def brighten(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Returns the image with a random brightness."""
    return image.point(lambda value: min(255, int(value * rng.uniform(0.7, 1.3))))
