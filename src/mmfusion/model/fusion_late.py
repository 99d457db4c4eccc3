"""The strategy `late`: a head per modality, their probabilities joined."""

from typing import Self, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .fusion_base import Fusion, Head, TowerShapes
from .mapper import EmbeddingMapper
from .tower import Tower
from .types import Fused
from .validation import check_choice


@final
class Late(Fusion):
    """A head per modality (the text's after the mapper), their probabilities joined.

    An absent modality is left out of the combination.

    | combine | p(class) |
    | --- | --- |
    | `mean` | sum_m p_m / number of modalities present |
    | `learned` | sum_m w_m p_m, w = softmax of learned weights over the modalities present |
    | `product` | product of experts: prod_m p_m, normalised (Hinton 2002, eq. 1) |

    p_m is the softmax of the modality's logits, or the sigmoid of each of them where labels are
    multi-label. The logits that come back are log p (single-label; for `product` up to a constant
    per sample), or log p - log(1 - p) (multi-label).

    Args:
        combine: "mean", "learned" or "product".
    """

    scheme = "late"
    summary = (
        "a head per modality; probabilities joined by mean, learned weights or product of experts"
    )
    uses_image_tokens = False
    uses_text_tokens = False
    needs_stand_in = False

    def __init__(self, combine: str = "mean"):
        super().__init__(combine=combine)
        check_choice("combine", combine, ["mean", "learned", "product"])
        self.combine = combine

    def build(self, shapes: TowerShapes) -> Self:
        """Returns this strategy with its parameters."""
        self.first_image_block, self.first_text_block = shapes.image_blocks, shapes.text_blocks
        self.multi_label = shapes.multi_label
        self.image_head = Head([shapes.image_dim], shapes.num_labels, shapes.head_dropout)
        self.text_head = Head([shapes.mapped_dim], shapes.num_labels, shapes.head_dropout)
        if self.combine == "learned":
            self.weights = nn.Parameter(torch.zeros(2))
        return self

    def forward(self, image: Tower, text: Tower, mapper: EmbeddingMapper) -> Fused:
        """Returns the fused batch."""
        image_encoded, text_encoded = image.encode(), text.encode()
        own = image_encoded.pooled
        mapped = mapper.pooled(text_encoded, image_encoded, text.lengths_of(text_encoded))
        # float32: under autocast a sum of probabilities in half precision would lose the small
        # differences that decide between classes.
        scores = torch.stack([self.image_head(own), self.text_head(mapped)]).float()
        present = torch.stack([image.present, text.present])
        own, mapped = (
            torch.where(tower.present[:, None], pooled, pooled.new_zeros(()))
            for tower, pooled in ((image, own), (text, mapped))
        )
        logits = self._combined(scores, present)
        return Fused(torch.cat([own, mapped], dim=-1), logits, own, mapped)

    def _combined(self, scores: Float[Tensor, "2 B C"], present: Tensor) -> Float[Tensor, "B C"]:
        """Returns the combined logits, from the logits of both heads; `present` [2, B]."""
        here = present[:, :, None]
        if self.combine == "product":
            experts = scores if self.multi_label else F.log_softmax(scores, dim=-1)
            return torch.where(here, experts, experts.new_zeros(())).sum(0)
        weights = self.weights.float() if self.combine == "learned" else scores.new_zeros(2)
        masked = torch.where(present, weights[:, None], float("-inf"))
        log_weights = F.log_softmax(masked, dim=0)[:, :, None]
        if not self.multi_label:
            return torch.logsumexp(log_weights + F.log_softmax(scores, dim=-1), dim=0)
        yes = torch.logsumexp(log_weights + F.logsigmoid(scores), dim=0)
        return yes - torch.logsumexp(log_weights + F.logsigmoid(-scores), dim=0)
