"""Predictions for any number of samples: decoded in worker processes, answered in order, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.collate import FusionCollator
from ..model.graph import evaluating
from ..model.missing import is_blank
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from ..model.validation import check_choice
from .compiled import CompiledClassifier

WINDOW = 8
"""Batches whose samples are sorted by the length of their texts, so that those of a batch are alike."""


class Prediction(NamedTuple):
    """What a classifier says of one sample.

    Attributes:
        logits: [C]; NaN where there is an error.
        probabilities: [C]: softmax, or sigmoid where the problem is multi-label; NaN where there is
            an error.
        missing: the modalities that the sample lacked, of those that the classifier has a tower
            for.
        error: why the sample could not be read, or None.
    """

    logits: np.ndarray[Any, np.dtype[np.float32]]
    probabilities: np.ndarray[Any, np.dtype[np.float32]]
    missing: tuple[str, ...]
    error: str | None


def predict_stream(
    model: FusionClassifier | CompiledClassifier,
    processor: FusionProcessor,
    samples: Iterable[Mapping[str, Any]],
    *,
    batch_size: int = 32,
    workers: int = 0,
    on_error: str = "raise",
    progress: bool = True,
) -> Iterator[Prediction]:
    """The prediction of each sample, one after the other, in the order of the samples.

    Samples are read as they are needed, a few batches ahead, so that a generator without end will
    do and memory does not grow with their number. `mmfusion.predict` is the road through the
    Trainer, with several devices and the cache.

    Args:
        model: the classifier, compiled or not, on the device where it is to run; each batch runs in
            eval mode, and the model is as it was between them.
        processor: its processor.
        samples: mappings with `image` (a path, a PIL image, an array), `text`, or both, None for a
            missing one; other keys are left aside. A `datasets.Dataset` is one, so is a generator.
        batch_size: samples per forward pass, at least 1.
        workers: processes that decode and tokenize; 0 does it here.
        on_error: "raise" stops at a sample that cannot be read or has neither modality; "keep"
            answers it with the error.
        progress: whether to show a bar on stderr.

    Raises:
        ValueError: for another `on_error`, a `batch_size` or `workers` out of range, a processor
            without a part that the classifier needs; with "raise", naming the sample's fault.

    Example:
        >>> from mmfusion import FusionProcessor
        >>> from mmfusion.data.toy import word_tokenizer
        >>> from mmfusion.testing import tiny_classifier
        >>> model = tiny_classifier(image=None, text="bert")
        >>> processor = FusionProcessor(word_tokenizer(["clear lungs", "effusion"]))
        >>> texts = ({"text": text} for text in ("clear lungs", "effusion", ""))
        >>> found = list(predict_stream(model, processor, texts, on_error="keep", progress=False))
        >>> [prediction.probabilities.shape for prediction in found]
        [(3,), (3,), (3,)]
        >>> found[2].error
        'it must have text, got nothing.'
    """
    allowed = ["raise", "keep"]
    check_choice("on_error", on_error, allowed)
    if batch_size < 1 or workers < 0:
        raise ValueError(
            f"batch_size must be at least 1 and workers at least 0, got {batch_size!r} and {workers!r}."
        )
    parts = {"image": processor.input_spec, "text": processor.tokenizer}
    lacking = [name for name in model.modalities if parts[name] is None]
    if lacking:
        raise ValueError(
            f"processor must have a part for each of the classifier's modalities ({', '.join(model.modalities)}), got none for "
            f"{', '.join(lacking)}. Make it with FusionProcessor.from_encoders."
        )
    return _answers(model, processor, samples, batch_size, workers, on_error == "keep", progress)


def _answers(
    model: FusionClassifier | CompiledClassifier,
    processor: FusionProcessor,
    samples: Iterable[Mapping[str, Any]],
    batch_size: int,
    workers: int,
    keeps_errors: bool,
    progress: bool,
) -> Iterator[Prediction]:
    total = len(samples) if isinstance(samples, Sized) else None
    loader = torch.utils.data.DataLoader(
        _AsGiven(),
        # The sampler hands out the samples themselves: workers get them with their orders, however
        # many there are.
        batch_sampler=_Batches(samples, model.modalities, batch_size),
        collate_fn=_Collate(FusionCollator(processor), keeps_errors),
        num_workers=workers,
        pin_memory=model.device.type == "cuda",
    )
    waiting: dict[int, Prediction] = {}
    following = 0
    with tqdm(total=total, unit="sample", disable=not progress) as bar:
        for places, batch, faults in loader:
            # For each batch anew: between two answers the model is the caller's.
            with evaluating(model):
                found = iter(_answered(model, batch) if batch else ())
            for place, fault in zip(places, faults, strict=True):
                waiting[place] = next(found) if fault is None else _unread(model, fault)
            while following in waiting:
                bar.update()
                yield waiting.pop(following)
                following += 1


@torch.inference_mode()
def _answered(
    model: FusionClassifier | CompiledClassifier, batch: Mapping[str, Tensor]
) -> list[Prediction]:
    names = {
        "image": ("pixel_values", "image_present"),
        "text": ("input_ids", "attention_mask", "text_present"),
    }
    # A processor of both makes inputs for a tower that a classifier of one modality has not.
    kept = [name for modality in model.modalities for name in names[modality]]
    inputs = {name: batch[name].to(model.device, non_blocking=True) for name in kept}
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    logits = model(**inputs).logits.float()
    probabilities = logits.sigmoid() if model.multi_label else logits.softmax(-1)
    present = {name: batch[f"{name}_present"].tolist() for name in model.modalities}
    return [
        Prediction(*row, tuple(name for name in model.modalities if not present[name][index]), None)
        for index, row in enumerate(
            zip(logits.cpu().numpy(), probabilities.cpu().numpy(), strict=True)
        )
    ]


def _unread(model: FusionClassifier | CompiledClassifier, fault: "_Fault") -> Prediction:
    nothing = np.full(int(model.config.num_labels or 0), np.nan, dtype=np.float32)
    return Prediction(nothing, nothing, fault.missing, fault.error)


class _Fault(NamedTuple):
    """Why a sample cannot be read, and what it lacked besides."""

    error: str
    missing: tuple[str, ...]


@final
class _AsGiven(torch.utils.data.Dataset[Any]):
    """A dataset whose indices are the samples."""

    def __getitems__(self, samples: list[Any]) -> list[Any]:
        return samples

    def __getitem__(self, sample: Any) -> Any:
        return sample


@final
class _Batches:
    """Batches of (place, sample), read window by window, samples with texts of like length together."""

    def __init__(
        self, samples: Iterable[Mapping[str, Any]], wanted: Sequence[str], batch_size: int
    ):
        self.samples, self.wanted, self.batch_size = samples, wanted, batch_size

    def __iter__(self) -> Iterator[list[tuple[int, dict[str, Any]]]]:
        numbered = enumerate(self.samples)
        while window := list(islice(numbered, WINDOW * self.batch_size)):
            kept = [
                (place, {name: sample.get(name) for name in self.wanted})
                for place, sample in window
            ]
            kept.sort(key=lambda pair: _length(pair[1].get("text")))
            for start in range(0, len(kept), self.batch_size):
                yield kept[start : start + self.batch_size]


@final
class _Collate:
    """(place, sample) pairs in; places, the batch of those that can be read, and a fault or None for each."""

    def __init__(
        self,
        collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]],
        keeps_errors: bool,
    ):
        self.collate, self.keeps_errors = collate, keeps_errors

    def __call__(
        self, numbered: list[tuple[int, dict[str, Any]]]
    ) -> tuple[list[int], dict[str, Tensor], list[_Fault | None]]:
        places, samples = [place for place, _ in numbered], [sample for _, sample in numbered]
        try:
            return places, self.collate(samples), [None] * len(samples)
        except (ValueError, TypeError, OSError):
            faults = [self._fault(sample) for sample in samples]
        if not self.keeps_errors:
            place, error = next(
                (place, fault.error)
                for place, fault in zip(places, faults, strict=True)
                if fault is not None
            )
            raise ValueError(
                f"sample {place} (counted from 0) must be readable, got an error: {error}"
            )
        readable = [sample for sample, fault in zip(samples, faults, strict=True) if fault is None]
        return places, self.collate(readable) if readable else {}, faults

    def _fault(self, sample: Mapping[str, Any]) -> _Fault | None:
        missing = tuple(
            name
            for name, value in sample.items()
            if value is None or (isinstance(value, str) and is_blank(value))
        )
        if len(missing) == len(sample):
            return _Fault(f"it must have {' or '.join(sample)}, got nothing.", missing)
        try:
            self.collate([sample])
        except (ValueError, TypeError, OSError) as error:
            return _Fault(str(error), missing)
        return None


def _length(text: object) -> int:
    return len(text) if isinstance(text, str) else 0
