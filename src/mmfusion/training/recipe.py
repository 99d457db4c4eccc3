"""The recipe: the defaults of a training, which depend on how much of the encoders trains.

| trains | meaning |
| --- | --- |
| `frozen` | no encoder trains; only what is new does: mapper, strategy, probes |
| `lora` | adapters inside an encoder train, and what is new |
| `last` | the last blocks of an encoder train, and what is new |
| `all` | all of an encoder trains, and what is new |
"""

from dataclasses import dataclass, field
from typing import Any, final

from torch import nn
from transformers import Trainer, TrainingArguments

from ..model.encoder_base import Encoder
from ..model.modeling import FusionClassifier
from .distill import Distillation, watching


@final
@dataclass(frozen=True)
class Recipe:
    """The defaults of a training.

    Attributes:
        learning_rate: the peak rate of new parameters (AdamW).
        pretrained_learning_rate: the peak rate of pretrained parameters; None where none train.
        weight_decay: of AdamW; biases and norms have none.
        epochs: the largest number of epochs.
        patience: validations without improvement after which the training ends.
    """

    learning_rate: float
    pretrained_learning_rate: float | None
    weight_decay: float
    epochs: int
    patience: int


RECIPES: dict[str, Recipe] = {
    # The probes hold what is linear in the embeddings, and mapper and strategy learn the rest. The
    # rate was chosen from 1e-3, 3e-4, 1e-4 and 3e-5 by the validation loss of 4 rows on 3 folds of
    # the study's published protocol: with 1e-4 it fell below that of the start in 9 of 10
    # trainings, with 1e-3 in 6.
    "frozen": Recipe(1e-4, None, 0.05, epochs=30, patience=5),
    # Adapters start at zero and are new, too.
    "lora": Recipe(5e-4, None, 0.05, epochs=15, patience=4),
    # The rate of pretrained parameters is the usual one of BERT (Devlin et al. 2019, appendix A.3:
    # 2e-5 to 5e-5). A higher one forgets the pretraining.
    "last": Recipe(5e-4, 5e-5, 0.05, epochs=15, patience=4),
    "all": Recipe(5e-4, 5e-5, 0.05, epochs=15, patience=4),
}
"""The table of defaults: what trains -> recipe."""


@final
@dataclass
class FusionArguments(TrainingArguments):
    """`TrainingArguments` of transformers with what the recipe adds.

    Attributes:
        pretrained_learning_rate: the peak rate of pretrained parameters. None: `learning_rate`.
        patience: as for `mmfusion.fit`, which uses it where it gets no patience of its own.
    """

    pretrained_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of pretrained parameters."}
    )
    patience: int | None = field(
        default=None, metadata={"help": "Validations without improvement that end the training."}
    )


def what_trains(model: FusionClassifier) -> str:
    """Returns the name of the recipe for a classifier, a key of `RECIPES`.

    With two encoders, the name is that of the one that trains more.

    Args:
        model: the classifier, with its encoders frozen or not.
    """
    kinds = [_kind(getattr(model, f"{name}_encoder")) for name in model.modalities]
    return max(kinds, key=list(RECIPES).index)


def _kind(encoder: Encoder) -> str:
    if encoder.config.lora is not None:
        return "lora"
    blocks = encoder.config.trainable_blocks
    return "all" if blocks is None else "last" if blocks else "frozen"


def is_solved_by_probes(model: FusionClassifier) -> bool:
    """Returns whether a classifier has learned all it can once its probes are solved.

    That is so if no encoder trains, and the logits are a linear function of the pooled vectors. It
    is not so if the config asks for noise or for another loss while training.

    Args:
        model: the classifier.
    """
    config = model.config
    if config.modality_dropout or config.head_dropout or config.auxiliary_loss_weight:
        return False
    if what_trains(model) != "frozen":
        return False
    return len(model.modalities) < 2 or bool(model.fusion.is_linear(model.mapper))


@final
class GroupedTrainer(Trainer):
    """The Trainer with a learning rate of its own for pretrained parameters, and distillation.

    Attributes:
        distillation: adds the distance to the teachers to the loss; None for none.
    """

    distillation: Distillation | None = None

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Returns the loss, and the outputs if they are asked for, as the Trainer calls it."""
        if self.distillation is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with watching(self.distillation.model) as seen:
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss = loss + self.distillation.loss(seen, inputs)
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
