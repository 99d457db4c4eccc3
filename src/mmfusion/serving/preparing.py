"""Model inputs of one client's sample, made in a thread; and the inputs of many, joined."""

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from ..inference.explain import CUT
from ..model.images import decode_image
from ..model.missing import is_blank
from ..model.processing import FusionProcessor
from ..model.processing_text import tokenized
from ..model.template import write_text
from .limits import Limits
from .requests import RequestError, Sample


@final
@dataclass(frozen=True)
class Prepared:
    """The model inputs of one sample.

    Attributes:
        inputs: what the processor made, with one row.
        missing: the modalities of the model that the sample lacks.
        notes: what the client should know.
    """

    inputs: Mapping[str, Tensor]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


@final
class Preparer:
    """The function from a sample to model inputs. Several threads may call it at the same time.

    Args:
        processor: of the classifier.
        modalities: of the classifier.
        limits: what a client may ask for.
    """

    def __init__(self, processor: FusionProcessor, modalities: Sequence[str], limits: Limits):
        self.processor, self.modalities, self.limits = processor, tuple(modalities), limits
        self._own = threading.local()

    def __call__(self, sample: Sample) -> Prepared:
        """Returns the model inputs of a sample.

        Args:
            sample: what the client sent.

        Raises:
            RequestError: if it has no modality of the model, another one, or cannot be read.
        """
        # A fast tokenizer is locked while a thread uses it, and raises in another one.
        if not hasattr(self._own, "processor"):
            self._own.processor = copy.deepcopy(self.processor)
        processor: FusionProcessor = self._own.processor
        text = _written(processor, sample.text)
        here = {"image": any(sample.images), "text": text is not None}
        for name, given in here.items():
            if given and name not in self.modalities:
                raise RequestError(
                    422, f"{name} must be left out: the model reads {self.modalities[0]} alone."
                )
        if not any(here.values()):
            raise RequestError(
                422, f"sample must have {' or '.join(self.modalities)}, got nothing."
            )
        try:
            inputs = processor(**self._arguments(processor, sample, text))
        except (ValueError, TypeError, OSError) as error:
            raise RequestError(422, str(error)) from None
        except ImportError:
            raise RequestError(422, "image must be of another type: no DICOM here.") from None
        missing = tuple(name for name in self.modalities if not here[name])
        notes = (CUT,) if text is not None and is_cut(processor, text) else ()
        return Prepared(dict(inputs), missing, notes)

    def _arguments(
        self, processor: FusionProcessor, sample: Sample, text: str | None
    ) -> dict[str, Any]:
        """Returns the arguments of the processor."""
        arguments: dict[str, Any] = {}
        if processor.input_spec is not None:
            pictures = [
                None
                if content is None
                else decode_image(content, f"<image {number}>", max_pixels=self.limits.most_pixels)
                for number, content in enumerate(sample.images, start=1)
            ]
            if processor.num_views == 1 and len(pictures) > 1:
                raise RequestError(422, f"image must be one picture, got {len(pictures)}.")
            arguments["images"] = [pictures] if processor.num_views > 1 else pictures or [None]
        if processor.tokenizer is not None:
            arguments["text"] = [text]
        return arguments


def _written(processor: FusionProcessor, text: str | Mapping[str, Any] | None) -> str | None:
    """Returns the text of a sample, or None if it is missing.

    Raises:
        RequestError: if the values of its columns do not fit the processor's template.
    """
    if isinstance(text, Mapping):
        if processor.template is None:
            raise RequestError(422, "text must be a string: this model has no template.")
        try:
            text = write_text(processor.template, text)
        except ValueError as error:
            raise RequestError(422, str(error)) from None
    return None if is_blank(text) else text


def is_cut(processor: FusionProcessor, text: str) -> bool:
    """Returns whether a processor leaves a part of a text out.

    Args:
        processor: with a tokenizer.
        text: of one sample.
    """
    assert processor.tokenizer is not None
    limits = {"max_length": processor.max_length, "overlap": processor.overlap}
    return tokenized(processor.tokenizer, [text], long_text=processor.long_text, **limits).cut


def joined(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Returns the inputs of several samples as one batch. Shorter texts are padded.

    Zeros stand in the padding. Their mask is zero, so the model does not read them.

    Args:
        samples: the inputs of each, with one row each.

    Shape:
        input_ids and attention_mask [1, L_i] -> [B, max L_i], or [1, W_i, L_i] -> [B, max W_i,
        max L_i]; others [1, ...] -> [B, ...].

    Example:
        >>> import torch
        >>> ids = [torch.tensor([[1, 2, 3]]), torch.tensor([[4]])]
        >>> joined([{"input_ids": one} for one in ids])["input_ids"].tolist()
        [[1, 2, 3], [4, 0, 0]]
    """
    batch = {}
    for name in samples[0]:
        rows = [sample[name] for sample in samples]
        # A text in one window has no axis of windows.
        axes = max(row.ndim for row in rows)
        rows = [row if row.ndim == axes else row.unsqueeze(1) for row in rows]
        shape = [max(sizes) for sizes in zip(*(row.shape[1:] for row in rows), strict=True)]
        whole = rows[0].new_zeros(len(rows), *shape)
        for place, row in enumerate(rows):
            # One part of the whole for each sample, of the size of its own row.
            part = whole[place]
            for axis, size in enumerate(row.shape[1:]):
                part = part.narrow(axis, 0, size)
            part.copy_(row[0])
        batch[name] = whole
    return batch
