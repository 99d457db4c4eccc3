"""ImageEncoder: any image backbone behind one contract, encoded whole or walked block by block."""

import copy
from collections.abc import Mapping
from typing import Any, Self, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .adapter_base import Adapter, OneBlock, features_to_encoded
from .adapter_open_clip import open_clip_adapter
from .adapter_timm import timm_adapter
from .adapter_vit import feature_width, transformers_image_adapter
from .axes import check_axes
from .configuration import EncoderConfig
from .encoder_base import Encoder
from .encoder_build import (
    Weights,
    build_custom,
    checked_dtype,
    declared_dim,
    label_of,
    loads_published,
    rebuild,
    source_of,
)
from .graph import is_tracing
from .load_input_spec import default_input_spec, timm_input_spec, transformers_input_spec
from .load_keras import build_keras, keras_weights
from .load_open_clip import backbone_weights, build_open_clip, open_clip_input_spec
from .load_projection import add_built_projection, projection_of, refuse_projection
from .load_timm import build_timm
from .load_transformers import build_transformers
from .load_weights import load_weights
from .processing_size import checked_spec
from .types import Encoded, Lengths

CHANNELS_LAST_SOURCES = ("timm", "transformers", "open_clip")
"""The sources whose models take pixels with the channels last in memory."""


@final
class ImageEncoder(Encoder):
    """Any image backbone: pixels in, `Encoded` out.

    Args:
        name: a timm model (`resnet18`, `timm/...`, `hf-hub:...`), a transformers checkpoint (a
            folder, or another name with a slash), a transformers config object (random weights, no
            network), an open_clip model (`hf-hub:...` or a folder with an open_clip_config.json), a
            name given to `register_backbone`, an `nn.Module` of a registered class, or with
            source="keras" a model of keras.applications ("DenseNet121"), which runs on Keras's
            torch backend.
        source: "timm", "transformers", "open_clip", "keras" or "custom". None: derived from the
            name, never "keras".
        pretrained: whether to load published weights; None means yes for a name, no for a config or
            when `weights` is given.
        weights: a safetensors file, a state dict that torch reads with weights_only=True, or a
            mapping of tensors; with source="keras" also a file that Keras saved (.h5). Missing or
            mis-shaped keys are an error that lists them; a head that is left over is dropped and
            listed in the log.
        dtype: type of the weights, whatever type they are stored in. None: torch's default type,
            which is float32 unless you change it. The towers of a classifier have one type.
        pooling: of a transformers model. None pools as the model was published: CLIP by the class
            token after the last norm, SigLIP by its attention head, and so on. "pooler" is the
            vector that the model itself returns as `pooler_output`, "tokens" the class token or the
            mean of the tokens.
        projection: of a transformers or open_clip model, as for `TextEncoder`.
        **backbone_options: passed to the backbone (`img_size=448`, `drop_path_rate=0.1` for timm;
            config fields for transformers; `model_cfg` for open_clip, in the place of the config
            of the name; arguments of its function for keras).

    Attributes:
        input_spec: `size` [H, W] in pixels, `channels`, `mean` and `std` per channel for pixels in
            [0, 1], `interpolation`. Two more entries where they apply: `channel_order` ("BGR") if
            the channels are the other way round, and `published`, the preprocessing that belongs to
            published weights: the settings of the image processor of a transformers checkpoint, or
            the crop of timm's transform for evaluation.

    Raises:
        ValueError: for an unknown name (the closest one is named), an option the backbone does not
            take, or weights that do not fit.

    Shape:
        pixel_values [B, C, H, W] -> tokens [B, N, D], mask [B, N], pooled [B, D].

    Example:
        >>> import torch
        >>> encoder = ImageEncoder("resnet18", pretrained=False)
        >>> encoder.dim, encoder.num_blocks
        (512, 4)
        >>> encoder(torch.zeros(2, 3, 64, 64)).tokens.shape
        torch.Size([2, 4, 512])
    """

    def __init__(
        self,
        name: str | PreTrainedConfig | nn.Module,
        *,
        source: str | None = None,
        pretrained: bool | None = None,
        weights: Weights | None = None,
        dtype: torch.dtype | None = None,
        pooling: str | None = None,
        projection: bool | int = False,
        **backbone_options: Any,
    ):
        source = source_of(name, source, kind="image")
        load = loads_published(name, pretrained, weights)
        config = EncoderConfig(label_of(name), source)
        backbone: Any
        if source != "transformers":
            refuse_projection(source != "open_clip" and projection, pooling)
        if source == "timm":
            backbone, config.architecture, config.options = build_timm(
                str(name), load, backbone_options
            )
            config.input_spec = timm_input_spec(backbone, config.options, load)
        elif source == "transformers":
            wanted = {"dtype": dtype, "pooling": pooling, "projection": projection}
            backbone = _build_transformers(config, name, load, backbone_options, wanted)
        elif source == "open_clip":
            opened = build_open_clip(
                str(name),
                load,
                backbone_options,
                tower="vision_cfg",
                projection=projection,
                dtype=dtype,
            )
            backbone, config.options, config.projection, preprocess = opened
            config.input_spec = open_clip_input_spec(preprocess, load)
        elif source == "keras":
            backbone, config.options = build_keras(str(name), load, backbone_options)
            config.input_spec = backbone.input_spec
        else:
            backbone, config.options = build_custom(name, backbone_options)
            declared = getattr(backbone, "input_spec", None)
            config.input_spec = checked_spec(declared or default_input_spec(), of_pictures=False)
        if weights is not None:
            weights = keras_weights(backbone, backbone_weights(backbone, weights))
            load_weights(backbone, weights)
        if dtype is not None:
            backbone.to(checked_dtype(dtype))
        super().__init__(config, backbone)

    @classmethod
    def from_config(
        cls,
        config: EncoderConfig | Mapping[str, Any],
        *,
        attn_implementation: str | None = None,
    ) -> Self:
        """Returns an encoder with random weights, rebuilt from the config of another; no network.

        Args:
            config: as it is, or as a dict.
            attn_implementation: of a transformers backbone; None takes its own choice.
        """
        return rebuild(cls, config, attn_implementation)

    @property
    def input_spec(self) -> dict[str, Any]:
        """A copy of the pixels it expects: `size` [H, W], `channels`, `mean`, `std` and more."""
        return copy.deepcopy(self.config.input_spec or {})

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether activations are recomputed in the backward pass.

        transformers sets this attribute. The setter passes the value on to timm models.
        """
        own = getattr(self.backbone, "gradient_checkpointing", False)
        return bool(getattr(self.backbone, "grad_checkpointing", own))

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        if hasattr(self.backbone, "set_grad_checkpointing"):
            self.backbone.set_grad_checkpointing(enable)

    def _make_adapter(self) -> Adapter:
        if self.config.source == "timm":
            return timm_adapter(self.backbone)
        if self.config.source == "open_clip":
            return open_clip_adapter(self.backbone)
        if self.config.source == "transformers":
            # A replica of nn.DataParallel makes a new adapter for each batch, and knows its width.
            # With a projection, its own width is another one than that of the features.
            is_projected = projection_of(self.backbone) is not None
            known = None if is_projected else getattr(self, "dim", None)
            return transformers_image_adapter(self.backbone, self.config.pooling, known)
        dim = declared_dim(self.backbone)

        def run(module: nn.Module, pixels: Tensor) -> Encoded:
            features = module(pixels)
            if isinstance(features, Encoded):
                return features
            return features_to_encoded(features, dim)

        return OneBlock(self.backbone, dim, run, keeps_mask=False)

    def forward(self, pixel_values: Float[Tensor, "B C H W"]) -> Encoded:
        """Returns the encoded images, by the backbone's own forward.

        Args:
            pixel_values: normalised pixels [B, C, H, W].

        Raises:
            TypeError: if they are no tensor.
            ValueError: if they have other axes.
        """
        (pixel_values,), _ = self._prepared((pixel_values,), None)
        return self.adapter.forward(pixel_values)

    def _prepared(
        self, inputs: tuple[Tensor, ...], lengths: Lengths
    ) -> tuple[tuple[Tensor, ...], Lengths]:
        """Returns the pixels in the type of the weights, and in the layout that suits a CPU."""
        if not is_tracing():
            check_axes({"pixel_values": inputs[0]}, parts=False)
        dtype = self.dtype
        if dtype is not None:
            inputs = tuple(pixels.to(dtype) for pixels in inputs)
        return tuple(map(self._laid_out, inputs)), lengths

    def _laid_out(self, pixels: Tensor) -> Tensor:
        """Returns the pixels with the channels last in memory, where a CPU convolves them.

        All layers of a CNN keep the layout of their input. Their convolutions and batch norms then
        read a position's channels in one piece. The shape and the answer stay the same. A compiler
        chooses the layout itself. Keras has its own. A registered module may need the usual one.
        """
        can = self.config.source in CHANNELS_LAST_SOURCES and pixels.dim() == 4
        if not can or pixels.device.type != "cpu" or is_tracing():
            return pixels
        return pixels.contiguous(memory_format=torch.channels_last)


def _build_transformers(
    config: EncoderConfig,
    name: Any,
    load: bool,
    options: dict[str, Any],
    wanted: dict[str, Any],
) -> Any:
    """Returns a transformers backbone, and describes it in the config.

    Args:
        config: of the encoder.
        name: as for `ImageEncoder`.
        load: whether to load the weights of the checkpoint.
        options: of the backbone.
        wanted: `dtype`, `pooling` and `projection`, as for `ImageEncoder`.
    """
    built = build_transformers(name, load, options, tower="vision_config", **wanted)
    backbone: Any
    backbone, config.pooling, config.projection, _ = built
    checkpoint = name if load else None
    width = feature_width(backbone)
    add_built_projection(built, width, takes="pixel_values", checkpoint=checkpoint)
    config.follow(backbone.config)
    file = None if checkpoint is None else str(checkpoint)
    config.input_spec = transformers_input_spec(backbone.config, file, options)
    return backbone
