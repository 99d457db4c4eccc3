"""A classifier compiled for inference, in a few shapes."""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any, Self, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..model.masking import real_tokens_first
from ..model.missing import MODALITIES, BatchFacts, complete_inputs
from ..model.modeling import FusionClassifier
from ..model.types import FusionOutput


@final
class CompiledClassifier(nn.Module):
    """A copy of a classifier for inference alone: in half precision if asked for, compiled, for a few shapes.

    A compiled graph holds for one shape, and compiling takes from seconds to minutes. So a batch is
    filled up to the next of a few batch sizes, and its texts to the next of a few lengths; what was
    filled up is cut off the answer, and by the laws changes nothing in it. At most
    `len(batch_sizes) * len(lengths)` graphs are compiled, each when it is first needed.

    On a CPU, from torch 2.14 on, the text tower of a graph computes real tokens alone, as that of
    the classifier does (see `TextEncoder.padding`; batches of one stay padded), and torch lays the
    weights out for the processor, in copies that a graph keeps: weights that are changed in place
    afterwards go unseen. Elsewhere texts are padded inside a graph; where their lengths differ
    much, `python -m benchmarks --case compiled` tells whether the classifier itself is the faster
    one. Moved to another device or given other weights by `load_state_dict`, it compiles anew.

    Args:
        model: the classifier; it stays as it is.
        dtype: of the copy's weights; None leaves each as it is.
        batch_sizes: the batch sizes that are compiled; a larger batch is cut into pieces of the
            largest.
        lengths: the text lengths in tokens that are compiled; None means 64, 128, 256 ... up to the
            text encoder's limit.
        mode: as `torch.compile` takes it; None means "reduce-overhead" (CUDA graphs) on CUDA and
            "default" elsewhere.
        backend: as `torch.compile` takes it.

    Raises:
        ValueError: for a batch size or length below 1, or a length above the text encoder's limit;
            in use, for texts longer than the largest length.

    Shape:
        as `FusionClassifier`'s: pixel_values [B, C, H, W], input_ids and attention_mask [B, L],
        presence [B] -> logits [B, C].

    Example:
        >>> from mmfusion.testing import tiny_batch, tiny_classifier
        >>> model = tiny_classifier(image=None, text="bert")
        >>> fast = CompiledClassifier(model, batch_sizes=(4,), lengths=(8,))
        >>> fast.shapes
        [(4, 8)]
    """

    def __init__(
        self,
        model: FusionClassifier,
        *,
        dtype: torch.dtype | None = None,
        batch_sizes: Sequence[int] = (1, 32),
        lengths: Sequence[int] | None = None,
        mode: str | None = None,
        backend: str | Callable[..., Any] = "inductor",
    ):
        super().__init__()
        limit = None if model.text_encoder is None else model.text_encoder.max_length
        if lengths is None:
            lengths = _doubled(limit or 512) if model.text_encoder is not None else ()
        for name, values in (("batch_sizes", batch_sizes), ("lengths", lengths)):
            if any(value < 1 for value in values) or (
                not values and (name == "batch_sizes" or model.text_encoder is not None)
            ):
                raise ValueError(
                    f"{name} must be one or more numbers of at least 1, got {tuple(values)!r}."
                )
        if limit is not None and lengths and max(lengths) > limit:
            raise ValueError(
                f"lengths must be at most {limit}, the text encoder's limit, got {max(lengths)}. Leave it out."
            )
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        if dtype is not None:
            _cast(self.model, dtype)
        self.batch_sizes, self.lengths = sorted(set(batch_sizes)), sorted(set(lengths))
        self._mode, self._backend = mode, backend
        self._start_anew()

    def _start_anew(self) -> None:
        """Forget all graphs: those of a CPU hold its weights, and another device asks for others."""
        device = self.model.device.type
        # Before 2.14 torch cannot lay weights out for a number of tokens that it does not know.
        # (Versions, not texts.)
        self._for_cpu = device == "cpu" and torch.__version__ >= "2.14"
        if self.model.text_encoder is not None:
            self.model.text_encoder.pack_in_graphs(self._for_cpu)
        mode = (
            ("reduce-overhead" if device == "cuda" else "default")
            if self._mode is None
            else self._mode
        )
        chosen: dict[str, Any] = {"mode": mode} if self._backend == "inductor" else {}
        self._run = torch.compile(
            _with_own_code(self._logits),
            dynamic=False,
            fullgraph=True,
            backend=self._backend,
            **chosen,
        )

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        applied = super()._apply(fn, recurse)
        self._start_anew()
        return applied

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Other weights, as `torch.nn.Module` loads them; the graphs are compiled anew."""
        loaded = super().load_state_dict(*args, **kwargs)
        self._start_anew()
        return loaded

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The shapes that may be compiled: batch size and text length (0 without a text encoder)."""
        return [(batch, length) for batch in self.batch_sizes for length in self.lengths or [0]]

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities it has a tower for."""
        return self.model.modalities

    @property
    def config(self) -> PreTrainedConfig:
        """The classifier's config."""
        return self.model.config

    @property
    def multi_label(self) -> bool:
        """Whether the classes do not exclude each other."""
        return self.model.multi_label

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.model.dtype

    def train(self, mode: bool = True) -> Self:
        """This classifier, in eval mode whatever is asked for: it does not learn."""
        return super().train(False)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_present: Tensor | None = None,
        text_present: Tensor | None = None,
    ) -> FusionOutput:
        """Logits, as `FusionClassifier.forward` gives them.

        Args:
            pixel_values: as there; cast to the weights' type.
            input_ids: as there.
            attention_mask: as there.
            image_present: as there.
            text_present: as there.

        Raises:
            ValueError: when an input has no tower or is lacking, a sample has neither modality, or
                a text is too long.
        """
        given = {
            "pixel_values": pixel_values,
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "image_present": image_present,
            "text_present": text_present,
        }
        inputs, facts = self._completed(
            {name: value for name, value in given.items() if value is not None}
        )
        largest = self.batch_sizes[-1]
        rows = next(iter(inputs.values())).shape[0]
        if not rows:
            raise ValueError("inputs must hold at least one sample, got an empty batch.")
        # One mode, whatever the caller's: a graph of inference mode is another one than that of
        # no_grad.
        with (
            _graphs(len(self.shapes), for_cpu=self._for_cpu),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            pieces = [
                self._piece(inputs, facts, start, min(start + largest, rows))
                for start in range(0, rows, largest)
            ]
        return FusionOutput(logits=torch.cat(pieces))

    def warm_up(self) -> Self:
        """This classifier, with every shape compiled."""
        for batch, length in self.shapes:
            inputs: dict[str, Tensor] = {}
            if self.model.image_encoder is not None:
                spec = self.model.image_encoder.input_spec
                inputs["pixel_values"] = torch.zeros(
                    batch, spec["channels"], *spec["size"], device=self.device
                )
            if length:
                inputs["input_ids"] = torch.zeros(
                    batch, length, dtype=torch.long, device=self.device
                )
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            self(**inputs)
        return self

    def _completed(self, given: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], BatchFacts]:
        """Returns every input of the graph, and the facts of the batch.

        With every input there is one graph, and not one for each way to leave something out.
        """
        values = {name: modality.values for name, modality in MODALITIES.items()}
        wrong = [
            value
            for name, value in values.items()
            if name not in self.modalities and value in given
        ]
        lacking = [values[name] for name in self.modalities if values[name] not in given]
        if wrong or lacking:
            state = f"got {', '.join(wrong)} too" if wrong else f"got none for {', '.join(lacking)}"
            raise ValueError(
                f"inputs must be those of the towers ({', '.join(self.modalities)}), {state}. "
                "A processor makes them all: where a sample lacks a modality, it marks that in "
                "image_present or text_present."
            )
        # Looked at here, because a graph cannot raise.
        batch = complete_inputs(self.modalities, given)
        assert batch.facts is not None
        if self.model.text_encoder is not None:
            self.model.text_encoder.check_texts(None, batch.facts.token_range)
        used = [MODALITIES[name] for name in self.modalities]
        inputs = {name: batch.tensors[name] for modality in used for name in modality.encoded}
        inputs |= {modality.present: batch.present[modality.name] for modality in used}
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self.dtype)
        return inputs, batch.facts

    def _piece(
        self, inputs: Mapping[str, Tensor], facts: BatchFacts, start: int, stop: int
    ) -> Tensor:
        """Returns the logits of some rows, filled up to the next compiled batch size."""
        rows = stop - start
        batch = next(size for size in self.batch_sizes if size >= rows)
        filled = {}
        for name, value in inputs.items():
            # Filled up with the first sample again: any sample will do, and this one is in range.
            spare = value[start : start + 1].expand(batch - rows, *value.shape[1:])
            filled[name] = torch.cat([value[start:stop], spare])
        if self.lengths:
            longest = max((facts.text_lengths or ())[start:stop])
            filled |= self._lengthened(filled["input_ids"], filled["attention_mask"], longest)
        # Clone: the next replay of a CUDA graph overwrites this buffer.
        return self._run(filled)[:rows].clone()

    def _lengthened(
        self, input_ids: Tensor, attention_mask: Tensor, longest: int
    ) -> dict[str, Tensor]:
        """Returns the texts, real tokens first, at the least compiled length that holds them."""
        length = next((length for length in self.lengths if length >= longest), None)
        if length is None:
            raise ValueError(
                f"texts must have at most {self.lengths[-1]} tokens, got {longest}. "
                "Give larger lengths."
            )
        ids, mask = real_tokens_first(input_ids, attention_mask.bool(), 0)
        add = (0, length - longest)
        return {
            "input_ids": nn.functional.pad(ids[:, :longest], add),
            "attention_mask": nn.functional.pad(mask[:, :longest].to(attention_mask.dtype), add),
        }

    def _logits(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.model(**inputs).logits


_numbers = itertools.count()


def _with_own_code(method: Any) -> Any:
    """A bound method with a code object of its own: torch counts the graphs of a code object, not of an instance."""
    function = method.__func__
    code = function.__code__.replace(co_name=f"{function.__name__}_{next(_numbers)}")
    own = FunctionType(
        code, function.__globals__, code.co_name, function.__defaults__, function.__closure__
    )
    return own.__get__(method.__self__)


@torch.no_grad()
def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast what is saved; rotary frequencies and the like, which are not, need single precision."""
    saved = model.state_dict().keys()
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    for name, buffer in model.named_buffers():
        if name in saved and buffer.is_floating_point():
            buffer.data = buffer.data.to(dtype)


def _doubled(limit: int) -> list[int]:
    lengths = [64]
    while lengths[-1] < limit:
        lengths.append(2 * lengths[-1])
    return [min(length, limit) for length in lengths]


@contextmanager
def _graphs(count: int, *, for_cpu: bool) -> Iterator[None]:
    """As many graphs of a function as there are shapes, where torch would stop at 8.

    On a CPU with packed texts, whose number of tokens depends on values, and with weights laid out
    once instead of in each call.
    """
    with ExitStack() as patched:
        patched.enter_context(
            torch._dynamo.config.patch(
                recompile_limit=max(count, torch._dynamo.config.recompile_limit)
            )
        )
        if for_cpu:
            # Imported where it is used: it is large, and only what is compiled needs it.
            from torch._inductor import config as inductor

            patched.enter_context(torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True))
            patched.enter_context(inductor.patch(freezing=True))
        yield
