"""Encoder: what image and text encoders share, and what of them trains."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, Self

import peft
from torch import Tensor, nn

from .graph import is_static
from .packing import Packing, can_pack, packing_of, use_packed_attention
from .types import Encoded, Hidden


class Encoder(nn.Module, ABC):
    """What image and text encoders share: a backbone behind a family's adapter, and what of it trains.

    Attributes:
        config: the JSON-able description from which the encoder is rebuilt.
        dim: width D of tokens and pooled vector.
        num_blocks: how many blocks the walk has (1 where the inside is unknown).
        takes_tokens: whether tokens of another modality may join its sequence between two blocks.
        num_prefix: how many tokens (class token, registers) stand before the patches.
    """

    # Any: nn.Module declares what it holds as Tensor | Module.
    backbone: Any

    def __init__(self, name: object, config: dict[str, Any], backbone: nn.Module):
        super().__init__()
        self.config = config
        self.backbone = backbone
        self._family = self._make_family()
        self.dim: int = self.family.dim
        self.num_blocks: int = self.family.num_blocks
        self.takes_tokens: bool = self.family.takes_tokens
        self.num_prefix: int = self.family.num_prefix
        self._frozen: list[nn.Module] = []
        # from_pretrained leaves buffers that are not saved uninitialised: this is what they were
        # built as.
        self._unsaved_buffers = {
            n: b.clone() for n, b in _unsaved_buffers(backbone) if not b.is_meta
        }

    @abstractmethod
    def _make_family(self) -> Any:
        """The adapter for this backbone."""

    @property
    def family(self) -> Any:
        """The adapter of this encoder's backbone; a replica that nn.DataParallel makes gets one of its own."""
        return self._make_family() if getattr(self, "_is_replica", False) else self._family

    @property
    def any_weight(self) -> Tensor:
        """One of its weights, which tells device and type, in a replica of nn.DataParallel too, where nothing is a parameter."""
        held = (
            getattr(m, name, {})
            for m in self.modules()
            for name in ("_parameters", "_former_parameters")
        )
        return next(weight for weights in held for weight in weights.values() if weight is not None)

    @cached_property
    def block_dims(self) -> list[int]:
        """The width of the state that enters each block; empty where the blocks cannot be entered."""
        return self.family.block_dims()

    @property
    def num_frozen_blocks(self) -> int:
        """How many blocks, from the first, are frozen together with everything before them."""
        trainable = self.config.get("trainable", "all")
        if self.config.get("lora") or trainable == "all":
            return 0
        return self.num_blocks if trainable == "frozen" else self.num_blocks - int(trainable)

    @property
    def is_frozen(self) -> bool:
        """Whether nothing of it trains."""
        return self.config.get("trainable") == "frozen" and not self.config.get("lora")

    def block(self, index: int, hidden: Hidden) -> Hidden:
        """The state that leaves block `index`, from the one that enters it."""
        return self.family.block(index, hidden)

    @property
    def can_pack(self) -> bool:
        """Whether sequences of different lengths may pass its blocks in one row, without padding (see `mmfusion.model.packing`)."""
        return hasattr(self.family, "walk_packed") and can_pack(self.backbone)

    def _packing(self, mask: Tensor | None) -> Packing | None:
        """How a batch of sequences is packed; None where it stays padded, and where nothing is masked."""
        return None if is_static() else self._packed(mask)

    def _packed(
        self, mask: Tensor | None, *, always: bool = False, in_graphs: bool = False
    ) -> Packing | None:
        """`packing_of`, with the backbone's attention made ready for it; None where the backbone cannot pack."""
        if mask is None or not self.can_pack:
            return None
        packing = packing_of(mask, always=always, in_graphs=in_graphs)
        if packing is not None:
            use_packed_attention(self.backbone)
        return packing

    def walk(self, start: int, stop: int, hidden: Hidden) -> Hidden:
        """The state that enters block `stop`, from the one that enters block `start`."""
        packing = self._packing(hidden.mask) if stop > start else None
        if packing is None:
            return self.family.walk(start, stop, hidden)
        return self.family.walk_packed(start, stop, hidden, packing)

    def pool(self, hidden: Hidden) -> Encoded:
        """The encoded input, from the state that leaves the last block."""
        return self.family.pool(hidden)

    def freeze(self, *, keep_last: int = 0) -> Self:
        """This encoder with all but its last `keep_last` blocks frozen: no gradient, and pinned to eval.

        Args:
            keep_last: how many blocks at the end still train, with what comes after them; 0 freezes
                everything.

        Raises:
            ValueError: when there are not that many blocks.

        Example:
            >>> from mmfusion import ImageEncoder
            >>> encoder = ImageEncoder("resnet18", pretrained=False).freeze(keep_last=1)
            >>> encoder.num_frozen_blocks, encoder.num_blocks
            (3, 4)
        """
        if not 0 <= keep_last <= self.num_blocks:
            raise ValueError(
                f"keep_last must be in 0 .. {self.num_blocks} (the blocks), got {keep_last!r}. 0 freezes all."
            )
        self.config["trainable"] = keep_last or "frozen"
        self.backbone.requires_grad_(False)
        self._frozen = [self.backbone]
        if keep_last:
            blocks, tail = self.family.parts()
            training = [
                module for block in blocks[self.num_blocks - keep_last :] for module in block
            ] + tail
            kept = {id(inner) for module in training for inner in module.modules()}
            for module in training:
                module.requires_grad_(True)
            self._frozen = [
                m for m in self.backbone.modules() if id(m) not in kept and not _holds(m, kept)
            ]
        return self.train(self.training)

    def unfreeze(self) -> Self:
        """This encoder with every parameter training (those of LoRA's base excepted: see `add_lora`)."""
        self.config["trainable"] = "all"
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
        """This encoder with its weights frozen and low-rank adapters beside them: W x + (alpha / r) B A x.

        Args:
            r: rank of the adapters, at least 1.
            alpha: their scale is alpha / r.
            dropout: probability in [0, 1) on the adapters' input.
            target_modules: names of the modules that get one; None means every linear layer, or
                every ungrouped convolution of a backbone that has none.

        Raises:
            ValueError: when the encoder has adapters already.

        Source: Hu et al. 2021, LoRA (arXiv 2106.09685), eq. 3; done by peft.
        """
        if self.config.get("lora"):
            raise ValueError(
                "add_lora must be called once, got a second call. Build the encoder anew for other adapters."
            )
        targets = _lora_targets(self.backbone) if target_modules is None else target_modules
        lora = peft.LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
        peft.inject_adapter_in_model(lora, self.backbone)
        self.config["lora"] = {
            "r": r,
            "alpha": alpha,
            "dropout": dropout,
            "target_modules": target_modules,
        }
        self.config["trainable"] = "frozen"
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_("lora_" in name)
        self._frozen = [self.backbone]
        return self.train(self.training)

    def apply_training_config(self) -> Self:
        """This encoder, frozen or with adapters as its config says."""
        trainable, lora = self.config.get("trainable", "all"), self.config.get("lora")
        if lora:
            del self.config["lora"]
            return self.add_lora(**lora)
        if trainable == "all":
            return self
        return self.freeze(keep_last=0 if trainable == "frozen" else int(trainable))

    def restore_gradient_flags(self) -> None:
        """Set requires_grad as the config says, after a loader that replaced the parameters."""
        if self.config.get("lora"):
            for name, parameter in self.backbone.named_parameters():
                parameter.requires_grad_("lora_" in name)
        elif self.config.get("trainable", "all") != "all":
            self.freeze(keep_last=0 if self.is_frozen else int(self.config["trainable"]))

    def restore_unsaved_buffers(self) -> None:
        """Put the buffers that are not saved back to what they were built as."""
        for name, value in self._unsaved_buffers.items():
            owner, _, leaf = name.rpartition(".")
            buffers = self.backbone.get_submodule(owner)._buffers
            held = buffers[leaf]
            assert held is not None
            buffers[leaf] = value.to(device=held.device, dtype=held.dtype, copy=True)

    def train(self, mode: bool = True) -> Self:
        """This encoder in training or evaluation mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            # A frozen whole is pinned with all it holds, a frozen part of a trainable whole by
            # itself.
            (
                module.eval
                if module is self.backbone
                else lambda m=module: setattr(m, "training", False)
            )()
        if self.config.get("lora"):
            for name, module in self.backbone.named_modules():
                if "lora_dropout" in name:
                    module.train(mode)
        return self


def _unsaved_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    saved = set(module.state_dict())
    return [(name, buffer) for name, buffer in module.named_buffers() if name not in saved]


def _holds(module: nn.Module, ids: set[int]) -> bool:
    return any(id(inner) in ids for inner in module.modules())


def _lora_targets(module: nn.Module) -> list[str]:
    linear = [name for name, inner in module.named_modules() if isinstance(inner, nn.Linear)]
    convolutions = [
        n
        for n, inner in module.named_modules()
        if isinstance(inner, nn.Conv2d) and inner.groups == 1
    ]
    return linear or convolutions
