"""The strategy `guarded`: the image's, the text's and the joint answer, weighted."""

from typing import Self, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .fusion_base import Fusion, Head, Probe, TowerShapes, pooled_vectors
from .mapper import EmbeddingMapper
from .tower import Tower
from .types import Fused


@final
class Guarded(Fusion):
    """The answers of the image, of the text and of both, in a weighted product.

        log p = log prior + sum_k w_k (log p_k - log prior), normalised, with w_k >= 0

    This is a logarithmic opinion pool (Genest and Zidek 1986, Statistical Science 1:114) of three
    classifiers, which are linear if the mapper is. Each is trained by itself. `mmfusion.fit`
    chooses the weights on answers to held-out samples (stacking, Wolpert 1992). Where the pool is
    not better there than one answer alone, that answer gets weight 1 and the others 0. So a
    modality that says nothing does no harm.

    The joint answer takes the place of the answer of an absent modality.
    """

    scheme = "late"
    summary = "the image's, the text's and the joint answer, weighted on held-out samples"
    uses_image_tokens = False
    uses_text_tokens = False
    has_own_probes = True
    answers = ("image_probe", "text_probe", "joint_probe")

    log_prior: Tensor

    def __init__(self) -> None:
        super().__init__()

    def build(self, shapes: TowerShapes) -> Self:
        """Returns this strategy with its parameters."""
        self.build_answers(shapes)
        classes, dropout = shapes.num_labels, shapes.head_dropout
        self.joint_probe = Probe([shapes.image_dim, shapes.text_dim], classes, dropout)
        self.joint_head = Head([shapes.image_dim, shapes.mapped_dim], classes, dropout)
        self.weights = nn.Parameter(torch.full((3,), 0.5))
        return self

    def is_linear(self, mapper: EmbeddingMapper) -> bool:
        """Returns whether each answer is linear; the weights are chosen with the probes."""
        return mapper.is_linear

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """Returns the fused batch."""
        own, mapped = pooled_vectors(image, text, mapper)
        words = text.pooled
        joint = self.joint_probe([own, words], [image.present, text.present])
        joint = (joint + self.joint_head(own, mapped)).float()
        image_logits = self.image_probe([own], [image.present]).float()
        text_logits = self.text_probe([words], [text.present]).float()
        scores = torch.stack([image_logits, text_logits, joint])
        present = torch.stack([image.present, text.present])
        # Each answer has a loss of its own. The pool must not change the answers.
        logits = self.combined(scores.detach() if self.training else scores, present)
        answers = (
            (image_logits, image.present),
            (text_logits, text.present),
            (joint, image.present | text.present),
        )
        return Fused(torch.cat([own, mapped], dim=-1), logits, own, mapped, answers)

    def combined(self, scores: Float[Tensor, "K B C"], present: Bool[Tensor, "2 B"]) -> Tensor:
        """Returns the logits of the pool (see `Fusion.combined`)."""
        *alone, joint = scores
        pooled = [
            torch.where(here[:, None], answer, joint)
            for answer, here in zip(alone, present, strict=True)
        ]
        experts = torch.stack([*pooled, joint])
        if not self.multi_label:
            experts = F.log_softmax(experts, dim=-1)
        weights = self.weights.to(experts.dtype).clamp(min=0)[:, None, None]
        prior = self.log_prior.to(experts.dtype)
        return prior + (weights * (experts - prior)).sum(0)
