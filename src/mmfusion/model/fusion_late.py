"""The strategy `late`: an answer per modality, their probabilities joined."""

from typing import Self, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .fusion_base import Fusion, Head, TowerShapes, pooled_vectors
from .mapper import EmbeddingMapper
from .tower import Tower
from .types import Fused
from .validation import check_choice


@final
class Late(Fusion):
    """An answer per modality, their probabilities joined.

    The image's answer is that of a probe. The text's answer is that of a probe and of a head on the
    mapped text. Each is trained by itself. In the table, m runs over the modalities that a sample
    has, and M is their number.

    | combine | p(class) |
    | --- | --- |
    | `product` | product of experts: absence x prod_m p_m / prior^(M - 1), normalised |
    | `mean` | sum_m p_m / M |
    | `learned` | sum_m w_m p_m, w = softmax of learned weights over these modalities |

    p_m is the softmax of the modality's logits, or the sigmoid of each of them where labels are
    multi-label. Each p_m contains the prior of the classes, so a product divides it out (Kittler et
    al. 1998, IEEE TPAMI 20:226, the product rule; Hinton 2002, eq. 1). `absence` is, for each
    modality that the sample lacks, P(class | absent) / P(class). `mmfusion.fit` counts the prior
    and `absence` in the training rows. Before that both are uniform. The logits that come back are
    log p (single-label; for `product` up to a constant per sample), or log p - log(1 - p)
    (multi-label).

    Args:
        combine: "product", "mean" or "learned".
    """

    scheme = "late"
    summary = (
        "an answer per modality; probabilities joined by product of experts, mean or learned "
        "weights"
    )
    uses_image_tokens = False
    uses_text_tokens = False
    needs_stand_in = False
    has_own_probes = True
    answers = ("image_probe", "text_probe")

    log_prior: Tensor
    log_absence: Tensor

    def __init__(self, combine: str = "product"):
        super().__init__(combine=combine)
        check_choice("combine", combine, ["product", "mean", "learned"])
        self.combine = combine

    def build(self, shapes: TowerShapes) -> Self:
        """Returns this strategy with its parameters."""
        self.build_answers(shapes)
        self.text_head = Head([shapes.mapped_dim], shapes.num_labels, shapes.head_dropout)
        self.register_buffer("log_absence", torch.zeros(2, shapes.num_labels))
        if self.combine == "learned":
            self.weights = nn.Parameter(torch.zeros(2))
        return self

    def is_linear(self, mapper: EmbeddingMapper) -> bool:
        """Returns whether each answer is linear and the combination has no parameters."""
        return mapper.is_linear and self.combine != "learned"

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """Returns the fused batch."""
        own, mapped = pooled_vectors(image, text, mapper)
        text_logits = self.text_probe([text.pooled], [text.present])
        # float32: under autocast a sum of probabilities in half precision would lose the small
        # differences that decide between classes.
        scores = torch.stack(
            [self.image_probe([own], [image.present]), text_logits + self.text_head(mapped)]
        ).float()
        present = torch.stack([image.present, text.present])
        own, mapped = (
            torch.where(tower.present[:, None], pooled, pooled.new_zeros(()))
            for tower, pooled in ((image, own), (text, mapped))
        )
        # Each answer has a loss of its own. The combination must not change the answers.
        logits = self.combined(scores.detach() if self.training else scores, present)
        answers = ((scores[0], image.present), (scores[1], text.present))
        return Fused(torch.cat([own, mapped], dim=-1), logits, own, mapped, answers)

    def combined(self, scores: Float[Tensor, "K B C"], present: Bool[Tensor, "2 B"]) -> Tensor:
        """Returns the logits of the combination (see `Fusion.combined`)."""
        here = present[:, :, None]
        if self.combine == "product":
            experts = scores if self.multi_label else F.log_softmax(scores, dim=-1)
            product = torch.where(here, experts, self.log_absence[:, None]).sum(0)
            # The prior of one expert stays.
            return product - (here.sum(0) - 1) * self.log_prior
        weights = self.weights.float() if self.combine == "learned" else scores.new_zeros(2)
        masked = torch.where(present, weights[:, None], float("-inf"))
        log_weights = F.log_softmax(masked, dim=0)[:, :, None]
        if not self.multi_label:
            return torch.logsumexp(log_weights + F.log_softmax(scores, dim=-1), dim=0)
        yes = torch.logsumexp(log_weights + F.logsigmoid(scores), dim=0)
        return yes - torch.logsumexp(log_weights + F.logsigmoid(-scores), dim=0)
