"""The Trainer of `fit`: exact losses, rates by what is pretrained, and distillation."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from ..model.loss import classification_loss, loss_options
from .distill import Distillation, watching


@final
class GroupedTrainer(Trainer):
    """The Trainer with exact losses, a rate of its own for pretrained parameters, and distillation.

    The Trainer averages the losses of batches. If batches hold unlike numbers of known labels, that
    average depends on the batch size. Here every known label weighs the same: over all batches of
    an optimizer step, on all processes, and over all rows of a validation.

    Attributes:
        distillation: adds the distance to the teachers to the loss; None for none.
    """

    distillation: Distillation | None = None
    _weights: Iterator[Tensor] = iter(())

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Returns the batches of one optimizer step, and weighs them by their known labels."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = [_known_labels(batch["labels"]) for batch in batches]
        is_multi = bool(batches) and batches[0]["labels"].is_floating_point()
        self._weights = iter(())
        # With one batch a step on one process there is nothing to weigh. Class numbers are always
        # known, and accelerate gives all processes batches of one size.
        if len(counts) > 1 or (is_multi and self.args.world_size > 1):
            mean = torch.stack(counts).sum() / len(counts)
            if self.args.world_size > 1:
                mean = self.accelerator.reduce(mean.to(device), reduction="mean")
            self._weights = iter([count.to(mean.device) / mean.clamp(min=1) for count in counts])
        return batches, items

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Returns the predictions and metrics of all rows, as the Trainer calls it."""
        output = super().evaluation_loop(*args, **kwargs)
        metrics = output.metrics or {}
        for name in metrics:
            if name.endswith("_loss") and output.label_ids is not None:
                model = self.accelerator.unwrap_model(self.model)
                logits, labels = (
                    torch.as_tensor(values) for values in (output.predictions, output.label_ids)
                )
                options = loss_options(model, model.config, training=False, device="cpu")
                metrics[name] = float(classification_loss(logits, labels, **options))
        return output

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Returns the loss, and the outputs if they are asked for, as the Trainer calls it."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        distilled = self.distillation
        watched: Any = watching(distilled.model) if distilled else nullcontext({})
        with watched as seen:
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        weight = next(self._weights, None)
        if weight is not None:
            loss = loss * weight.to(loss.device)
        if distilled:
            loss = loss + distilled.loss(seen, inputs)
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """Returns the optimizer; pretrained parameters are in groups of their own."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        rate = getattr(self.args, "pretrained_learning_rate", None)
        if rate is None or not is_new:
            return optimizer
        pretrained = {id(parameter) for parameter in _pretrained_parameters(self.model)}
        for group in list(optimizer.param_groups):
            options = {key: value for key, value in group.items() if key != "params"}
            moved = [p for p in group["params"] if id(p) in pretrained]
            group["params"] = [p for p in group["params"] if id(p) not in pretrained]
            if moved:
                optimizer.add_param_group(options | {"params": moved, "lr": rate})
        return optimizer


def _pretrained_parameters(model: Any) -> list[nn.Parameter]:
    """Returns the parameters of the encoders' backbones, without adapters."""
    found = []
    for name in model.modalities:
        for key, parameter in getattr(model, f"{name}_encoder").named_parameters():
            if "lora_" not in key:
                found.append(parameter)
    return found


def _known_labels(labels: Tensor) -> Tensor:
    """Returns how many labels of a batch are known, as a number of floating point."""
    if labels.is_floating_point():
        return (~labels.isnan()).sum().float()
    return torch.tensor(float(labels.numel()), device=labels.device)
