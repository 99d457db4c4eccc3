"""Tiny encoders and classifiers of every kind with random weights."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    DistilBertConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    RobertaConfig,
    ViTConfig,
)

from ..model.encoder_image import ImageEncoder
from ..model.encoder_text import TextEncoder
from ..model.masking import masked_mean
from ..model.modeling import FusionClassifier
from ..model.registry import register_backbone
from ..model.validation import check_choice

WIDTH = 32
VOCABULARY = 40


@final
class TinyImageBackbone(nn.Module):
    """The image backbone for `register_backbone`: feature maps [B, 32, 4, 4] of 32 x 32 pixels."""

    dim = WIDTH
    input_spec: ClassVar[dict[str, Any]] = {
        "size": [32, 32],
        "channels": 3,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bilinear",
    }

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 8, stride=8)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Returns features [B, D, H, W] of pixels [B, 3, 32, 32]."""
        return torch.tanh(self.patches(pixel_values))


@final
class TinyTextBackbone(nn.Module):
    """The text backbone for `register_backbone`: tokens [B, L, 24] mixed with their mean."""

    dim = 24

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, self.dim)
        self.mix = nn.Linear(2 * self.dim, self.dim)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns tokens [B, L, D] of token ids [B, L]."""
        tokens = self.table(input_ids)
        # The mean makes each token depend on all others, so wrong masking changes every token.
        mean = masked_mean(tokens, attention_mask.bool()).unsqueeze(1).expand_as(tokens)
        return tokens + torch.tanh(self.mix(torch.cat([tokens, mean], dim=-1)))


def register_tiny_backbones() -> None:
    """Registers the two custom backbones.

    A process must call this before it loads a model that is built on one of them.
    """
    register_backbone("mmfusion-tiny-image", TinyImageBackbone)
    register_backbone("mmfusion-tiny-text", TinyTextBackbone)


def _timm(name: str, size: int, **options: Any) -> ImageEncoder:
    return ImageEncoder(
        name, pretrained=False, pretrained_cfg_overlay={"input_size": [3, size, size]}, **options
    )


def _timm_vit() -> ImageEncoder:
    return _timm(
        "vit_tiny_patch16_224", 32, img_size=32, patch_size=8, embed_dim=WIDTH, depth=4, num_heads=2
    )


def _swin() -> ImageEncoder:
    options = {"window_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]}
    return _timm("swin_tiny_patch4_window7_224", 32, img_size=32, **options)


_SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
# Layer 0 of ModernBERT attends globally, layers 1 and 2 attend locally. So both kinds of mask are
# tested.
_MODERNBERT: dict[str, Any] = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "cls_token_id": 1,
    "sep_token_id": 1,
    "local_attention": 4,
    "max_position_embeddings": 64,
}
_CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "vit": (ViTConfig, {"image_size": 32, "patch_size": 8}),
    "bert": (BertConfig, {"vocab_size": VOCABULARY}),
    "roberta": (RobertaConfig, {"vocab_size": VOCABULARY}),
    "distilbert": (DistilBertConfig, {"vocab_size": VOCABULARY}),
    "mpnet": (MPNetConfig, {"vocab_size": VOCABULARY}),
    "modernbert": (ModernBertConfig, {"vocab_size": VOCABULARY, **_MODERNBERT}),
}
# DistilBERT has names of its own for the sizes.
_DISTILBERT_NAMES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}


def tiny_config(kind: str, **options: Any) -> PreTrainedConfig:
    """Returns the config of a tiny transformers backbone, 24 wide, of 3 layers.

    Args:
        kind: "vit", "bert", "roberta", "distilbert", "mpnet" or "modernbert".
        **options: fields of the config in the place of the tiny ones. The sizes are called
            `hidden_size`, `num_hidden_layers`, `num_attention_heads` and `intermediate_size` for
            every kind.

    Raises:
        ValueError: for another kind (the closest one is named).

    Example:
        >>> tiny_config("distilbert", hidden_size=8).dim
        8
    """
    config_class, defaults = _made_of(_CONFIGS, kind)
    fields = _SIZES | defaults | options
    if kind == "distilbert":
        fields = {_DISTILBERT_NAMES.get(name, name): value for name, value in fields.items()}
    config: PreTrainedConfig = config_class(**fields)
    return config


def _custom_image() -> ImageEncoder:
    register_tiny_backbones()
    return ImageEncoder("mmfusion-tiny-image", pretrained=False)


_IMAGES: dict[str, Callable[[], ImageEncoder]] = {
    "timm_vit": _timm_vit,
    "transformers_vit": lambda: ImageEncoder(
        tiny_config("vit", hidden_size=WIDTH, num_hidden_layers=4, intermediate_size=48)
    ),
    "cnn": lambda: _timm("resnet10t", 64, channels=[16, 24, 24, WIDTH], stem_width=8),
    "opaque": _swin,
    "custom": _custom_image,
}


def _custom_text() -> TextEncoder:
    register_tiny_backbones()
    return TextEncoder("mmfusion-tiny-text", pretrained=False)


_TEXTS: dict[str, Callable[[], TextEncoder]] = {
    kind: partial(lambda kind: TextEncoder(tiny_config(kind)), kind)
    for kind in _CONFIGS
    if kind != "vit"
} | {"custom": _custom_text}

IMAGE_KINDS = tuple(_IMAGES)
TEXT_KINDS = tuple(_TEXTS)


def tiny_image_encoder(kind: str) -> ImageEncoder:
    """Returns an image encoder of width 32 with at most 60,000 random parameters.

    Args:
        kind: "timm_vit" or "transformers_vit" (4 blocks each), "cnn" (4 stages), "opaque" (a Swin,
            one block) or "custom" (one block).

    Raises:
        ValueError: if there is no such kind. The message names the closest one.

    Example:
        >>> tiny_image_encoder("timm_vit").num_blocks
        4
    """
    encoder: ImageEncoder = _made_of(_IMAGES, kind)()
    return encoder


def tiny_text_encoder(kind: str) -> TextEncoder:
    """Returns a text encoder of width 24 with at most 30,000 random parameters.

    It has 3 blocks; "custom" has one.

    Args:
        kind: "bert", "roberta", "distilbert", "mpnet", "modernbert" or "custom".

    Raises:
        ValueError: if there is no such kind. The message names the closest one.

    Example:
        >>> tiny_text_encoder("mpnet").dim
        24
    """
    encoder: TextEncoder = _made_of(_TEXTS, kind)()
    return encoder


def _made_of(table: dict[str, Any], kind: str) -> Any:
    check_choice("kind", kind, table)
    return table[kind]


def tiny_classifier(
    fusion: Any = "concat",
    mapper: Any = "linear",
    image: str | ImageEncoder | None = "timm_vit",
    text: str | TextEncoder | None = "bert",
    *,
    num_labels: int = 3,
    problem_type: str | None = None,
    auxiliary_loss_weight: float | None = None,
    seed: int = 0,
) -> FusionClassifier:
    """Returns a classifier in eval mode, all of whose parameters are drawn from `seed`.

    The default one has about 84,000 parameters.

    Args:
        fusion: a name, a dict with `name` and options, or a strategy that is not yet built.
        mapper: a name, a dict with `name` and options, or an `EmbeddingMapper`.
        image: a kind of `tiny_image_encoder`, an encoder, or None for a text-only classifier.
        text: a kind of `tiny_text_encoder`, an encoder, or None for an image-only classifier.
        num_labels: the number of classes C.
        problem_type: as for `FusionClassifier`.
        auxiliary_loss_weight: as for `FusionClassifier`.
        seed: the seed from which every parameter is drawn.

    Example:
        >>> from mmfusion.testing import tiny_batch
        >>> model = tiny_classifier(fusion="late", image="custom", text="custom")
        >>> model(**tiny_batch(model)).logits.shape
        torch.Size([4, 3])
    """
    model = FusionClassifier(
        image_encoder=tiny_image_encoder(image) if isinstance(image, str) else image,
        text_encoder=tiny_text_encoder(text) if isinstance(text, str) else text,
        mapper=mapper,
        fusion=fusion,
        num_labels=num_labels,
        problem_type=problem_type,
        auxiliary_loss_weight=auxiliary_loss_weight,
    )
    redraw_parameters(model, seed)
    return model.eval()


def redraw_parameters(module: nn.Module, seed: int) -> None:
    """Draws every parameter of `module` anew in place, including gates and norms.

    The scales keep activations near 1. Weights are normal, divided by the square root of the number
    of inputs of each output. Scales of norms and weights of answers are normal around 1 with
    standard deviation 0.2. Biases, gates and all other parameters are normal around 0 with standard
    deviation 0.2. Batch-norm statistics are drawn too, with positive variances.

    Args:
        module: any module.
        seed: the seed of the draws.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            if parameter.ndim >= 2 and parameter.shape[0] > 1:
                value = noise / (parameter.numel() / parameter.shape[0]) ** 0.5
            else:
                value = 0.2 * noise + (
                    1.0 if parameter.ndim == 1 and name.endswith(("weight", "weights")) else 0.0
                )
            parameter.copy_(value)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=draw))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=draw))
