"""The classifier that is compiled for inference, for a few shapes."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..model.encoder_build import checked_dtype
from ..model.facts import BatchFacts
from ..model.masking import real_tokens_first
from ..model.missing import graph_inputs
from ..model.modalities import MODALITIES
from ..model.modeling import FusionClassifier
from ..model.types import FusionOutput
from .compiled_graphs import (
    cast,
    compile_options,
    convolutions_as_products,
    doubled,
    graphs,
    row_length,
    with_own_code,
)
from .int8 import quantize_linear_layers

ROW_DEVICES = ("cuda",)
"""Where a graph packs its texts into rows of a few fixed lengths."""


@final
class CompiledClassifier(nn.Module):
    """A copy of a classifier that is compiled for inference, for a few shapes.

    A compiled graph works for one shape, and compiling takes from seconds to minutes. Therefore a
    batch is padded to the next of a few batch sizes, and its texts to the next of a few lengths.
    The padding is cut off the logits. The padding does not change the logits (docs/laws.md). At
    most `len(shapes)` graphs are compiled, each when it is first needed.

    On CUDA, and on a CPU with torch 2.14 or newer, the text tower of a graph computes only real
    tokens, as that of the classifier does (see `TextEncoder.padding`). Batches of one stay padded.
    On other devices and with older versions, texts are padded inside a graph. If their lengths
    differ much, the classifier itself may be faster: `python -m benchmarks --case compiled`
    measures both.

    A graph does not see changes of the copy: on a CPU, torch keeps the weights in another layout,
    and the attributes of the modules are read once. The graphs are compiled again after a move to
    another device and after `load_state_dict`.

    Args:
        model: the classifier. It is not changed.
        dtype: the type of the copy's weights, for example half precision; None keeps the type of
            each weight. "int8" quantises the wide linear layers of the encoders and casts the rest
            to bfloat16 (`mmfusion.inference.int8`, extra `int8`).
            `mmfusion.inference.parity.parity` tells how far the answers move.
        batch_sizes: the batch sizes that are compiled. A larger batch is cut into pieces of the
            largest size.
        lengths: the text lengths in tokens that are compiled; None means 64, 128, 256 ... up to the
            text encoder's limit.
        windows: the numbers of windows that are compiled where a batch has texts in windows.
        mode: as `torch.compile` takes it; None means "reduce-overhead" (CUDA graphs) on CUDA and
            "default" elsewhere.
        backend: as `torch.compile` takes it.

    Raises:
        ValueError: for a batch size or length below 1, or a length above the text encoder's limit;
            in use, for texts longer than the largest length.

    Shape:
        that of `FusionClassifier`: pixel_values [B, C, H, W], input_ids and attention_mask [B, L],
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
        dtype: torch.dtype | Literal["int8"] | None = None,
        batch_sizes: Sequence[int] = (1, 32),
        lengths: Sequence[int] | None = None,
        windows: Sequence[int] = (2, 4, 8),
        mode: str | None = None,
        backend: str | Callable[..., Any] = "inductor",
    ):
        super().__init__()
        limit = None if model.text_encoder is None else model.text_encoder.max_length
        if lengths is None:
            lengths = doubled(limit or 512) if model.text_encoder is not None else ()
        sizes = {"batch_sizes": batch_sizes, "lengths": lengths, "windows": windows}
        for name, values in sizes.items():
            may_lack = name == "lengths" and model.text_encoder is None
            if any(value < 1 for value in values) or not (values or may_lack):
                raise ValueError(
                    f"{name} must be one or more numbers of at least 1, got {tuple(values)!r}."
                )
        if limit is not None and lengths and max(lengths) > limit:
            raise ValueError(
                f"lengths must be at most {limit}, the text encoder's limit, got {max(lengths)}. "
                "Leave it out."
            )
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._is_int8 = dtype == "int8"
        if self._is_int8:
            # The rest in bfloat16: in float32, convolutions would take longer than is saved.
            cast(self.model, torch.bfloat16)
            quantize_linear_layers(self.model)
        elif dtype is not None:
            cast(self.model, checked_dtype(dtype))
        self.batch_sizes, self.lengths = sorted(set(batch_sizes)), sorted(set(lengths))
        self.windows = sorted(set(windows))
        self._mode, self._backend = mode, backend
        self._start_anew()

    def _start_anew(self) -> None:
        """Discards all graphs.

        The graphs of a CPU hold copies of the weights, and another device needs other graphs.
        """
        device = self.model.device.type
        # Before 2.14, torch cannot choose a layout of weights if the number of tokens is not fixed.
        # `torch.__version__` compares as a version, not as a string.
        self._for_cpu = device == "cpu" and torch.__version__ >= "2.14"
        # A CUDA graph has fixed shapes, so its rows of tokens have a few lengths.
        text = self.model.text_encoder
        self._has_rows = device in ROW_DEVICES and text is not None and text.may_pack
        if text is not None:
            text.pack_in_graphs(self._for_cpu)
        if device == "cuda":
            convolutions_as_products(self.model)
        mode = self._mode or ("reduce-overhead" if device == "cuda" else "default")
        self._run = torch.compile(
            with_own_code(self._logits),
            dynamic=False,
            fullgraph=True,
            backend=self._backend,
            options=compile_options(self._backend, mode),
        )

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        # `to`, `half` and the like call this method.
        applied = super()._apply(fn, recurse)
        self._start_anew()
        return applied

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Loads other weights, as `torch.nn.Module` does. The graphs are compiled again.

        Args:
            *args: as `torch.nn.Module.load_state_dict` takes them.
            **kwargs: as `torch.nn.Module.load_state_dict` takes them.

        Returns:
            What `torch.nn.Module.load_state_dict` returns.

        Raises:
            ValueError: if the copy is quantised.
        """
        if self._is_int8:
            raise ValueError(
                "weights must be loaded into the classifier before it is quantised. Compile the "
                "classifier anew."
            )
        loaded = super().load_state_dict(*args, **kwargs)
        self._start_anew()
        return loaded

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The shapes to compile: (batch size, text length), with length 0 if there are no texts."""
        return [(batch, length) for batch in self.batch_sizes for length in self.lengths or [0]]

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities for which there is a tower."""
        return self.model.modalities

    @property
    def config(self) -> PreTrainedConfig:
        """The classifier's config."""
        return self.model.config

    @property
    def multi_label(self) -> bool:
        """Whether one sample may belong to several classes."""
        return self.model.multi_label

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.model.dtype

    def train(self, mode: bool = True) -> Self:
        """Returns this classifier in eval mode, because it cannot be trained.

        Args:
            mode: ignored.
        """
        return super().train(False)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_present: Tensor | None = None,
        text_present: Tensor | None = None,
        facts: BatchFacts | None = None,
    ) -> FusionOutput:
        """Returns the logits that `FusionClassifier.forward` returns.

        Args:
            pixel_values: as `FusionClassifier.forward` takes them. They are cast to the type of the
                weights.
            input_ids: as `FusionClassifier.forward` takes them.
            attention_mask: as `FusionClassifier.forward` takes it.
            image_present: as `FusionClassifier.forward` takes it.
            text_present: as `FusionClassifier.forward` takes it.
            facts: as `FusionClassifier.forward` takes it.

        Raises:
            ValueError: if an input has no tower, if the input of a tower is missing, if a sample
                has neither modality, or if a text is too long.
        """
        arguments = {
            "pixel_values": pixel_values,
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "image_present": image_present,
            "text_present": text_present,
        }
        inputs, known = self._completed(
            {name: value for name, value in arguments.items() if value is not None}, facts
        )
        largest = self.batch_sizes[-1]
        rows = next(iter(inputs.values())).shape[0]
        if not rows:
            raise ValueError("inputs must hold at least one sample, got an empty batch.")
        # Always run in the same mode, because torch compiles one graph for inference mode and
        # another for no_grad.
        with (
            graphs(
                len(self.shapes) * (1 + len(self.windows)),
                for_cpu=self._for_cpu,
                int8=self._is_int8,
            ),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            pieces = [
                self._piece(inputs, known, start, min(start + largest, rows))
                for start in range(0, rows, largest)
            ]
        return FusionOutput(logits=torch.cat(pieces))

    def warm_up(self) -> Self:
        """Returns this classifier after every shape was compiled."""
        for batch, length in self.shapes:
            inputs: dict[str, Tensor] = {}
            if self.model.image_encoder is not None:
                spec = self.model.image_encoder.input_spec
                shape = (batch, spec["channels"], *spec["size"])
                inputs["pixel_values"] = torch.zeros(shape, device=self.device)
            if length:
                inputs["input_ids"] = torch.zeros(
                    batch, length, dtype=torch.long, device=self.device
                )
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            self(**inputs)
        return self

    def _completed(
        self, arguments: Mapping[str, Tensor], facts: BatchFacts | None
    ) -> tuple[dict[str, Tensor], BatchFacts]:
        """Returns every input of the graph, and the facts of the batch.

        Every input is filled in, so that there is one graph, instead of one for each combination of
        missing inputs.
        """
        values = {name: modality.values for name, modality in MODALITIES.items()}
        wrong = [
            value
            for name, value in values.items()
            if name not in self.modalities and value in arguments
        ]
        lacking = [values[name] for name in self.modalities if values[name] not in arguments]
        if wrong or lacking:
            state = f"got {', '.join(wrong)} too" if wrong else f"got none for {', '.join(lacking)}"
            raise ValueError(
                f"inputs must be those of the towers ({', '.join(self.modalities)}), {state}. "
                "A processor makes them all: where a sample lacks a modality, it marks that in "
                "image_present or text_present."
            )
        # Check the inputs here, because a graph cannot raise.
        views = self.model.config.num_views
        inputs, known = graph_inputs(self.modalities, arguments, views, facts)
        if self.model.text_encoder is not None:
            self.model.text_encoder.check_texts(None, known.token_range)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self.dtype)
        return inputs, known

    def _piece(
        self, inputs: Mapping[str, Tensor], facts: BatchFacts, start: int, stop: int
    ) -> Tensor:
        """Returns the logits of some rows, computed at the next compiled batch size."""
        rows = stop - start
        batch = next(size for size in self.batch_sizes if size >= rows)
        filled = {}
        for name, value in inputs.items():
            # Repeat the first sample. Any valid sample is right, because its logits are cut off.
            spare = value[start : start + 1].expand(batch - rows, *value.shape[1:])
            # A tensor of inference mode would need a graph of its own, so it is copied.
            copies = batch > rows or value.is_inference()
            value = value[start:stop]
            filled[name] = torch.cat([value, spare]) if copies else value.contiguous()
        row = None
        if self.lengths:
            lengths = facts.window_lengths or [(one,) for one in facts.text_lengths or ()]
            lengths = lengths[start:stop]
            longest = max(map(max, lengths))
            filled |= self._lengthened(filled["input_ids"], filled["attention_mask"], longest)
            if self._has_rows and batch > 1:
                row = self._row_for([*lengths, *lengths[:1] * (batch - rows)], filled["input_ids"])
        # Clone: the next replay of a CUDA graph overwrites this buffer.
        return self._run(filled, row)[:rows].clone()

    def _lengthened(
        self, input_ids: Tensor, attention_mask: Tensor, longest: int
    ) -> dict[str, Tensor]:
        """Returns the texts at the smallest compiled length that holds them, real tokens first."""
        length = next((length for length in self.lengths if length >= longest), None)
        if length is None:
            raise ValueError(
                f"texts must have at most {self.lengths[-1]} tokens, got {longest}. "
                "Give larger lengths."
            )
        axes = input_ids.shape[:-1]
        rows = (input_ids.flatten(0, -2), attention_mask.bool().flatten(0, -2))
        ids, mask = real_tokens_first(*rows, 0)
        add = [0, length - longest]
        if len(axes) == 2:
            windows = next((most for most in self.windows if most >= axes[1]), None)
            if windows is None:
                raise ValueError(
                    f"texts must have at most {self.windows[-1]} windows, got {axes[1]}. Give "
                    "larger windows."
                )
            add += [0, windows - axes[1]]
        ids, mask = (value[:, :longest].unflatten(0, axes) for value in (ids, mask))
        return {
            "input_ids": nn.functional.pad(ids, add),
            "attention_mask": nn.functional.pad(mask.to(attention_mask.dtype), add),
        }

    def _row_for(self, lengths: Sequence[Sequence[int]], input_ids: Tensor) -> Tensor:
        """Returns a tensor as long as the row into which the real tokens of a batch are packed.

        Only its shape is read. The graph is compiled for any length of it, as the shape is that of
        an input. A CUDA graph is recorded for each.

        Args:
            lengths: how many tokens each window of each text has.
            input_ids: the texts as the graph takes them.
        """
        # A text or window that is not there has one token in a graph.
        tokens = sum(max(1, length) for row in lengths for length in row)
        tokens += input_ids.shape[:-1].numel() - sum(map(len, lengths))
        row = torch.empty(min(row_length(tokens), input_ids.numel()), device=self.device)
        torch._dynamo.mark_dynamic(row, 0)
        return row

    # torch.compile takes this method, because a graph returns tensors and no FusionOutput.
    def _logits(self, inputs: dict[str, Tensor], row: Tensor | None) -> Tensor:
        if row is None:
            return self.model(**inputs).logits
        text = self.model.text_encoder
        assert text is not None
        text.pack_in_graphs(left_out=inputs["input_ids"].numel() - row.shape[0])
        logits = self.model(**inputs).logits
        text.pack_in_graphs(False)
        return logits
