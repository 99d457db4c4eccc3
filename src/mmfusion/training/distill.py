"""Distillation from single-modality models into the encoders of a fused model.

In a fused model, the modality that is learned faster can keep the encoder of the other one from
learning (modality laziness). A teacher for each modality, trained before, holds its encoder to what
the modality alone can tell.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.fusion_base import Probe
from ..model.graph import evaluating
from ..model.modalities import MODALITIES
from ..model.modeling import FusionClassifier

Seen = dict[str, tuple[Tensor, Tensor]]
"""Modality -> the pooled vectors [B, D] that a probe got, and which samples have it [B]."""


@final
class Distillation:
    """The distance between the pooled vectors of a fused model and those of its teachers.

    For each modality with a teacher it is the mean of (LN(v) - LN(t))^2 over the entries of the
    pooled vectors v (of the model) and t (of the teacher), over the samples that have the modality.

    Args:
        model: the fused classifier.
        teachers: modality -> a trained classifier of that modality alone, with an encoder of the
            same width.
        weight: the factor of the distance in the loss, above 0.

    Raises:
        ValueError: if the model is not fused, a teacher is of another modality or width, an encoder
            with a teacher is frozen, or the weight is not positive.

    Source:
        Du et al. 2023, On Uni-Modal Feature Learning in Supervised Multi-Modal Learning, arXiv
        2305.01233, section 4.1 (Uni-Modal Teacher).
    """

    def __init__(
        self,
        model: FusionClassifier,
        teachers: Mapping[str, FusionClassifier],
        weight: float,
    ):
        if not weight > 0:
            raise ValueError(f"distillation must be above 0, got {weight!r}.")
        if len(model.modalities) < 2:
            raise ValueError(
                f"teachers must be left out for a classifier of {model.modalities[0]} alone."
            )
        for name, teacher in teachers.items():
            if teacher.modalities != (name,):
                raise ValueError(
                    f"teachers must be classifiers of one modality under its name, got one of "
                    f"{teacher.modalities} under {name!r}."
                )
            own, other = (getattr(one, f"{name}_encoder") for one in (model, teacher))
            if own.dim != other.dim:
                raise ValueError(
                    f"the teacher of {name!r} must have an encoder of width {own.dim}, "
                    f"got {other.dim}. Use the same encoder."
                )
            if own.is_frozen:
                raise ValueError(
                    f"the {name} encoder must train if it has a teacher, got a frozen one."
                )
        self.model, self.teachers, self.weight = model, dict(teachers), weight

    def loss(self, seen: Seen, inputs: Mapping[str, Any]) -> Tensor:
        """Returns the weighted distance of one batch; zero if no sample has a taught modality.

        Args:
            seen: by the fused model, as `watching` collects it.
            inputs: of the batch.
        """
        total = next(iter(seen.values()))[0].new_zeros((), dtype=torch.float32)
        for name, teacher in self.teachers.items():
            vectors, present = seen[name]
            rows = present.nonzero().flatten()
            if not len(rows):
                continue
            taught = _taught(teacher, name, inputs, rows)
            width = vectors.shape[-1:]
            own, other = (F.layer_norm(v.float(), width) for v in (vectors[rows], taught))
            total = total + F.mse_loss(own, other)
        return self.weight * total


@contextmanager
def watching(model: FusionClassifier) -> Iterator[Seen]:
    """Yields a dict that gets the pooled vectors of each modality when the model runs.

    Args:
        model: a classifier; its probes read these vectors.
    """
    seen: Seen = {}

    def keep(name: str) -> Any:
        def hook(probe: nn.Module, inputs: tuple[Any, ...]) -> None:
            vectors, present = inputs
            names = list(MODALITIES)
            if len(vectors) < 2:
                leaf = name.rpartition(".")[2]
                names = [one for one in model.modalities if one in leaf] or [model.modalities[0]]
            for modality, vector, here in zip(names, vectors, present, strict=False):
                seen[modality] = (vector, here)

        return hook

    hooks = [
        module.register_forward_pre_hook(keep(name))
        for name, module in model.named_modules()
        if isinstance(module, Probe)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _taught(
    teacher: FusionClassifier, name: str, inputs: Mapping[str, Any], rows: Tensor
) -> Tensor:
    """Returns the pooled vectors [R, D] of the teacher for some rows of a batch."""
    nn.Module.to(teacher, rows.device)
    modality = MODALITIES[name]
    taken = (*modality.processed, modality.state, modality.pooled)
    own = {key: inputs[key][rows] for key in taken if inputs.get(key) is not None}
    with evaluating(teacher), watching(teacher) as seen:
        teacher(**own)
    return seen[name][0]
