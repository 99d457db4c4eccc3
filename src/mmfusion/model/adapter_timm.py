"""The adapters for timm: vision transformers are walked by block, CNNs by stage."""

from collections.abc import Iterable
from typing import Any, final

import torch
from einops import rearrange
from timm.models import (
    convnext,
    densenet,
    efficientnet,
    mobilenetv3,
    pit,
    regnet,
    resnet,
    vgg,
    vision_transformer,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .adapter_base import Adapter, OneBlock, features_to_encoded
from .graph import evaluating
from .types import Encoded, Hidden, Lengths


@final
class TimmViT(Adapter):
    """The adapter for timm's VisionTransformer."""

    def __init__(self, module: Any):
        super().__init__(module, module.num_features, len(module.blocks))
        # Other classes of blocks may not accept `attn_mask`, which extra tokens need.
        self.takes_tokens = all(
            isinstance(block, vision_transformer.Block) for block in module.blocks
        )

    def forward(self, *inputs: Tensor, lengths: Lengths = None) -> Encoded:
        return self._encoded(self.module.forward_features(*inputs))

    def embed(self, *inputs: Tensor) -> Hidden:
        vit = self.module
        return Hidden(vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(*inputs)))))

    def block(self, index: int, hidden: Hidden) -> Hidden:
        # Pass no mask where every token is real: a mask can keep torch from its fastest kernel.
        options: dict[str, Any] = (
            {}
            if hidden.attended is None
            else {"attn_mask": rearrange(hidden.attended, "b n -> b 1 1 n")}
        )
        block = self.module.blocks[index]
        # timm checkpoints inside forward_features, which a walk by block does not call.
        if self.module.grad_checkpointing and torch.is_grad_enabled():
            return hidden._replace(
                values=checkpoint(block, hidden.values, use_reentrant=False, **options)
            )
        return hidden._replace(values=block(hidden.values, **options))

    def pool(self, hidden: Hidden) -> Encoded:
        return self._encoded(self.module.norm(hidden.values))

    def _encoded(self, tokens: Tensor) -> Encoded:
        pooled = self.module.forward_head(tokens, pre_logits=True)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        # A head may pool to another width (attention pooling, for example). The mean of the tokens
        # is then the vector of width D.
        return Encoded(tokens, mask, pooled if pooled.shape[-1] == self.dim else tokens.mean(1))

    def parts(self) -> tuple[list[list[nn.Module]], list[nn.Module]]:
        vit = self.module
        tail = [vit.norm, vit.fc_norm, *([vit.attn_pool] if vit.attn_pool is not None else [])]
        return [[block] for block in vit.blocks], tail

    def block_dims(self) -> list[int]:
        return [self.dim] * self.num_blocks


@final
class TimmStages(Adapter):
    """The adapter for a timm CNN that is walked by stage.

    Args:
        module: the model.
        stem: the modules before the first stage, in the order in which they run.
        stages: the stages, in the order in which they run.
        tail: the modules after the last stage, in the order in which they run.
    """

    def __init__(
        self, module: Any, stem: list[nn.Module], stages: list[nn.Module], tail: list[nn.Module]
    ):
        super().__init__(module, module.num_features, len(stages))
        self.stem, self.stages, self.tail = stem, stages, tail

    def forward(self, *inputs: Tensor, lengths: Lengths = None) -> Encoded:
        return self._encoded(self.module.forward_features(*inputs))

    def embed(self, *inputs: Tensor) -> Hidden:
        return Hidden(_run(self.stem, *inputs))

    def block(self, index: int, hidden: Hidden) -> Hidden:
        stage = self.stages[index]
        # timm checkpoints inside forward_features, which a walk by stage does not call.
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
        # A small picture is run through the walk, because no attribute of timm holds the width that
        # enters each stage for all of these families.
        with evaluating(self.module), torch.no_grad():
            values = torch.zeros(
                1, weight.shape[1], 64, 64, dtype=weight.dtype, device=weight.device
            )
            hidden = self.embed(values)
            for index in range(self.num_blocks):
                dims.append(hidden.values.shape[1])
                hidden = self.block(index, hidden)
        return dims


def timm_adapter(module: Any) -> Adapter:
    """Returns the adapter for a timm model.

    Args:
        module: the model, without its classifier.
    """
    # A subclass with a forward_features of its own may run other modules in another order, so only
    # models that inherit these exact methods are walked.
    own = type(module).forward_features
    if own is vision_transformer.VisionTransformer.forward_features:
        return TimmViT(module)
    stages = _timm_stages(module, own)
    if stages is not None:
        return TimmStages(module, *stages)
    adapter = OneBlock(module, module.num_features, _timm_encoded)
    if isinstance(module, pit.PoolingVisionTransformer):
        # Its features are class tokens alone, with no patches behind them.
        adapter.num_prefix = 0
    return adapter


def _timm_stages(
    module: Any, own: Any
) -> tuple[list[nn.Module], list[nn.Module], list[nn.Module]] | None:
    """Returns stem, stages and tail of a timm CNN; None if it cannot be walked.

    Args:
        module: the model.
        own: the forward_features of its class.
    """
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
        # timm keeps dense blocks and transitions in one flat list. A stage is one dense block and
        # the transition after it. The last dense block has no transition.
        children = dict(module.features.named_children())
        names = list(children)
        first = names.index("denseblock1")
        stages = [
            nn.Sequential(
                *(children[n] for n in (f"denseblock{i}", f"transition{i}") if n in children)
            )
            for i in range(1, 1 + sum(n.startswith("denseblock") for n in names))
        ]
        return [children[n] for n in names[:first]], stages, [children["norm5"]]
    if own is vgg.VGG.forward_features:
        layers = list(module.features)
        # A VGG has no named stages. Each max pooling ends one.
        ends = [i + 1 for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        return (
            [],
            [nn.Sequential(*layers[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)],
            [],
        )
    return None


def _timm_encoded(module: Any, pixels: Tensor) -> Encoded:
    """Returns the encoded pixels of a timm model that runs as one block."""
    features = module.forward_features(pixels)
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        kind = (
            type(features).__name__
            if not isinstance(features, Tensor)
            else f"a tensor {tuple(features.shape)}"
        )
        raise ValueError(
            f"{type(module).__name__} must be a backbone whose features are "
            "[B, N, D], [B, D, H, W] or [B, H, W, D], "
            f"got {kind}. Wrap it in a module of your own and register that with register_backbone."
        )
    # Pool before the rearrangement: the model's own head expects the layout of its own features.
    pooled = _timm_pooled(module, features)
    if features.ndim == 4 and getattr(module, "output_fmt", "NCHW") == "NHWC":
        features = rearrange(features, "b h w d -> b d h w")
    return features_to_encoded(features, module.num_features, pooled)


def _timm_pooled(module: Any, features: Tensor) -> Tensor | None:
    """Returns the model's own pooled vector (its class token or normed mean, for example).

    Returns None where that vector is not as wide as the features.
    """
    if getattr(module, "head_hidden_size", None) != module.num_features:
        return None
    pooled = module.forward_head(features, pre_logits=True)
    return pooled if pooled.shape == (features.shape[0], module.num_features) else None


def _run(modules: Iterable[nn.Module], values: Tensor) -> Tensor:
    """Returns the output of modules that run one after the other."""
    for module in modules:
        values = module(values)
    return values
