"""Encoder: the common part of image and text encoders, and the choice of what trains."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from operator import index
from typing import Any, Self, SupportsIndex

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .adapter_base import Adapter
from .configuration import EncoderConfig
from .graph import is_tracing
from .lora import check_adapters, default_targets, has_adapters, merge_adapters
from .packed_attention import attends_packed, use_packed_attention
from .packing import Packing, packing_of
from .single_value import let_single_values_pass
from .types import Encoded, Hidden, Lengths


class Encoder(nn.Module, ABC):
    """A backbone with its adapter, and the choice of which parts train.

    Attributes:
        config: the description from which the encoder is rebuilt.
        dim: width D of tokens and pooled vector.
        num_blocks: how many blocks the walk has (1 where the inside is unknown).
        takes_tokens: whether tokens of another modality may join its sequence between two blocks.
        num_prefix: how many tokens (class token, registers) stand before the patches.
        whole_batches: True keeps strategies from passing a batch through its blocks group by group.
            Set it for code that hooks layers and expects whole batches.
    """

    # Any: nn.Module declares what it holds as Tensor | Module.
    backbone: Any

    def __init__(self, config: EncoderConfig, backbone: nn.Module):
        super().__init__()
        self.config = config
        self.backbone = backbone
        self._adapter = self._make_adapter()
        self.dim: int = self._adapter.dim
        self.num_blocks: int = self._adapter.num_blocks
        self.takes_tokens: bool = self._adapter.takes_tokens
        self.num_prefix: int = self._adapter.num_prefix
        self.whole_batches = False
        self._frozen: list[nn.Module] = []
        if self._adapter.packs:
            use_packed_attention(backbone)
        let_single_values_pass(backbone)
        if not isinstance(backbone, PreTrainedModel):
            # transformers saves tied weights once, and ties them again, where it finds these names.
            tied = _tied_weights(backbone)
            self._tied_weights_keys = self.all_tied_weights_keys = {
                f"backbone.{name}": f"backbone.{first}" for name, first in tied.items()
            }
        # from_pretrained does not initialise unsaved buffers. Keep their first values here.
        self._unsaved_buffers = {
            name: buffer.clone()
            for name, buffer in _unsaved_buffers(backbone)
            if not buffer.is_meta
        }
        # transformers returns loaded backbones in evaluation mode, timm does not. A module that was
        # just made is in training mode as a whole.
        self.train()

    @abstractmethod
    def _make_adapter(self) -> Adapter:
        """Returns a new adapter for this backbone."""

    def renew_adapter(self) -> None:
        """Makes the adapter anew, after the pooling in the config has changed."""
        self._adapter = self._make_adapter()

    @property
    def adapter(self) -> Adapter:
        """The adapter of this encoder's backbone.

        A replica of nn.DataParallel needs a new adapter: the shared one uses device 0's backbone.
        """
        return self._make_adapter() if getattr(self, "_is_replica", False) else self._adapter

    @property
    def any_weight(self) -> Tensor:
        """One of its weights, which tells device and type.

        In a replica of nn.DataParallel nothing is a parameter, so the former parameters are looked
        through too.
        """
        return next(self._weights())

    def _weights(self) -> Iterator[Tensor]:
        """Yields its parameters, also in a replica of nn.DataParallel."""
        for module in self.modules():
            for name in ("_parameters", "_former_parameters"):
                held = getattr(module, name, {}).values()
                yield from (weight for weight in held if weight is not None)

    @property
    def dtype(self) -> torch.dtype | None:
        """The type of its weights, or None if it has none."""
        weight = next((one for one in self._weights() if one.is_floating_point()), None)
        return None if weight is None else weight.dtype

    @cached_property
    def block_dims(self) -> list[int]:
        """The width of the state that enters each block.

        The list is empty if the backbone can only run as a whole.
        """
        return self.adapter.block_dims()

    @property
    def num_frozen_blocks(self) -> int:
        """The number of leading blocks that are frozen, with the embedding before them."""
        trainable = self.config.trainable_blocks
        if self.config.lora or trainable is None:
            return 0
        return self.num_blocks - trainable

    @property
    def is_frozen(self) -> bool:
        """Whether nothing of it trains."""
        return self.config.trainable_blocks == 0 and not self.config.lora

    @property
    def has_adapters(self) -> bool:
        """Whether low-rank adapters stand beside some of its weights."""
        return has_adapters(self.backbone)

    @property
    def can_pack(self) -> bool:
        """Whether sequences of different lengths may pass its blocks in one row, without padding.

        See `mmfusion.model.packing`. A backbone that was given another attention than "sdpa"
        cannot.
        """
        return self.adapter.packs and attends_packed(self.backbone)

    def embed(self, *inputs: Tensor, lengths: Lengths = None) -> Hidden:
        """Returns the state that enters block 0.

        Args:
            *inputs: what its forward takes.
            lengths: as for `TextEncoder.forward`.
        """
        prepared, lengths = self._prepared(inputs, lengths)
        return self.adapter.embed(*prepared)._replace(lengths=lengths)

    def block(self, index: int, hidden: Hidden) -> Hidden:
        """Returns the state that leaves block `index`, from the one that enters it.

        Args:
            index: from 0.
            hidden: the state that enters it.
        """
        return self.adapter.block(index, hidden)

    def walk(self, start: int, stop: int, hidden: Hidden) -> Hidden:
        """Returns the state that enters block `stop`, from the one that enters block `start`.

        Args:
            start: from 0.
            stop: at most `num_blocks`.
            hidden: the state that enters block `start`.
        """
        packing = self._packing(hidden.mask, hidden.lengths) if stop > start else None
        if packing is None:
            return self.adapter.walk(start, stop, hidden)
        return self.adapter.walk_packed(start, stop, hidden, packing)

    def pool(self, hidden: Hidden) -> Encoded:
        """Returns the encoded input, from the state that leaves the last block.

        Args:
            hidden: that state.
        """
        return self.adapter.pool(hidden)

    def _prepared(
        self, inputs: tuple[Tensor, ...], lengths: Lengths
    ) -> tuple[tuple[Tensor, ...], Lengths]:
        """Returns the inputs as the backbone takes them, and how many real tokens each row has."""
        return inputs, lengths

    def _packing(self, mask: Tensor | None, lengths: Lengths) -> Packing | None:
        """Returns how a batch is packed; None where it stays padded or nothing is masked."""
        if mask is None or is_tracing() or not self.can_pack:
            return None
        return packing_of(mask, lengths=lengths, always=False)

    def freeze(self, *, keep_last: SupportsIndex = 0) -> Self:
        """Returns this encoder with all but its last `keep_last` blocks frozen.

        Frozen means: no gradient, and pinned to evaluation mode.

        Args:
            keep_last: how many blocks at the end still train, with what comes after them; 0 freezes
                all.

        Raises:
            ValueError: when there are not that many blocks.

        Example:
            >>> from mmfusion import ImageEncoder
            >>> encoder = ImageEncoder("resnet18", pretrained=False).freeze(keep_last=1)
            >>> encoder.num_frozen_blocks, encoder.num_blocks
            (3, 4)
        """
        keep_last = index(keep_last)
        if not 0 <= keep_last <= self.num_blocks:
            raise ValueError(
                f"keep_last must be in 0 .. {self.num_blocks} (the blocks), got {keep_last!r}. 0 "
                "freezes all."
            )
        self.config.trainable = keep_last or "frozen"
        self.backbone.requires_grad_(False)
        self._frozen = [self.backbone]
        if keep_last:
            blocks, tail = self.adapter.parts()
            last_blocks = blocks[self.num_blocks - keep_last :]
            training = [module for block in last_blocks for module in block] + tail
            kept = {id(inner) for module in training for inner in module.modules()}
            for module in training:
                module.requires_grad_(True)
            # A module that holds a training one, such as the backbone, is not pinned: `train` would
            # also put the training one in evaluation mode.
            self._frozen = [
                module
                for module in self.backbone.modules()
                if id(module) not in kept and not _holds(module, kept)
            ]
        return self.train(self.training)

    def unfreeze(self) -> Self:
        """Returns this encoder with every parameter training.

        With LoRA, only the adapters train, and the weights beside them stay frozen.
        """
        if self.config.lora:
            return self.train(self.training)
        self.config.trainable = "all"
        self._frozen = []
        self.backbone.requires_grad_(True)
        return self.train(self.training)

    def add_lora(
        self,
        *,
        r: int = 8,
        alpha: int = 16,
        dropout: float = 0.0,
        target_modules: list[str] | None = None,
    ) -> Self:
        """Returns this encoder with its weights frozen and low-rank adapters beside them.

        A layer W x becomes W x + (alpha / r) B A x.

        Args:
            r: rank of the adapters, at least 1.
            alpha: their scale is alpha / r.
            dropout: probability in [0, 1) on the adapters' input.
            target_modules: names of the modules that get one. None means every linear layer, or
                every ungrouped convolution of a backbone without linear layers.

        Raises:
            ValueError: when the encoder has adapters already.

        Source: Hu et al. 2021, LoRA (arXiv 2106.09685), eq. 3; done by peft.
        """
        if self.config.lora:
            raise ValueError(
                "add_lora must be called once, got a second call. Build the encoder anew for other "
                "adapters."
            )
        # Imported here, because it takes long and few encoders have adapters.
        import peft

        targets = default_targets(self.backbone) if target_modules is None else target_modules
        lora = peft.LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
        peft.inject_adapter_in_model(lora, self.backbone)
        self.config.lora = {
            "r": r,
            "alpha": alpha,
            "dropout": dropout,
            "target_modules": target_modules,
        }
        self.config.trainable = "frozen"
        self._mark_adapters()
        self._frozen = [self.backbone]
        return self.train(self.training)

    def merge_lora(self) -> Self:
        """Returns this encoder with its adapters added to the weights; no adapter is left.

        A weight W becomes W + (alpha / r) B A. The weights stay frozen; `unfreeze` lets them train.

        Raises:
            ValueError: when there are no adapters.
        """
        if not self.has_adapters:
            raise ValueError(
                "merge_lora must be called on an encoder with adapters, got one without. Call "
                "add_lora first."
            )
        merge_adapters(self.backbone)
        self.config.lora = None
        return self.freeze()

    def describe_adapters(self) -> None:
        """Makes the config say whether there are adapters. It is called before saving.

        Raises:
            ValueError: when the adapters cannot be saved as they are (`check_adapters`).
        """
        if not check_adapters(self.backbone, described=bool(self.config.lora)):
            self.config.lora = None

    def apply_training_config(self) -> Self:
        """Returns this encoder, frozen or with adapters as its config says."""
        lora, trainable = self.config.lora, self.config.trainable_blocks
        if lora:
            self.config.lora = None
            return self.add_lora(**lora)
        return self if trainable is None else self.freeze(keep_last=trainable)

    def restore_gradient_flags(self) -> None:
        """Sets requires_grad as the config says. Call it after a loader replaced the parameters."""
        trainable = self.config.trainable_blocks
        if self.config.lora:
            self._mark_adapters()
        elif trainable is not None:
            self.freeze(keep_last=trainable)

    def restore_unsaved_buffers(self) -> None:
        """Puts the buffers that are not saved back to their first values."""
        for name, value in self._unsaved_buffers.items():
            owner, _, leaf = name.rpartition(".")
            buffers = self.backbone.get_submodule(owner)._buffers
            held = buffers[leaf]
            assert held is not None
            buffers[leaf] = value.to(device=held.device, dtype=held.dtype, copy=True)

    def train(self, mode: bool = True) -> Self:
        """Returns this encoder in training or evaluation mode; frozen parts stay in evaluation.

        Args:
            mode: True for training mode.
        """
        super().train(mode)
        for module in self._frozen:
            if module is self.backbone:
                module.eval()
            else:
                # Only this module: `_frozen` lists its frozen children by themselves.
                module.training = False
        if self.config.lora:
            for name, module in self.backbone.named_modules():
                if "lora_dropout" in name:
                    module.train(mode)
        return self

    def _mark_adapters(self) -> None:
        """Lets LoRA's adapters train and nothing else."""
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_("lora_" in name)


def _unsaved_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    saved = set(module.state_dict())
    return [(name, buffer) for name, buffer in module.named_buffers() if name not in saved]


def _tied_weights(module: nn.Module) -> dict[str, str]:
    """Returns the names of parameters that are another one too, each with the first one's."""
    firsts: dict[int, str] = {}
    tied = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        first = firsts.setdefault(id(parameter), name)
        if first != name:
            tied[name] = first
    return tied


def _holds(module: nn.Module, ids: set[int]) -> bool:
    return any(id(inner) in ids for inner in module.modules())
