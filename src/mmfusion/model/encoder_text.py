"""TextEncoder: any text backbone behind one contract, encoded whole or walked block by block."""

from collections.abc import Mapping
from typing import Any, Self, final

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .adapter_base import Adapter, OneBlock
from .adapter_bert import pool_by, position_offset, text_runner, transformers_text_adapter
from .adapter_dual import text_width
from .adapter_open_clip import open_clip_adapter
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
from .facts import look
from .graph import is_tracing
from .load_open_clip import backbone_weights, build_open_clip
from .load_projection import add_built_projection, refuse_projection
from .load_transformers import build_transformers
from .load_weights import load_weights
from .masking import real_tokens_first
from .packed_attention import use_packed_attention
from .packing import Packing, packing_of
from .types import Encoded, Lengths
from .validation import check_choice

logger = logging.get_logger(__name__)


@final
class TextEncoder(Encoder):
    """Any text backbone: token ids in, `Encoded` out, whatever the side and length of the padding.

    Texts enter the backbone with their real tokens first and without the columns in which no text
    of the batch has a token. A token's position is the number of real tokens before it. `tokens`
    are returned in this order.

    Args:
        name: a transformers checkpoint (a hub name or a folder), a transformers config object
            (random weights, no network), an open_clip model (`hf-hub:...` or a folder with an
            open_clip_config.json), a name given to `register_backbone`, or an `nn.Module` of a
            registered class.
        source: "transformers", "open_clip" or "custom". None: derived from the name.
        pretrained: whether to load published weights; None means yes for a name, no for a config or
            when `weights` is given.
        weights: as for `ImageEncoder`.
        dtype: as for `ImageEncoder`.
        pooling: None pools as the model was published: CLIP by its end-of-text token, SigLIP by the
            last place of a text padded to the trained length, and so on. Models that were published
            without a pooled vector get "mean". Other values: "mean" over the real tokens; "cls",
            the first real token, for models whose attention is not causal; "pooler", the first
            token after the pooler of the checkpoint; "eos" and "last" for the models that were
            published with them. The config keeps the name.
        projection: whether pooled vector and tokens pass the published projection into the space
            that a dual encoder's image and text share. A number is its width, where the config does
            not say it.
        padding: "packed" computes the real tokens alone (see `mmfusion.model.packing`), "padded"
            every place up to the longest text. "auto" packs a batch where that is faster: where
            less than 90 % of its places hold a token. All give the same answer, and `tokens` that
            are equal at the real places. Texts stay padded in three cases: the backbone is of a
            family that does not pack (MPNet, custom modules and others), its attention is not
            "sdpa", or the graph is compiled (but see `pack_in_graphs`). Graphs of `export_model`
            pack, except with "padded".
        **backbone_options: fields of the transformers config, or options of the registered class;
            `model_cfg` for open_clip, in the place of the config of the name.

    Attributes:
        max_length: the most tokens a text may have, or None where the backbone sets no limit.

    Raises:
        ValueError: as for `ImageEncoder`, and for a text longer than `max_length`.

    Shape:
        input_ids, attention_mask [B, L] -> tokens [B, L', D], mask [B, L'], pooled [B, D], with L'
        the longest text of the batch.

    Example:
        >>> import torch
        >>> from transformers import BertConfig
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8}
        >>> encoder = TextEncoder(BertConfig(num_attention_heads=2, vocab_size=9, **sizes)).eval()
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
        dtype: torch.dtype | None = None,
        pooling: str | None = None,
        projection: bool | int = False,
        padding: str = "auto",
        **backbone_options: Any,
    ):
        source = source_of(name, source, kind="text")
        load = loads_published(name, pretrained, weights)
        config = EncoderConfig(label_of(name), source, pooling=pooling)
        backbone: Any
        if source == "transformers":
            built = build_transformers(
                name,
                load,
                backbone_options,
                tower="text_config",
                dtype=dtype,
                pooling=pooling,
                projection=projection,
            )
            backbone, config.pooling, config.projection, _ = built
            add_built_projection(
                built,
                text_width(backbone),
                takes="input_ids",
                checkpoint=name if load else None,
            )
            config.follow(backbone.config)
        elif source == "open_clip":
            refuse_projection(False, pooling)
            opened = build_open_clip(
                str(name),
                load,
                backbone_options,
                tower="text_cfg",
                projection=projection,
                dtype=dtype,
            )
            backbone, config.options, config.projection, _ = opened
        else:
            config.pooling = pooling or "mean"
            # Check it now: loading may take minutes.
            pool_by(config.pooling)
            refuse_projection(projection)
            backbone, config.options = build_custom(name, backbone_options)
        if weights is not None:
            load_weights(backbone, backbone_weights(backbone, weights))
        if dtype is not None:
            backbone.to(checked_dtype(dtype))
        super().__init__(config, backbone)
        self._packs_in_graphs = False
        self._left_out: int | None = None
        self.padding = padding

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
    def padding(self) -> str:
        """How padding is computed: "auto", "packed" or "padded"."""
        return str(self.config.padding)

    @padding.setter
    def padding(self, value: str) -> None:
        check_choice("padding", value, ["auto", "packed", "padded"])
        if value != "padded" and self.adapter.packs:
            # The attention may have been changed since construction. So choose the packed attention
            # again.
            use_packed_attention(self.backbone)
        if value == "packed" and not self.can_pack:
            logger.warning(
                f"{type(self.backbone).__name__} cannot compute packed texts (its attention must "
                "be "
                "transformers' 'sdpa'): its batches stay padded."
            )
        self.config.padding = value

    @property
    def may_pack(self) -> bool:
        """Whether it can pack, and `padding` lets it."""
        return self.padding != "padded" and self.can_pack

    def pack_in_graphs(self, wanted: bool = True, *, left_out: int | None = None) -> Self:
        """Returns this encoder, whose compiled graphs compute the real tokens alone.

        They do so if it may pack (`may_pack`). torch must then be told
        that shapes may depend on values
        (`torch._dynamo.config.capture_dynamic_output_shape_ops`), unless `left_out` is given.
        `CompiledClassifier` does the first on a CPU (from torch 2.14 on) and the second on CUDA.

        Args:
            wanted: False lets graphs stay padded again.
            left_out: how many places of the padding a graph leaves out; there are at least as many.
                Its shapes then depend on no values, as CUDA graphs need it. None: all.
        """
        packs = wanted and self.may_pack
        self._packs_in_graphs = packs
        self._left_out = left_out if packs else None
        return self

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Returns the embeddings of a transformers backbone after they were resized.

        Args:
            *args: as transformers takes them: the new number of token ids first.
            **kwargs: as transformers takes them.

        Raises:
            ValueError: when the backbone is not one of transformers.
        """
        if not isinstance(self.backbone, PreTrainedModel):
            raise ValueError(
                "text_encoder must be a transformers model to be resized, got "
                f"{type(self.backbone).__name__}. Build it with the other size."
            )
        return self.backbone.resize_token_embeddings(*args, **kwargs)

    @property
    def max_length(self) -> int | None:
        """The most tokens a text may have, or None where the backbone sets no limit."""
        config = getattr(self.backbone, "config", None)
        limit = getattr(config, "max_position_embeddings", None)
        # XLNet, which has relative positions, says -1.
        if limit is None or limit < 0:
            return None
        return int(limit) - position_offset(self.backbone)

    @property
    def vocab_size(self) -> int | None:
        """How many token ids the backbone has embeddings for, or None where it does not say."""
        size = getattr(getattr(self.backbone, "config", None), "vocab_size", None)
        return None if size is None else int(size)

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Tensor | None = None,
        lengths: Lengths = None,
    ) -> Encoded:
        """Returns the encoded texts, by the backbone's own forward.

        Args:
            input_ids: token ids [B, L].
            attention_mask: 1 or True where a token is real [B, L], at least one per row; None means
                all are.
            lengths: lengths that were checked with `check_texts`. None: counted and checked here,
                which waits for the device.

        Raises:
            TypeError: if the ids or the mask are no tensors.
            ValueError: if they have other axes, a text is longer than the backbone's positions, or
                a token id is outside its vocabulary.
        """
        inputs = (input_ids,) if attention_mask is None else (input_ids, attention_mask)
        (input_ids, mask), lengths = self._prepared(inputs, lengths)
        packing = self._packing(mask, lengths)
        if packing is None:
            return self.adapter.forward(input_ids, mask, lengths=lengths)
        return self.adapter.forward_packed(input_ids, mask, packing)

    def real_tokens_first(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns token ids and mask with the real tokens of each text first, in their order.

        Columns in which no text has a token are left out. The padding holds the pad id.

        Args:
            input_ids: [B, L].
            attention_mask: [B, L], or None for all real.

        Raises:
            ValueError: as for `forward`.
        """
        inputs = (input_ids,) if attention_mask is None else (input_ids, attention_mask)
        (input_ids, mask), _ = self._prepared(inputs, None)
        return input_ids, mask

    def check_texts(self, lengths: Lengths, token_range: tuple[int, int] | None) -> None:
        """Refuses texts that the backbone cannot encode.

        Args:
            lengths: how many real tokens each text has.
            token_range: the smallest and the largest token id of the real tokens; None without any.

        Raises:
            ValueError: as for `forward`.
        """
        longest = max(lengths or (0,), default=0)
        if self.max_length is not None and longest > self.max_length:
            raise ValueError(
                f"input_ids must be at most {self.max_length} tokens per text, got {longest}. "
                "Truncate in the processor, which knows the limit."
            )
        size = self.vocab_size
        if size is None or token_range is None:
            return
        for extreme in token_range:
            if not 0 <= extreme < size:
                raise ValueError(
                    f"input_ids must be in 0 .. {size - 1} (the vocabulary), got {extreme}. "
                    "Is this the tokenizer of this text encoder?"
                )

    def _prepared(
        self, inputs: tuple[Tensor, ...], lengths: Lengths
    ) -> tuple[tuple[Tensor, ...], Lengths]:
        """Returns ids and mask, real tokens first and without empty columns, and the lengths."""
        if not is_tracing():
            check_axes(
                dict(zip(("input_ids", "attention_mask"), inputs, strict=False)), parts=False
            )
        input_ids = inputs[0]
        mask = inputs[1].bool() if len(inputs) > 1 else torch.ones_like(input_ids).bool()
        if lengths is None and not is_tracing():
            facts = look({"input_ids": input_ids, "attention_mask": mask})
            lengths = facts.text_lengths
            self.check_texts(lengths, facts.token_range)
        pad_id = getattr(getattr(self.backbone, "config", None), "pad_token_id", None)
        input_ids, mask = real_tokens_first(input_ids, mask, 0 if pad_id is None else pad_id)
        if lengths is None:
            return (input_ids, mask), None
        longest = max(lengths, default=0)
        return (input_ids[:, :longest], mask[:, :longest]), lengths

    def _packing(self, mask: Tensor | None, lengths: Lengths) -> Packing | None:
        """Returns how to pack the batch; None where it stays padded."""
        if mask is None or not self.may_pack:
            return None
        return packing_of(
            mask,
            lengths=lengths,
            always=self.padding == "packed",
            in_graphs=self._packs_in_graphs,
            left_out=self._left_out,
        )

    def _make_adapter(self) -> Adapter:
        pooling = self.config.pooling or "mean"
        if self.config.source == "transformers":
            return transformers_text_adapter(self.backbone, pooling)
        if self.config.source == "open_clip":
            return open_clip_adapter(self.backbone)
        run = text_runner(pool_by(pooling))
        return OneBlock(self.backbone, declared_dim(self.backbone), run, keeps_mask=False)
