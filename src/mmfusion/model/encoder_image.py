"""ImageEncoder and TextEncoder: any backbone behind one contract, encoded whole or walked block by block."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import logging

from .adapter_base import OneBlock, features_to_encoded
from .adapter_bert import hf_image_family, hf_text_family, pool_by, position_offset, text_runner
from .adapter_timm import timm_family
from .configuration import closest
from .encoder_base import Encoder
from .load_timm import build_timm, timm_input_spec
from .load_transformers import build_hf, config_dict, default_input_spec, hf_input_spec
from .load_weights import load_weights
from .packing import Packing, use_packed_attention
from .registry import custom_backbone, is_registered, registered_name
from .types import Encoded, Hidden

logger = logging.get_logger(__name__)

Weights = str | os.PathLike[str] | Mapping[str, Tensor]


class ImageEncoder(Encoder):
    """Any image backbone: pixels in, `Encoded` out.

    Args:
        name: a timm model (`resnet18`, `timm/...`, `hf-hub:...`), a transformers checkpoint (a
            folder, or another name with a slash),
            a transformers config object (random weights, no network), a name given to
            `register_backbone`, or an `nn.Module` of a registered class.
        source: "timm", "transformers" or "custom"; None tells from the name.
        pretrained: whether to load published weights; None means yes for a name, no for a config or
            when `weights` is given.
        weights: a safetensors file, a state dict that torch reads with weights_only=True, or a
            mapping of tensors. Missing or mis-shaped keys are an error that lists them; a head that
            is left over is dropped and listed in the log.
        **backbone_options: passed to the backbone (`img_size=448`, `drop_path_rate=0.1` for timm;
            config fields for transformers).

    Attributes:
        input_spec: `size` [H, W] in pixels, `channels`, `mean` and `std` per channel for pixels in
            [0, 1], `interpolation`.

    Raises:
        ValueError: for a name that nobody knows (the closest one is named), an option the backbone
            does not take, or weights that do not fit.

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
        **backbone_options: Any,
    ):
        source = _source(name, source, kind="image")
        load = _pretrained(name, pretrained, weights)
        config: dict[str, Any] = {"source": source, "name": _label(name)}
        backbone: Any
        if source == "timm":
            backbone, described = build_timm(str(name), load, backbone_options)
            config |= described
            config["input_spec"] = timm_input_spec(backbone, described["options"])
        elif source == "transformers":
            backbone = build_hf(name, load, backbone_options, tower="vision_config")
            config["backbone"] = config_dict(backbone.config)
            config["input_spec"] = hf_input_spec(backbone.config, str(name) if load else None)
        else:
            backbone, options = _build_custom(name, backbone_options)
            config |= {
                "options": options,
                "input_spec": dict(getattr(backbone, "input_spec", None) or default_input_spec()),
            }
        if weights is not None:
            load_weights(backbone, weights)
        super().__init__(name, config, backbone)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, attn_implementation: str | None = None
    ) -> Self:
        """An encoder with random weights, rebuilt from the `config` of another, without network."""
        return _from_config(cls, config, attn_implementation)

    @property
    def input_spec(self) -> dict[str, Any]:
        """What the backbone expects: `size` [H, W], `channels`, `mean`, `std`, `interpolation`."""
        return dict(self.config["input_spec"])

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether activations are recomputed in the backward pass; transformers sets it, timm models are told."""
        return bool(
            getattr(
                self.backbone,
                "grad_checkpointing",
                getattr(self.backbone, "gradient_checkpointing", False),
            )
        )

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        if hasattr(self.backbone, "set_grad_checkpointing"):
            self.backbone.set_grad_checkpointing(enable)

    def _make_family(self) -> Any:
        if self.config["source"] == "timm":
            return timm_family(self.backbone)
        if self.config["source"] == "transformers":
            return hf_image_family(self.backbone)
        dim = _declared_dim(self.backbone)

        def run(module: nn.Module, pixels: Tensor) -> Encoded:
            features = module(pixels)
            return features if isinstance(features, Encoded) else features_to_encoded(features, dim)

        return OneBlock(self.backbone, dim, run)

    def forward(self, pixel_values: Float[Tensor, "B C H W"]) -> Encoded:
        """The encoded images, by the backbone's own forward.

        Args:
            pixel_values: normalised pixels [B, C, H, W].
        """
        return self.family.forward(pixel_values)

    def embed(self, pixel_values: Float[Tensor, "B C H W"]) -> Hidden:
        """The state that enters block 0."""
        return self.family.embed(pixel_values)


class TextEncoder(Encoder):
    """Any text backbone: token ids in, `Encoded` out, whatever the side and length of the padding.

    Texts enter the backbone with their real tokens first and without the columns in which no text
    of the batch has a token; positions count real tokens. `tokens` come back in that order.

    Args:
        name: a transformers checkpoint (a hub name or a folder), a transformers config object
            (random weights, no network), a name given to `register_backbone`, or an `nn.Module` of
            a registered class.
        source: "transformers" or "custom"; None tells from the name.
        pretrained: whether to load published weights; None means yes for a name, no for a config or
            when `weights` is given.
        weights: as for `ImageEncoder`.
        pooling: "mean" over the real tokens, or "cls", the first real token.
        padding: "packed" computes the real tokens alone (see `mmfusion.model.packing`), "padded"
            every place up to the longest text, "auto" packs a batch where that pays: where less
            than 90 % of its places hold a token. All give the same answer, and the same padded
            `tokens`. Backbones that do not take their attention from transformers' interface
            (MPNet, one's own), a chosen attention other than "sdpa", and compiled graphs stay
            padded (but see `pack_in_graphs`); `export_model`'s graphs pack, but for "padded".
        **backbone_options: fields of the transformers config, or options of the registered class.

    Attributes:
        max_length: the most tokens a text may have, or None where the backbone sets no limit.

    Raises:
        ValueError: as for `ImageEncoder`, and for a text longer than `max_length`.

    Shape:
        input_ids, attention_mask [B, L] -> tokens [B, L', D], mask [B, L'], pooled [B, D], L' the
        longest text of the batch.

    Example:
        >>> import torch
        >>> from transformers import BertConfig
        >>> small = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9)
        >>> encoder = TextEncoder(small).eval()
        >>> left = encoder(torch.tensor([[0, 0, 5, 6]]), torch.tensor([[0, 0, 1, 1]]))
        >>> right = encoder(torch.tensor([[5, 6, 7]]), torch.tensor([[1, 1, 0]]))
        >>> torch.equal(left.pooled, right.pooled)
        True
    """

    def __init__(
        self,
        name: str | PreTrainedConfig | nn.Module,
        *,
        source: str | None = None,
        pretrained: bool | None = None,
        weights: Weights | None = None,
        pooling: str = "mean",
        padding: str = "auto",
        **backbone_options: Any,
    ):
        source = _source(name, source, kind="text")
        load = _pretrained(name, pretrained, weights)
        pool_by(pooling)
        config: dict[str, Any] = {"source": source, "name": _label(name), "pooling": pooling}
        backbone: Any
        if source == "transformers":
            backbone = build_hf(name, load, backbone_options, tower="text_config")
            config["backbone"] = config_dict(backbone.config)
        else:
            backbone, config["options"] = _build_custom(name, backbone_options)
        if weights is not None:
            load_weights(backbone, weights)
        super().__init__(name, config, backbone)
        self._packs_in_graphs = False
        self.padding = padding

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, attn_implementation: str | None = None
    ) -> Self:
        """An encoder with random weights, rebuilt from the `config` of another, without network."""
        return _from_config(cls, config, attn_implementation)

    @property
    def padding(self) -> str:
        """How padding is computed: "auto", "packed" or "padded"."""
        return str(self.config["padding"])

    @padding.setter
    def padding(self, value: str) -> None:
        allowed = ["auto", "packed", "padded"]
        if value not in allowed:
            raise ValueError(
                f"padding must be one of {allowed}, got {value!r}. {closest(value, allowed)}"
            )
        if value == "packed" and not self.can_pack:
            logger.warning(
                f"{type(self.backbone).__name__} cannot compute packed texts (its attention must be transformers' 'sdpa'): "
                "its batches stay padded."
            )
        self.config["padding"] = value

    def pack_in_graphs(self, wanted: bool = True) -> Self:
        """This encoder, whose compiled graphs compute the real tokens alone, where it can pack and `padding` is not "padded".

        torch must then be told that shapes may depend on values
        (`torch._dynamo.config.capture_dynamic_output_shape_ops`). `CompiledClassifier` does that on
        a CPU.

        Args:
            wanted: False lets them stay padded again.
        """
        self._packs_in_graphs = wanted and self.padding != "padded" and self.can_pack
        if self._packs_in_graphs:
            # Here and not in the graph, which would have to be made anew.
            use_packed_attention(self.backbone)
        return self

    def _packing(self, mask: Tensor | None) -> Packing | None:
        """How to pack the batch; None where it stays padded."""
        if self.padding == "padded":
            return None
        return self._packed(mask, always=self.padding == "packed", in_graphs=self._packs_in_graphs)

    @property
    def max_length(self) -> int | None:
        """The most tokens a text may have, or None where the backbone sets no limit."""
        limit = getattr(getattr(self.backbone, "config", None), "max_position_embeddings", None)
        return None if limit is None else int(limit) - position_offset(self.backbone)

    @property
    def vocab_size(self) -> int | None:
        """How many token ids the backbone knows, or None where it does not say."""
        size = getattr(getattr(self.backbone, "config", None), "vocab_size", None)
        return None if size is None else int(size)

    def _make_family(self) -> Any:
        pool_tokens = pool_by(self.config["pooling"])
        if self.config["source"] == "transformers":
            return hf_text_family(self.backbone, pool_tokens)
        return OneBlock(self.backbone, _declared_dim(self.backbone), text_runner(pool_tokens))

    def forward(
        self, input_ids: Int[Tensor, "B L"], attention_mask: Tensor | None = None
    ) -> Encoded:
        """The encoded texts, by the backbone's own forward.

        Args:
            input_ids: token ids [B, L].
            attention_mask: 1 or True where a token is real [B, L], at least one per row; None means
                all are.
        """
        input_ids, mask = self.real_tokens_first(input_ids, attention_mask)
        packing = self._packing(mask)
        if packing is None:
            return self.family.forward(input_ids, mask)
        return self.family.forward_packed(input_ids, mask, packing)

    def embed(self, input_ids: Int[Tensor, "B L"], attention_mask: Tensor | None = None) -> Hidden:
        """The state that enters block 0, real tokens first."""
        return self.family.embed(*self.real_tokens_first(input_ids, attention_mask))

    def real_tokens_first(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Token ids and mask with the real tokens of each text first, in their order, and the padding neutral.

        Args:
            input_ids: [B, L].
            attention_mask: [B, L], or None for all real.

        Raises:
            ValueError: when a text is longer than the backbone's positions, or a token id is
                outside its vocabulary.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        mask = attention_mask.bool()
        padding = getattr(getattr(self.backbone, "config", None), "pad_token_id", None)
        input_ids = torch.where(mask, input_ids, 0 if padding is None else padding)
        # Counting places instead of sorting by them: ONNX has no stable sort.
        counts = mask.sum(1, keepdim=True)
        places = torch.where(mask, mask.cumsum(1), counts + (~mask).cumsum(1)) - 1
        input_ids = torch.zeros_like(input_ids).scatter(1, places, input_ids)
        mask = torch.arange(mask.shape[1], device=mask.device) < counts
        if torch.compiler.is_compiling():
            return input_ids, mask
        longest = int(mask.sum(1).max()) if len(mask) else 0
        if self.max_length is not None and longest > self.max_length:
            raise ValueError(
                f"input_ids must be at most {self.max_length} tokens per text, got {longest}. "
                "Truncate in the processor, which knows the limit."
            )
        if self.vocab_size is not None and input_ids.numel():
            for extreme in (int(input_ids.min()), int(input_ids.max())):
                if not 0 <= extreme < self.vocab_size:
                    raise ValueError(
                        f"input_ids must be in 0 .. {self.vocab_size - 1} (the vocabulary), got {extreme}. "
                        "Is this the tokenizer of this text encoder?"
                    )
        return input_ids[:, :longest], mask[:, :longest]


def _from_config(cls: Any, config: Mapping[str, Any], attn_implementation: str | None) -> Any:
    """An encoder of class `cls` rebuilt from its config; a config that is only a name builds random weights under that name."""
    config = dict(config)
    allowed = {
        "source",
        "name",
        "architecture",
        "options",
        "backbone",
        "input_spec",
        "pooling",
        "padding",
        "trainable",
        "lora",
    }
    for key in config:
        if key not in allowed:
            raise ValueError(
                f"an encoder's config has no option {key!r}. {closest(key, sorted(allowed))}"
            )
    source = config.get("source")
    options = dict(config.get("options") or {})
    if config.get("backbone") is not None:
        backbone_config = dict(config["backbone"])
        name: Any = AutoConfig.for_model(backbone_config.pop("model_type"), **backbone_config)
        # A backbone chooses "sdpa" by itself where it has it; MPNet, which has not, would refuse it
        # when told to.
        if attn_implementation not in (None, "sdpa"):
            name._attn_implementation = attn_implementation
    else:
        name = config.get("architecture") or config["name"]
    extra = {
        key: config[key] for key in ("pooling", "padding") if key in config and cls is TextEncoder
    }
    # Built on a real device even where from_pretrained asks for meta: buffers that are not saved
    # must get their values.
    real = torch.device("cpu") if source in ("timm", "custom", None) else torch.get_default_device()
    with real:
        encoder = cls(name, source=source, pretrained=False, **extra, **options)
    encoder.config |= {key: value for key, value in config.items() if key not in ("lora",)}
    if config.get("lora"):
        encoder.config["lora"] = dict(config["lora"])
    return encoder.apply_training_config()


def _source(name: object, source: str | None, *, kind: str) -> str:
    allowed = ["timm", "transformers", "custom"] if kind == "image" else ["transformers", "custom"]
    if source is not None:
        if source not in allowed:
            raise ValueError(
                f"source must be one of {allowed}, got {source!r}. {closest(source, allowed)}"
            )
        return source
    if isinstance(name, nn.Module):
        return "custom"
    if isinstance(name, PreTrainedConfig):
        return "transformers"
    if not isinstance(name, str) or not name:
        raise TypeError(
            f"name must be a model name, a transformers config or an nn.Module, got {name!r}. "
            f"For example {'resnet18' if kind == 'image' else 'google-bert/bert-base-uncased'!r}."
        )
    if is_registered(name):
        return "custom"
    timm_name = name.startswith(("timm/", "hf-hub:", "local-dir:")) or (
        "/" not in name and not Path(name).is_dir()
    )
    return "timm" if kind == "image" and timm_name else "transformers"


def _pretrained(name: object, pretrained: bool | None, weights: Weights | None) -> bool:
    if pretrained and weights is not None:
        raise ValueError(
            "pretrained must be False or None when weights are given, got True. Give one of the two."
        )
    if pretrained and not isinstance(name, str):
        raise ValueError(
            f"pretrained must be False or None for {type(name).__name__}, got True. Give a name, or weights."
        )
    return isinstance(name, str) and weights is None if pretrained is None else pretrained


def _label(name: object) -> str:
    if isinstance(name, str):
        return name
    if isinstance(name, nn.Module):
        return registered_name(name)
    return str(getattr(name, "model_type", "")) or type(name).__name__


def _build_custom(name: Any, options: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    if isinstance(name, nn.Module):
        if options:
            raise ValueError(
                f"options must be given to the module's own constructor, got {sorted(options)}. Leave them out."
            )
        get_config: Any = getattr(name, "get_config", dict)
        return name, dict(get_config())
    return custom_backbone(str(name), **options), options


def _declared_dim(module: nn.Module) -> int:
    dim = getattr(module, "dim", getattr(module, "num_features", None))
    if not isinstance(dim, int) or dim < 1:
        raise ValueError(
            f"{type(module).__name__}.dim must be its output's width, got {dim!r}. Set self.dim in its constructor."
        )
    return dim
