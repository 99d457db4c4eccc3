"""Predictions for any number of samples, in their order and in bounded memory.

Worker processes can decode the samples.
"""

import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing import reductions
from tqdm import tqdm

from ..data.collate import FusionCollator
from ..model.graph import evaluating
from ..model.missing import is_blank
from ..model.modalities import MODALITIES
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from ..model.validation import check_choice
from .compiled import CompiledClassifier

WINDOW = 8
"""The number of batches whose samples are sorted together by the length of their texts.

Texts of like length in a batch need little padding.
"""


SHOWN = 10
"""The most logits that an error message shows."""


@final
class Prediction(NamedTuple):
    """The result of a classifier for one sample.

    Attributes:
        logits: the logits [C]; NaN if there is an error.
        probabilities: the probabilities [C]: the softmax of the logits, or their sigmoid if the
            problem is multi-label. NaN if there is an error.
        missing: the modalities that the sample lacks. Only modalities for which the classifier has
            a tower count.
        error: the reason why the sample could not be read or has no finite answer, or None.
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
) -> Generator[Prediction, None, None]:
    """Yields the prediction of each sample in the order of the samples.

    Samples are read only a few batches ahead. So the memory does not grow with their number, and a
    generator may be endless. `mmfusion.predict` uses the Trainer instead, which supports several
    devices and the cache of frozen towers.

    Args:
        model: the classifier, compiled or not, on the device where it is to run. Each batch runs in
            eval mode; between two batches every module has its own mode again.
        processor: the processor of the classifier.
        samples: mappings with `image` (a path, a PIL image or an array), `text`, or both; None
            stands for a missing one. Other keys are ignored. A `datasets.Dataset` or a generator
            of mappings is allowed.
        batch_size: the number of samples per forward pass, at least 1.
        workers: the number of processes that decode and tokenize. With 0, the calling process does
            this.
        on_error: "raise" stops at a sample that cannot be read, has neither modality, or gets
            logits that are not finite; "keep" yields a prediction with the error instead.
        progress: whether to show a progress bar on stderr.

    Raises:
        ValueError: if `on_error`, `batch_size` or `workers` is not allowed, or the processor lacks
            a part that the classifier needs. With "raise", also if a sample cannot be read or its
            logits are not finite; the message names the sample and the reason.
        RuntimeError: if a worker process was stopped, for example because the memory is full.

    Example:
        >>> from mmfusion import FusionProcessor
        >>> from mmfusion.data.toy import word_tokenizer
        >>> from mmfusion.testing import tiny_classifier
        >>> model = tiny_classifier(image=None, text="bert")
        >>> processor = FusionProcessor(word_tokenizer(["clear lungs", "effusion"]))
        >>> texts = ({"text": text} for text in ("clear lungs", "effusion", ""))
        >>> stream = predict_stream(model, processor, texts, on_error="keep", progress=False)
        >>> predictions = list(stream)
        >>> [prediction.probabilities.shape for prediction in predictions]
        [(3,), (3,), (3,)]
        >>> predictions[2].error
        'it must have text, got nothing.'
    """
    allowed = ["raise", "keep"]
    check_choice("on_error", on_error, allowed)
    if batch_size < 1 or workers < 0:
        raise ValueError(
            "batch_size must be at least 1 and workers at least 0, "
            f"got {batch_size!r} and {workers!r}."
        )
    parts = {"image": processor.input_spec, "text": processor.tokenizer}
    lacking = [name for name in model.modalities if parts[name] is None]
    if lacking:
        raise ValueError(
            "processor must have a part for each of the classifier's modalities "
            f"({', '.join(model.modalities)}), got none for {', '.join(lacking)}. "
            "Make it with FusionProcessor.from_encoders."
        )
    answers = _answers(model, processor, samples, batch_size, workers, on_error == "keep", progress)
    # The checks above are not part of the generator, so that they run at the call.
    return _naming_a_stopped_worker(answers)


def _naming_a_stopped_worker(answers: Iterator[Prediction]) -> Generator[Prediction, None, None]:
    """Yields the answers; if a worker was stopped, the error says what to do."""
    try:
        yield from answers
    except (RuntimeError, EOFError, OSError) as error:
        # torch has no class of its own for this error.
        if "DataLoader worker" not in str(error) and not _is_lost_tensor(error):
            raise
        raise RuntimeError(
            "workers must be processes that live to the end, got a DataLoader worker that was "
            f"stopped ({error}). If the memory is full, use fewer workers or a smaller batch_size."
        ) from error


def _is_lost_tensor(error: Exception) -> bool:
    """Returns whether a tensor could not be fetched, because its worker was stopped meanwhile."""
    if isinstance(error, RuntimeError):
        return False
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals.get("__name__") == reductions.__name__ for frame in frames)


def _answers(
    model: FusionClassifier | CompiledClassifier,
    processor: FusionProcessor,
    samples: Iterable[Mapping[str, Any]],
    batch_size: int,
    workers: int,
    keeps_errors: bool,
    progress: bool,
) -> Iterator[Prediction]:
    """Yields the predictions of `predict_stream`, whose arguments are already checked."""
    total = len(samples) if isinstance(samples, Sized) else None
    loader = torch.utils.data.DataLoader(
        _AsGiven(),
        # The batch sampler yields the samples themselves instead of indices. So the main process
        # alone reads the iterable, and each worker gets its samples together with its task.
        batch_sampler=_Batches(samples, model.modalities, batch_size),
        collate_fn=_Collate(FusionCollator(processor), keeps_errors),
        num_workers=workers,
        worker_init_fn=_quiet_at_the_end,
        pin_memory=model.device.type == "cuda",
    )
    # Samples are sorted by length within a window, so a prediction may have to wait for its turn.
    waiting: dict[int, Prediction] = {}
    following = 0
    with tqdm(total=total, unit="sample", disable=not progress) as bar:
        for places, batch, faults in _batches_of(loader):
            # Eval mode is set for each batch on its own, because the caller may train or change the
            # model between two predictions.
            with evaluating(model):
                predictions = iter(_answered(model, batch) if batch else ())
            for place, fault in zip(places, faults, strict=True):
                if fault is None:
                    waiting[place] = _finite(model, next(predictions), place, keeps_errors)
                else:
                    waiting[place] = _unread(model, fault)
            while following in waiting:
                bar.update()
                yield waiting.pop(following)
                following += 1


def _quiet_at_the_end(_: int) -> None:
    """Keeps a worker from printing a traceback when the main process has ended.

    A thread of the worker hands its tensors over. If the user stops the command, the other end of
    its connection is gone, and Python would print that as an error of the thread.
    """
    shown = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not issubclass(kind, EOFError | ConnectionError):
            shown(kind, error, trace)

    sys.excepthook = hook


def _batches_of(loader: "torch.utils.data.DataLoader[Any]") -> Iterator[Any]:
    """Yields the batches of a loader, and stops its workers at the end, also after an error."""
    batches: Any = iter(loader)
    try:
        yield from batches
    finally:
        stop = getattr(batches, "_shutdown_workers", None)
        if stop is not None:
            # torch itself stops them when the iterator is deleted. If a worker was killed, that
            # would print a traceback.
            with suppress(RuntimeError):
                stop()


@torch.inference_mode()
def batch_logits(
    model: FusionClassifier | CompiledClassifier, batch: Mapping[str, Tensor]
) -> Tensor:
    """Returns the logits of a batch as the model answers it in its present mode, float32 [B, C].

    Args:
        model: the classifier, compiled or not.
        batch: what the processor made, on any device.
    """
    # A processor of both modalities also makes inputs that a classifier of one has no tower for.
    used = [MODALITIES[name] for name in model.modalities]
    needed = [name for modality in used for name in modality.processed]
    inputs = {name: batch[name].to(model.device, non_blocking=True) for name in needed}
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    # The softmax of bfloat16 logits would lose digits, so they are converted first.
    return model(**inputs).logits.float()


def _answered(
    model: FusionClassifier | CompiledClassifier, batch: Mapping[str, Tensor]
) -> list[Prediction]:
    """Returns the predictions of a batch of readable samples."""
    logits = batch_logits(model, batch)
    probabilities = logits.sigmoid() if model.multi_label else logits.softmax(-1)
    flags = {name: batch[MODALITIES[name].present] for name in model.modalities}
    # A sample with one picture of several has its image.
    present = {name: (f if f.ndim == 1 else f.any(1)).tolist() for name, f in flags.items()}
    return [
        Prediction(*row, tuple(name for name in model.modalities if not present[name][index]), None)
        for index, row in enumerate(
            zip(logits.cpu().numpy(), probabilities.cpu().numpy(), strict=True)
        )
    ]


def _finite(
    model: FusionClassifier | CompiledClassifier,
    prediction: Prediction,
    place: int,
    keeps_errors: bool,
) -> Prediction:
    """Returns the prediction, or its error: NaN and infinity choose a class as numbers do."""
    if np.isfinite(prediction.logits).all():
        return prediction
    error = (
        f"finite logits, got {prediction.logits[:SHOWN].tolist()}. Check the model's weights, "
        "and the mean and std of its images."
    )
    if not keeps_errors:
        raise ValueError(f"sample {place} (counted from 0) must get {error}")
    return _unread(model, _Fault(f"it must get {error}", prediction.missing))


def _unread(model: FusionClassifier | CompiledClassifier, fault: "_Fault") -> Prediction:
    """Returns the prediction of NaN for a sample that has no answer."""
    # The shape is that of a real prediction, so that callers can stack them all.
    nothing = np.full(int(model.config.num_labels or 0), np.nan, dtype=np.float32)
    return Prediction(nothing, nothing, fault.missing, fault.error)


@final
class _Fault(NamedTuple):
    """The reason why a sample cannot be read, and the modalities that it lacks."""

    error: str
    missing: tuple[str, ...]


@final
class _AsGiven(torch.utils.data.Dataset[Any]):
    """The dataset that returns its indices, which are the samples themselves."""

    def __getitems__(self, samples: list[Any]) -> list[Any]:
        return samples

    def __getitem__(self, sample: Any) -> Any:
        return sample


@final
class _Batches:
    """The batches of (place, sample); texts of like length within a window are put together."""

    def __init__(
        self, samples: Iterable[Mapping[str, Any]], wanted: Sequence[str], batch_size: int
    ):
        self.samples, self.wanted, self.batch_size = samples, wanted, batch_size

    def __iter__(self) -> Iterator[list[tuple[int, dict[str, Any]]]]:
        numbered = enumerate(self.samples)
        while window := list(islice(numbered, WINDOW * self.batch_size)):
            # Other keys may hold objects that cannot be sent to a worker process.
            batchable = [
                (place, {name: sample.get(name) for name in self.wanted})
                for place, sample in window
            ]
            batchable.sort(key=lambda pair: _length(pair[1].get("text")))
            for start in range(0, len(batchable), self.batch_size):
                yield batchable[start : start + self.batch_size]


@final
class _Collate:
    """The collation of (place, sample) pairs.

    A call returns the places, the batch of the readable samples, and for each sample its fault or
    None.
    """

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
            # The error of a batch does not tell which sample caused it, so each one is tried alone.
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
        # The readable samples of the batch still get their predictions.
        readable = [sample for sample, fault in zip(samples, faults, strict=True) if fault is None]
        return places, self.collate(readable) if readable else {}, faults

    def _fault(self, sample: Mapping[str, Any]) -> _Fault | None:
        """Returns the fault of a sample, or None if it can be read."""
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
    """Returns the length of a text, or 0 for anything that is no text."""
    return len(text) if isinstance(text, str) else 0
