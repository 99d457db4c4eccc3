"""The encoders of a comparison, as every training begins with them."""

import copy
import hashlib
import json
from dataclasses import dataclass
from typing import Any, final

from transformers import PreTrainedTokenizerBase

from ..model.encoder_base import Encoder
from ..model.encoder_image import ImageEncoder
from ..model.encoder_text import TextEncoder
from .compare_rows import ComparisonRow
from .digests import add_tensors
from .feature_store import tokenizer_digest


@final
@dataclass(frozen=True)
class Encoders:
    """The encoders of a comparison, as every training begins with them.

    Attributes:
        image: the image encoder, or None.
        text: the text encoder, or None.
        tokenizer: as for `FusionProcessor.from_encoders`.
        max_length: the largest number of tokens of a text, or None.
        fit: how pictures are brought to the encoder's size, as for `FusionProcessor`.
        long_text: what happens to texts that are too long, as for `FusionProcessor`.
    """

    image: ImageEncoder | None
    text: TextEncoder | None
    tokenizer: PreTrainedTokenizerBase | str | None = None
    max_length: int | None = None
    fit: str | None = None
    long_text: str = "truncate"

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that have an encoder."""
        return tuple(name for name in ("image", "text") if getattr(self, name) is not None)

    def taken(self, row: ComparisonRow) -> tuple[Any, Any]:
        """Returns the image encoder and the text encoder of a row, None where it has none.

        An encoder that trains is copied, because each training begins with its first weights.
        """
        image, text = (
            _fresh(getattr(self, name)) if name in row.modalities else None
            for name in ("image", "text")
        )
        return image, text

    def digest(self) -> str:
        """Returns a digest of the weights and options of the encoders."""
        digest = hashlib.sha256()
        for name in self.modalities:
            encoder: Encoder = getattr(self, name)
            digest.update(
                json.dumps(encoder.config.to_dict(), sort_keys=True, default=str).encode()
            )
            add_tensors(digest, encoder.state_dict().items())
        tokenizer = self.tokenizer
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            tokenizer = tokenizer_digest(tokenizer)
        # What is stored without these options keeps its digest.
        fit = [] if self.fit is None else [self.fit]
        fit += [] if self.long_text == "truncate" else [self.long_text]
        digest.update(json.dumps([tokenizer, self.max_length, *fit]).encode())
        return digest.hexdigest()


def _fresh(encoder: Encoder) -> Encoder:
    """Returns the encoder itself if nothing of it trains, else a copy."""
    return encoder if encoder.is_frozen else copy.deepcopy(encoder)
