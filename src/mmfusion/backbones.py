"""Backbone families: one small adapter each, so that a tower can be run whole or walked block by block.

A tower is walked as embed -> block 0 .. block n-1 -> pool, and that walk equals the backbone's own forward. A backbone whose
inside is unknown is one block.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from einops import rearrange
from timm.models import convnext, densenet, efficientnet, mobilenetv3, regnet, resnet, vgg, vision_transformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask

from .configuration import closest
from .modes import evaluating
from .outputs import Encoded, Hidden, masked_mean
from .packing import Packing


class Family(ABC):
    """How one family of backbones is run.

    Attributes:
        module: the backbone.
        dim: width D of tokens and pooled vector.
        num_blocks: how many blocks the walk has.
        takes_tokens: whether tokens of another modality may join the sequence between two blocks.
        num_prefix: how many tokens (class token, registers) stand before the patches.
    """

    takes_tokens = False
    num_prefix = 0
    # Any: each family reaches for the parts of its own backbone, which nn.Module declares as Tensor | Module.
    module: Any
    layers: Any

    def __init__(self, module: nn.Module, dim: int, num_blocks: int):
        self.module = module
        self.dim = dim
        self.num_blocks = num_blocks

    @abstractmethod
    def forward(self, *inputs: Tensor) -> Encoded:
        """The encoded input, by the backbone's own forward."""

    @abstractmethod
    def embed(self, *inputs: Tensor) -> Hidden:
        """The state that enters block 0."""

    @abstractmethod
    def block(self, index: int, hidden: Hidden) -> Hidden:
        """The state that leaves block `index`."""

    def walk(self, start: int, stop: int, hidden: Hidden) -> Hidden:
        """The state that enters block `stop`, from the one that enters block `start`."""
        for index in range(start, stop):
            hidden = self.block(index, hidden)
        return hidden

    @abstractmethod
    def pool(self, hidden: Hidden) -> Encoded:
        """The encoded input, from the state that leaves the last block."""

    @abstractmethod
    def parts(self) -> tuple[list[list[nn.Module]], list[nn.Module]]:
        """The modules of each block, and those that come after the last one."""

    @abstractmethod
    def block_dims(self) -> list[int]:
        """The width of the state that enters each block; empty where the blocks cannot be entered."""


class OneBlock(Family):
    """A backbone whose inside is unknown: its whole forward is block 0.

    Args:
        module: the backbone.
        dim: width of its output.
        run: called with the module and the inputs; gives the `Encoded`. It holds no module of its own, so that a copy runs
            the copy.
    """

    def __init__(self, module: nn.Module, dim: int, run: Callable[..., Encoded]):
        super().__init__(module, dim, 1)
        self.run = run

    def forward(self, *inputs: Tensor) -> Encoded:
        return self.run(self.module, *inputs)

    def embed(self, *inputs: Tensor) -> Hidden:
        return Hidden(inputs[0], inputs[1].bool() if len(inputs) > 1 else None)

    def block(self, index: int, hidden: Hidden) -> Hidden:
        return Hidden(*self.run(self.module, *(x for x in hidden[:2] if x is not None)))

    def pool(self, hidden: Hidden) -> Encoded:
        assert hidden.mask is not None and hidden.pooled is not None
        return Encoded(hidden.values, hidden.mask, hidden.pooled)

    def parts(self) -> tuple[list[list[nn.Module]], list[nn.Module]]:
        return [[self.module]], []

    def block_dims(self) -> list[int]:
        return []


class TimmViT(Family):
    """timm's VisionTransformer."""

    def __init__(self, module: Any):
        super().__init__(module, module.num_features, len(module.blocks))
        self.takes_tokens = all(isinstance(block, vision_transformer.Block) for block in module.blocks)
        self.num_prefix = module.num_prefix_tokens

    def forward(self, *inputs: Tensor) -> Encoded:
        return self._encoded(self.module.forward_features(*inputs))

    def embed(self, *inputs: Tensor) -> Hidden:
        vit = self.module
        return Hidden(vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(*inputs)))))

    def block(self, index: int, hidden: Hidden) -> Hidden:
        # A mask in which every token is real would only cost the fused attention kernel.
        options: dict[str, Any] = {} if hidden.mask is None else {"attn_mask": rearrange(hidden.mask, "b n -> b 1 1 n")}
        block = self.module.blocks[index]
        if self.module.grad_checkpointing and torch.is_grad_enabled():
            return hidden._replace(values=checkpoint(block, hidden.values, use_reentrant=False, **options))
        return hidden._replace(values=block(hidden.values, **options))

    def pool(self, hidden: Hidden) -> Encoded:
        return self._encoded(self.module.norm(hidden.values))

    def _encoded(self, tokens: Tensor) -> Encoded:
        pooled = self.module.forward_head(tokens, pre_logits=True)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        # A head that widens (attention pooling of another width) leaves the mean as the vector of width D.
        return Encoded(tokens, mask, pooled if pooled.shape[-1] == self.dim else tokens.mean(1))

    def parts(self) -> tuple[list[list[nn.Module]], list[nn.Module]]:
        vit = self.module
        tail = [vit.norm, vit.fc_norm, *([vit.attn_pool] if vit.attn_pool is not None else [])]
        return [[block] for block in vit.blocks], tail

    def block_dims(self) -> list[int]:
        return [self.dim] * self.num_blocks


class TimmStages(Family):
    """A timm CNN, walked by stage: stem, stages, tail, each a list of modules run in order."""

    def __init__(self, module: Any, stem: list[nn.Module], stages: list[nn.Module], tail: list[nn.Module]):
        super().__init__(module, module.num_features, len(stages))
        self.stem, self.stages, self.tail = stem, stages, tail

    def forward(self, *inputs: Tensor) -> Encoded:
        return self._encoded(self.module.forward_features(*inputs))

    def embed(self, *inputs: Tensor) -> Hidden:
        return Hidden(_run(self.stem, *inputs))

    def block(self, index: int, hidden: Hidden) -> Hidden:
        stage = self.stages[index]
        if getattr(self.module, "grad_checkpointing", False) and torch.is_grad_enabled():
            return hidden._replace(values=checkpoint(stage, hidden.values, use_reentrant=False))
        return hidden._replace(values=stage(hidden.values))

    def pool(self, hidden: Hidden) -> Encoded:
        return self._encoded(_run(self.tail, hidden.values))

    def _encoded(self, features: Tensor) -> Encoded:
        return features_to_encoded(features, self.dim, _timm_pooled(self.module, features))

    def parts(self) -> tuple[list[list[nn.Module]], list[nn.Module]]:
        return [[stage] for stage in self.stages], self.tail

    def block_dims(self) -> list[int]:
        weight = next(self.module.parameters())
        dims = []
        with evaluating(self.module), torch.no_grad():
            values = torch.zeros(1, weight.shape[1], 64, 64, dtype=weight.dtype, device=weight.device)
            hidden = self.embed(values)
            for index in range(self.num_blocks):
                dims.append(hidden.values.shape[1])
                hidden = self.block(index, hidden)
        return dims


class HfViT(Family):
    """transformers' ViT and DeiT."""

    takes_tokens = True

    def __init__(self, module: Any):
        self.layers = module.layers if hasattr(module, "layers") else module.encoder.layer
        super().__init__(module, module.config.hidden_size, len(self.layers))
        self.num_prefix = prefix_tokens(module)

    def forward(self, *inputs: Tensor) -> Encoded:
        return self._encoded(self.module(*inputs).last_hidden_state)

    def embed(self, *inputs: Tensor) -> Hidden:
        return Hidden(self.module.embeddings(*inputs))

    def block(self, index: int, hidden: Hidden) -> Hidden:
        mask = None
        if hidden.mask is not None:
            mask = create_bidirectional_mask(self.module.config, hidden.values, hidden.mask)
        return hidden._replace(values=_first(self.layers[index](hidden.values, mask)))

    def pool(self, hidden: Hidden) -> Encoded:
        return self._encoded(self.module.layernorm(hidden.values))

    def _encoded(self, tokens: Tensor) -> Encoded:
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return Encoded(tokens, mask, tokens[:, 0])

    def parts(self) -> tuple[list[list[nn.Module]], list[nn.Module]]:
        return [[layer] for layer in self.layers], [self.module.layernorm]

    def block_dims(self) -> list[int]:
        return [self.dim] * self.num_blocks


class HfText(Family):
    """transformers' BERT-like text encoders: embeddings, layers, and (ModernBERT) a final norm.

    Texts arrive with their real tokens first (see `TextEncoder`), so the positions are 0, 1, 2 ... plus the offset of the family.

    Args:
        module: BertModel, RobertaModel, DistilBertModel, MPNetModel, ModernBertModel or a model of the same build.
        pool_tokens: (tokens, mask) -> pooled.
    """

    def __init__(self, module: Any, pool_tokens: Callable[[Tensor, Tensor], Tensor]):
        layers = {"distilbert": lambda: module.transformer.layer, "modernbert": lambda: module.layers}
        self.kind = module.config.model_type
        self.layers = layers.get(self.kind, lambda: module.encoder.layer)()
        self.pool_tokens = pool_tokens
        super().__init__(module, module.config.hidden_size, len(self.layers))

    def forward(self, *inputs: Tensor) -> Encoded:
        input_ids, mask = inputs
        tokens = self.module(input_ids=input_ids, attention_mask=mask, position_ids=self._positions(input_ids))[0]
        return Encoded(tokens, mask, self.pool_tokens(tokens, mask))

    def forward_packed(self, input_ids: Tensor, mask: Tensor, packing: Packing) -> Encoded:
        """What `forward` gives, computed on the real tokens alone; zero in the padding."""
        row = self.module(
            input_ids=packing.pack(input_ids),
            attention_mask=packing.row_mask,
            position_ids=packing.positions + position_offset(self.module),
            packing=packing,
        )[0]
        tokens = packing.unpack(row)
        return Encoded(tokens, mask, self.pool_tokens(tokens, mask))

    def walk_packed(self, start: int, stop: int, hidden: Hidden, packing: Packing) -> Hidden:
        """What `walk` gives, computed on the real tokens alone; zero in the padding."""
        row = packing.pack(hidden.values)
        for layer in self.layers[start:stop]:
            options = self._rotary(layer, row, packing.positions)
            row = _first(layer(row, attention_mask=packing.row_mask, packing=packing, **options))
        return hidden._replace(values=packing.unpack(row))

    def embed(self, *inputs: Tensor) -> Hidden:
        input_ids, mask = inputs
        # ModernBERT's positions are rotary: they enter in its layers.
        options = {} if self.kind == "modernbert" else {"position_ids": self._positions(input_ids)}
        return Hidden(self.module.embeddings(input_ids=input_ids, **options), mask)

    def block(self, index: int, hidden: Hidden) -> Hidden:
        layer, values = self.layers[index], hidden.values
        options = self._rotary(layer, values, torch.arange(values.shape[1], device=values.device).unsqueeze(0))
        if self.kind == "mpnet":
            options["position_bias"] = self.module.encoder.compute_position_bias(values)
            assert hidden.mask is not None
            mask: Any = torch.zeros_like(hidden.mask, dtype=values.dtype).masked_fill(~hidden.mask, torch.finfo(values.dtype).min)
            mask = rearrange(mask, "b l -> b 1 1 l")
        else:
            is_local = self.kind == "modernbert" and layer.attention_type == "sliding_attention"
            make_mask = create_bidirectional_sliding_window_mask if is_local else create_bidirectional_mask
            mask = make_mask(self.module.config, values, hidden.mask)
        return hidden._replace(values=_first(layer(values, attention_mask=mask, **options)))

    def _rotary(self, layer: Any, values: Tensor, positions: Tensor) -> dict[str, Any]:
        """The rotary embedding that ModernBERT's layers are given; nothing for the others."""
        if self.kind != "modernbert":
            return {}
        return {"position_embeddings": self.module.rotary_emb(values, positions, layer.attention_type)}

    def pool(self, hidden: Hidden) -> Encoded:
        assert hidden.mask is not None
        tokens = self.module.final_norm(hidden.values) if self.kind == "modernbert" else hidden.values
        return Encoded(tokens, hidden.mask, self.pool_tokens(tokens, hidden.mask))

    def parts(self) -> tuple[list[list[nn.Module]], list[nn.Module]]:
        return [[layer] for layer in self.layers], [self.module.final_norm] if self.kind == "modernbert" else []

    def block_dims(self) -> list[int]:
        return [self.dim] * self.num_blocks

    def _positions(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device) + position_offset(self.module)
        return positions.unsqueeze(0).expand(input_ids.shape)


WALKED_TEXT = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet", "modernbert")
"""transformers' model types whose text encoder is walked layer by layer; any other one is one block."""

WALKED_VIT = ("vit", "deit")
"""transformers' model types whose vision encoder is walked layer by layer; any other one is one block."""


def position_offset(module: nn.Module) -> int:
    """The position id of a text's first token: 0, or (RoBERTa and its kin) one more than the padding id."""
    padding = getattr(getattr(module, "embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def timm_family(module: Any) -> Family:
    """The adapter for a timm model."""
    own = type(module).forward_features
    if own is vision_transformer.VisionTransformer.forward_features:
        return TimmViT(module)
    stages = _timm_stages(module, own)
    if stages is not None:
        return TimmStages(module, *stages)
    return OneBlock(module, module.num_features, _timm_encoded)


def _timm_stages(module: Any, own: Any) -> tuple[list[nn.Module], list[nn.Module], list[nn.Module]] | None:
    """Stem, stages and tail of the timm CNNs that can be walked; `own` is the model's forward_features."""
    if own is resnet.ResNet.forward_features:
        stages = [module.layer1, module.layer2, module.layer3, module.layer4]
        return [module.conv1, module.bn1, module.act1, module.maxpool], stages, []
    if own is efficientnet.EfficientNet.forward_features:
        return [module.conv_stem, module.bn1], list(module.blocks), [module.conv_head, module.bn2]
    if own is mobilenetv3.MobileNetV3.forward_features:
        return [module.conv_stem, module.bn1], list(module.blocks), []
    if own is convnext.ConvNeXt.forward_features:
        return [module.stem], list(module.stages), [module.norm_pre]
    if own is regnet.RegNet.forward_features:
        return [module.stem], [module.s1, module.s2, module.s3, module.s4], [module.final_conv]
    if own is densenet.DenseNet.forward_features:
        children = dict(module.features.named_children())
        names = list(children)
        first = names.index("denseblock1")
        stages = [
            nn.Sequential(*(children[n] for n in (f"denseblock{i}", f"transition{i}") if n in children))
            for i in range(1, 1 + sum(n.startswith("denseblock") for n in names))
        ]
        return [children[n] for n in names[:first]], stages, [children["norm5"]]
    if own is vgg.VGG.forward_features:
        layers = list(module.features)
        ends = [i + 1 for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        return [], [nn.Sequential(*layers[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)], []
    return None


def _timm_encoded(module: Any, pixels: Tensor) -> Encoded:
    features = module.forward_features(pixels)
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        kind = type(features).__name__ if not isinstance(features, Tensor) else f"a tensor {tuple(features.shape)}"
        raise ValueError(
            f"{type(module).__name__} must be a backbone whose features are [B, N, D], [B, D, H, W] or [B, H, W, D], "
            f"got {kind}. Wrap it in a module of your own and register that with register_backbone."
        )
    pooled = _timm_pooled(module, features)
    if features.ndim == 4 and getattr(module, "output_fmt", "NCHW") == "NHWC":
        features = rearrange(features, "b h w d -> b d h w")
    return features_to_encoded(features, module.num_features, pooled)


def _timm_pooled(module: Any, features: Tensor) -> Tensor | None:
    """What the timm model itself pools (a class token, a normed mean), where that is as wide as its features."""
    if getattr(module, "head_hidden_size", None) != module.num_features:
        return None
    pooled = module.forward_head(features, pre_logits=True)
    return pooled if pooled.shape == (features.shape[0], module.num_features) else None


def features_to_encoded(features: Tensor, dim: int, pooled: Tensor | None = None) -> Encoded:
    """Encoded from a feature map [B, D, H, W] or from tokens [B, N, D]; `pooled` is the mean where none is given.

    Raises:
        ValueError: when the features are not `dim` wide.
    """
    tokens = rearrange(features, "b d h w -> b (h w) d") if features.ndim == 4 else features
    if tokens.shape[-1] != dim:
        raise ValueError(f"features must be {dim} wide, got {tuple(features.shape)}. Is the backbone's declared width right?")
    mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    return Encoded(tokens, mask, tokens.mean(1) if pooled is None else pooled)


def hf_image_family(module: Any) -> Family:
    """The adapter for a transformers vision model."""
    if module.config.model_type in WALKED_VIT:
        return HfViT(module)
    dim = hf_width(module)
    prefix = prefix_tokens(module)

    def run(module: nn.Module, pixels: Tensor) -> Encoded:
        features = module(pixels).last_hidden_state
        encoded = features_to_encoded(features, dim)
        return encoded._replace(pooled=features[:, 0]) if prefix and features.ndim == 3 else encoded

    return OneBlock(module, dim, run)


def hf_text_family(module: Any, pool_tokens: Callable[[Tensor, Tensor], Tensor]) -> Family:
    """The adapter for a transformers text encoder."""
    if module.config.model_type in WALKED_TEXT:
        return HfText(module, pool_tokens)
    return OneBlock(module, hf_width(module), text_runner(pool_tokens))


def text_runner(pool_tokens: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Encoded]:
    """(module, input_ids, mask) -> Encoded, by a module that returns tokens [B, L, D], an `Encoded` or a transformers output."""

    def run(module: nn.Module, input_ids: Tensor, mask: Tensor) -> Encoded:
        output = module(input_ids=input_ids, attention_mask=mask.long())
        if isinstance(output, Encoded):
            return output
        tokens = output if isinstance(output, Tensor) else output[0]
        return Encoded(tokens, mask.bool(), pool_tokens(tokens, mask.bool()))

    return run


def hf_width(module: Any) -> int:
    """The width of a transformers model's last hidden state."""
    config = module.config
    if getattr(config, "hidden_sizes", None):
        return int(config.hidden_sizes[-1])
    for name in ("hidden_size", "hidden_dim", "num_features", "d_model"):
        if isinstance(getattr(config, name, None), int):
            return int(getattr(config, name))
    raise ValueError(
        f"{type(module).__name__} must be a backbone whose config tells its width (hidden_size), got {type(config).__name__}. "
        "Wrap it in a module of your own and register that with register_backbone."
    )


def pool_by(kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """(tokens, mask) -> pooled: the mean over real tokens, or the first real token.

    Raises:
        ValueError: when `kind` is neither "mean" nor "cls".
    """
    pools: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": masked_mean, "cls": lambda tokens, mask: tokens[:, 0]}
    if kind not in pools:
        raise ValueError(f"pooling must be 'mean' or 'cls', got {kind!r}. {closest(kind, list(pools))}")
    return pools[kind]


def prefix_tokens(module: Any) -> int:
    """How many tokens (class token, registers) a transformers vision model puts before its patches."""
    embeddings = getattr(module, "embeddings", module)
    names = ("cls_token", "class_embedding", "distillation_token")
    registers = getattr(module.config, "num_register_tokens", 0) or 0
    return sum(getattr(embeddings, name, None) is not None for name in names) + registers


def _run(modules: Iterable[nn.Module], values: Tensor) -> Tensor:
    for module in modules:
        values = module(values)
    return values


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
