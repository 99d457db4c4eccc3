"""FusionClassifier: complete the inputs, encode, fuse, compute the loss."""

import os
from collections.abc import Mapping
from typing import Any, Self, SupportsIndex, cast, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig

from .card import CardedModel
from .configuration import FusionConfig, is_installed, merged_config
from .encoder_base import Encoder
from .encoder_build import as_encoder, common_dtype, described_encoder
from .encoder_image import ImageEncoder
from .encoder_text import TextEncoder
from .facts import BatchFacts
from .fusion import fusion_options, make_fusion
from .fusion_base import Fusion, Head, Probe, TowerShapes
from .load_weights import keep_weights, load_classifier
from .loss import answers_loss, checked_labels, fused_loss, loss_options, register_weights
from .mapper import EmbeddingMapper, make_mapper
from .missing import BatchInputs, complete_inputs, drop_modalities, with_views
from .tower import Tower
from .tower_start import tower_of
from .types import CachePoint, Fused, FusionOutput
from .validation import check_choice, described_writes

ImageLike = ImageEncoder | str | PreTrainedConfig | nn.Module
TextLike = TextEncoder | str | PreTrainedConfig | nn.Module


@final
class FusionClassifier(CardedModel):
    """A classifier of samples that have an image, a text, or both.

    Composed of parts, or rebuilt from a `FusionConfig`. One encoder alone makes an image-only or a
    text-only classifier.

    Args:
        config: a FusionConfig to rebuild from. Parts that are given beside it replace its own.
        image_encoder: an `ImageEncoder`, or what its first argument takes (a name, a transformers
            config, a module).
        text_encoder: a `TextEncoder`, or what its first argument takes.
        mapper: "linear" (default), "mlp", "cross_attention" or "identity"; a dict with `name` and
            options; or an `EmbeddingMapper`.
        fusion: the name of a strategy ("concat" by default), a dict with `name` and options, or a
            strategy such as `Joint(at=8)`.
        num_labels: C; None takes the config's value, the length of `id2label`, or 2.
        id2label: class index -> name.
        problem_type: "single_label_classification" (default; labels are class indices [B]) or
            "multi_label_classification" (labels are 1, 0 or NaN [B, C]; NaN is unknown and left out
            of the loss).
        class_weights: weight of each class in the loss, or "balanced" (see `FusionConfig`).
        pos_weight: weight of each label's positives, or "balanced" (see `FusionConfig`).
        focal_gamma: the exponent of the focal loss (see `FusionConfig`).
        modality_dropout: probability that a training sample with both modalities loses one of them.
        auxiliary_loss_weight: weight of a classification loss on each modality alone, added while
            training.
        normalize_embeddings: whether embeddings are normalised before they meet (True by default;
            see `FusionConfig`).
        num_views: the most pictures of one sample (1 by default; see `FusionConfig`).

    Raises:
        ValueError: when neither encoder is given, or an option does not exist or fit.

    Example:
        >>> import torch
        >>> from transformers import BertConfig
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8}
        >>> text = BertConfig(num_attention_heads=2, vocab_size=9, **sizes)
        >>> encoder = ImageEncoder("resnet10t", pretrained=False)
        >>> model = FusionClassifier(image_encoder=encoder, text_encoder=text, num_labels=3).eval()
        >>> model(torch.zeros(2, 3, 32, 32), torch.tensor([[1, 2], [3, 4]])).logits.shape
        torch.Size([2, 3])
    """

    config_class = FusionConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]  # noqa: RUF012 (what transformers declares)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # A class attribute may be a list here, because transformers changes only a copy of it.
    _no_split_modules = [  # noqa: RUF012
        *("AttentionBlock", "BottleneckUnit", "MMTMUnit", "Head", "EmbeddingMapper")
    ]

    def __init__(
        self,
        config: FusionConfig | None = None,
        *,
        image_encoder: ImageLike | None = None,
        text_encoder: TextLike | None = None,
        mapper: str | Mapping[str, Any] | EmbeddingMapper | None = None,
        fusion: str | Mapping[str, Any] | Fusion | None = None,
        num_labels: SupportsIndex | None = None,
        id2label: Mapping[int, str] | None = None,
        problem_type: str | None = None,
        class_weights: list[float] | str | None = None,
        pos_weight: list[float] | str | None = None,
        focal_gamma: float | None = None,
        modality_dropout: float | None = None,
        auxiliary_loss_weight: float | None = None,
        normalize_embeddings: bool | None = None,
        num_views: SupportsIndex | None = None,
    ):
        image = as_encoder(ImageEncoder, image_encoder)
        text = as_encoder(TextEncoder, text_encoder)
        given = {
            "image_encoder": None if image is None else image.config,
            "text_encoder": None if text is None else text.config,
            "mapper": mapper.options if isinstance(mapper, EmbeddingMapper) else mapper,
            "fusion": fusion_options(fusion),
            "num_labels": num_labels,
            "id2label": None if id2label is None else dict(id2label),
            "problem_type": problem_type,
            "class_weights": class_weights,
            "pos_weight": pos_weight,
            "focal_gamma": focal_gamma,
            "modality_dropout": modality_dropout,
            "auxiliary_loss_weight": auxiliary_loss_weight,
            "normalize_embeddings": normalize_embeddings,
            "num_views": num_views,
        }
        config = merged_config(
            config, {key: value for key, value in given.items() if value is not None}
        )
        super().__init__(config)
        parts = [part for part in (image, text, mapper, fusion) if isinstance(part, nn.Module)]
        composed = [part for part in parts if next(part.parameters(), None) is not None]
        attention = config._attn_implementation
        image = image or described_encoder(ImageEncoder, config.image_encoder, attention)
        text = text or described_encoder(TextEncoder, config.text_encoder, attention)
        self.image_encoder: ImageEncoder | None = image
        self.text_encoder: TextEncoder | None = text
        # The config shares the encoders' own config objects, so a later freeze() is saved too.
        config.image_encoder = None if image is None else image.config
        config.text_encoder = None if text is None else text.config
        self._build(config, mapper, fusion)
        nn.Module.to(self, common_dtype(image, text))
        keep_weights(composed)
        self.post_init()
        self.train()  # A part may have come in evaluation mode.

    def _build(self, config: FusionConfig, mapper: Any, fusion: Any) -> None:
        image, text = self.image_encoder, self.text_encoder
        self.multi_label: bool = config.problem_type == "multi_label_classification"
        assert (
            config.num_labels is not None
            and isinstance(config.mapper, dict)
            and isinstance(config.fusion, dict)
        )
        if image is None and text is None:
            raise ValueError(
                "image_encoder or text_encoder must be given, got neither. Give one or both."
            )
        register_weights(self, config)
        if image is not None and config.num_views > 1:
            self.view_embedding = nn.Parameter(torch.zeros(config.num_views, image.dim))
        if image is None or text is None:
            (tower,) = (tower for tower in (image, text) if tower is not None)
            self.head = Probe([tower.dim], config.num_labels, config.head_dropout)
            return
        self.mapper = (
            mapper
            if isinstance(mapper, EmbeddingMapper)
            else make_mapper(config.mapper, text.dim, image.dim)
        )
        self.mapper.check_widths(text.dim, image.dim)
        strategy = fusion if isinstance(fusion, Fusion) else make_fusion(**config.fusion)
        shapes = TowerShapes.of(
            image,
            text,
            self.mapper.out_dim,
            num_labels=config.num_labels,
            multi_label=self.multi_label,
            head_dropout=config.head_dropout,
        )
        self.fusion = strategy.build(shapes)
        if not strategy.has_own_probes:
            widths = [image.dim, text.dim]
            self.probe = Probe(widths, config.num_labels, config.head_dropout)
        # A head of the strategy starts at zero: the classifier then starts as its probe.
        for head in (module for module in strategy.modules() if isinstance(module, Head)):
            head.set_to_zero()
        if strategy.needs_stand_in:
            self.absent_image = nn.Parameter(torch.randn(image.dim) * 0.02)
            self.absent_text = nn.Parameter(torch.randn(text.dim) * 0.02)
        if config.auxiliary_loss_weight:
            self.image_head = Head([image.dim], config.num_labels, config.head_dropout)
            self.text_head = Head([self.mapper.out_dim], config.num_labels, config.head_dropout)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Restores buffers; transformers calls it on each module that was not loaded.

        Every part has drawn its own parameters, so only buffers are left to do.
        """
        if isinstance(module, Encoder):
            module.restore_unsaved_buffers()
        elif isinstance(module, FusionClassifier):
            register_weights(module, self.config)

    @classmethod
    # transformers spells out a dozen of these keywords.
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> Any:
        """Returns the classifier saved in a folder or on a hub, loaded strictly.

        A missing, extra or mis-shaped key is an error that lists it.

        Args:
            pretrained_model_name_or_path: a folder written by `save_pretrained`, or a hub name.
            *args: as transformers takes them.
            **kwargs: what `PreTrainedModel.from_pretrained` takes: `dtype`, `device_map`,
                `attn_implementation`, `revision` ...; with `ignore_mismatched_sizes=True` (another
                number of classes, say) a mis-shaped head starts anew.

        Raises:
            ValueError: listing the keys that do not fit.
            OSError: when there is no checkpoint, or one that is no safetensors file.
        """
        name, load = os.fspath(pretrained_model_name_or_path), super().from_pretrained
        return load_classifier(lambda **options: load(name, *args, **options), name, kwargs)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> None:
        """Writes config, weights (safetensors) and card, under the parameters' own names.

        Args:
            save_directory: the folder; made if it does not exist.
            *args: as `CardedModel.save_pretrained` takes them.
            **kwargs: as `CardedModel.save_pretrained` takes them.
        """
        # transformers saves older key names, and the Trainer would go on with other weights.
        kwargs.setdefault("save_original_format", False)
        for name in self.modalities:
            getattr(self, f"{name}_encoder").describe_adapters()
        with described_writes(save_directory):
            super().save_pretrained(save_directory, *args, **kwargs)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities it has a tower for: "image", "text" or both."""
        towers = {"image": self.image_encoder, "text": self.text_encoder}
        return tuple(name for name, tower in towers.items() if tower is not None)

    def forward(
        self,
        pixel_values: Float[Tensor, "B *V C H W"] | None = None,
        input_ids: Int[Tensor, "B *W L"] | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        image_present: Bool[Tensor, "B ..."] | None = None,
        text_present: Bool[Tensor, " B"] | None = None,
        image_state: Tensor | None = None,
        image_pooled: Tensor | None = None,
        text_state: Tensor | None = None,
        text_pooled: Tensor | None = None,
        facts: BatchFacts | None = None,
        output_embeddings: bool = False,
        return_dict: bool | None = None,
    ) -> FusionOutput | tuple[Tensor, ...]:
        """Returns logits, and a loss where labels are given.

        Args:
            pixel_values: normalised pixels [B, C, H, W], or [B, V, C, H, W] with V pictures of a
                sample; what stands in the place of an absent picture means nothing.
            input_ids: token ids [B, L], or [B, W, L] for texts in W windows.
            attention_mask: 1 where a token is real, like `input_ids`; padding may be left or right.
                None means all are. A row of zeros is a missing text, or a window that is not there.
            labels: class indices int [B]; or 1, 0, NaN float [B, C] where the problem is
                multi-label.
            image_present: False where a sample has no image [B], or lacks one of its pictures [B,
                V]; None means all have one if `pixel_values` is given.
            text_present: False where a sample has no text [B]; None reads it from the mask.
            image_state: instead of pixel_values, what `mmfusion.cache_features` stored of the image
                tower.
            image_pooled: with an `image_state` from behind the last block, the pooled vectors [B,
                D].
            text_state: instead of input_ids, what was stored of the text tower; `attention_mask`
                says which of its tokens are real.
            text_pooled: as `image_pooled`.
            facts: what the host knows of this batch (`FusionCollator` adds it), which saves the
                wait for the device. None: read from the tensors. Leave it out of a call after you
                change the batch.
            output_embeddings: whether the output carries the fused, the image's and the text's
                embedding.
            return_dict: False returns a tuple, as transformers models do.

        Raises:
            ValueError: when an input has no tower, a sample has neither modality, or a label is out
                of range.
        """
        given = {
            "pixel_values": pixel_values,
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": labels,
            "image_present": image_present,
            "text_present": text_present,
            "image_state": image_state,
            "image_pooled": image_pooled,
            "text_state": text_state,
            "text_pooled": text_pooled,
        }
        batch = complete_inputs(self.modalities, with_views(given, self.config.num_views), facts)
        if self.text_encoder is not None and batch.facts is not None:
            self.text_encoder.check_texts(batch.facts.row_lengths, batch.facts.token_range)
        if self.training and self.config.modality_dropout and len(self.modalities) == 2:
            batch = drop_modalities(batch, self.config.modality_dropout)
        fused = self._fuse(tower_of(self, "image", batch), tower_of(self, "text", batch))
        if not self.training and self.config.temperature != 1:
            fused = fused._replace(logits=fused.logits / self.config.temperature)
        loss = None if labels is None else self._loss(fused, labels, batch)
        output = FusionOutput(loss=loss, logits=fused.logits)
        if output_embeddings:
            output["embedding"] = fused.embedding
            output["image_embedding"] = fused.image_embedding if self.image_encoder else None
            output["text_embedding"] = fused.text_embedding if self.text_encoder else None
        return output.to_tuple() if return_dict is False else output

    def _fuse(self, image: Tower | None, text: Tower | None) -> Fused:
        if image is not None and text is not None:
            fused: Fused = self.fusion(image, text, self.mapper)
            if self.fusion.has_own_probes:
                return fused
            start = self.probe([image.pooled, text.pooled], [image.present, text.present])
            return fused._replace(logits=fused.logits + start)
        (tower,) = (tower for tower in (image, text) if tower is not None)
        pooled = tower.encode().pooled
        return Fused(pooled, self.head([pooled], [tower.present]), pooled, pooled)

    def cache_point(self, modality: str) -> CachePoint:
        """Returns the point up to which the output of a tower may be stored.

        It lies before the first block that trains or in which the strategy acts. If there is no
        such block, it lies after the pooling.

        Args:
            modality: "image" or "text".
        """
        encoder: Encoder = getattr(self, f"{modality}_encoder")
        first = encoder.num_blocks
        if len(self.modalities) == 2:
            first = getattr(self.fusion, f"first_{modality}_block")
        if encoder.is_frozen and first == encoder.num_blocks:
            return CachePoint(first, pooled=True)
        return CachePoint(min(first, encoder.num_frozen_blocks))

    def _loss(self, fused: Fused, labels: Tensor, batch: BatchInputs) -> Tensor:
        labels = checked_labels(
            labels, fused.logits, multi_label=self.multi_label, facts=batch.facts
        )
        options = loss_options(self, self.config, training=self.training)
        loss = fused_loss(fused, labels, options, training=self.training)
        auxiliary = self.config.auxiliary_loss_weight
        if not (self.training and auxiliary and len(self.modalities) == 2):
            return loss
        image = self.image_head(fused.image_embedding), batch.present["image"]
        text = self.text_head(fused.text_embedding), batch.present["text"]
        return loss + auxiliary * answers_loss([image, text], labels, options)

    def merge_lora(self) -> Self:
        """Returns this classifier, its encoders' adapters merged (see `Encoder.merge_lora`)."""
        encoders = [getattr(self, f"{name}_encoder") for name in self.modalities]
        for encoder in [one for one in encoders if one.has_adapters] or encoders[:1]:
            encoder.merge_lora()
        return self

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the text tower's embeddings, resized (see `TextEncoder`)."""
        check_choice("modality", "text", self.modalities)
        return cast(TextEncoder, self.text_encoder).resize_token_embeddings(*args, **kwargs)

    def freeze(self, modality: str, *, keep_last: SupportsIndex = 0) -> Self:
        """Returns this classifier with a tower frozen up to its last blocks (see `Encoder.freeze`).

        Args:
            modality: "image" or "text".
            keep_last: how many blocks at the end still train.

        Raises:
            ValueError: when it has no such tower, or not that many blocks.
        """
        check_choice("modality", modality, self.modalities)
        getattr(self, f"{modality}_encoder").freeze(keep_last=keep_last)
        return self


if is_installed(__name__):
    AutoModel.register(FusionConfig, FusionClassifier, exist_ok=True)
