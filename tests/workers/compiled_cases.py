"""The tests of the compiled classifier, run by test_compiled.py without the check of shapes.

The compiled classifier answers as the eager one does for every shape of the inputs. It compiles no
more graphs than it has shapes.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmfusion import CompiledClassifier, FusionClassifier, FusionProcessor, predict_stream
from mmfusion import testing as kit
from mmfusion.data.toy import word_tokenizer
from mmfusion.inference import int8
from mmfusion.model import packed_attention


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch.compiler.reset()


class Counting:
    """A backend that runs each graph eagerly and counts the graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


def inputs_of(model: Any, rows: int, *, columns: int = 0, seed: int = 0) -> dict[str, Tensor]:
    batch = kit.repadded(kit.tiny_batch(model, rows, missing=rows > 1, seed=seed), extra=columns)
    return {name: value for name, value in batch.items() if name != "labels"}


@pytest.mark.parametrize(
    ("image", "text", "fusion"),
    [
        ("timm_vit", "bert", "concat"),
        ("cnn", "roberta", "mmtm"),
        ("transformers_vit", "modernbert", "joint"),
        ("cnn", "custom", "film"),
        ("custom", "custom", "gated"),
        ("custom", "custom", "low_rank"),
        ("custom", "custom", "tokens"),
    ],
)
def test_it_answers_as_eager_does_and_compiles_no_more_than_its_shapes(
    image: str, text: str, fusion: str
) -> None:
    model = kit.tiny_classifier(fusion, "linear", image, text)
    backend = Counting()
    fast = CompiledClassifier(model, batch_sizes=(1, 4), lengths=(4, 8), backend=backend)
    for seed, (rows, columns) in enumerate(
        [(1, 0), (2, 0), (3, 5), (4, 1), (11, 0), (1, 2), (4, 0)]
    ):
        inputs = inputs_of(model, rows, columns=columns, seed=seed)
        with torch.no_grad():
            torch.testing.assert_close(
                fast(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=0
            )
    assert 2 <= backend.graphs <= len(fast.shapes) == 4


def test_8_bit_integers_answer_as_the_quantised_classifier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(int8, "LEAST_WIDTH", 8)
    model = kit.tiny_classifier("concat", "linear", "timm_vit", "bert")
    fast = CompiledClassifier(
        model, dtype="int8", batch_sizes=(4,), lengths=(8,), backend=Counting()
    )
    quantised = copy.deepcopy(model).eval().to(torch.bfloat16)
    half = copy.deepcopy(quantised)
    int8.quantize_linear_layers(quantised, 8)
    inputs = inputs_of(model, 3)
    with torch.no_grad():
        expected = quantised(**inputs).logits
        torch.testing.assert_close(fast(**inputs).logits, expected, atol=1e-3, rtol=1e-2)
        assert not torch.equal(half(**inputs).logits, expected)
    with pytest.raises(ValueError, match="before it is quantised"):
        fast.load_state_dict(model.state_dict())
    with pytest.raises(TypeError, match="dtype must be a floating-point type of torch, got 'int4'"):
        CompiledClassifier(model, dtype="int4")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "fusion", "dtype"),
    [("roberta", "mmtm", None), ("modernbert", "concat", torch.bfloat16)],
)
def test_on_a_cpu_the_compilers_graph_computes_real_tokens_alone(
    text: str, fusion: str, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch's own compiler lays the weights out for the processor. Other texts of the same shape
    # must run through the same graph.
    model = kit.tiny_classifier(fusion, "linear", "cnn", text)
    fast = CompiledClassifier(model, dtype=dtype, batch_sizes=(4,), lengths=(16,))
    attended: list[int] = []
    real = packed_attention._text_by_text
    monkeypatch.setattr(
        packed_attention,
        "_text_by_text",
        lambda *args: attended.append(args[0].shape[2]) or real(*args),
    )
    torch._dynamo.utils.counters.clear()
    for seed, (rows, columns) in enumerate([(4, 0), (3, 5), (2, 0), (9, 1)]):
        inputs = inputs_of(model, rows, columns=columns, seed=seed)
        with torch.no_grad():
            expected = model(**inputs).logits
        attended.clear()
        torch.testing.assert_close(
            fast(**inputs).logits.float(), expected, atol=1e-5 if dtype is None else 0.1, rtol=0
        )
        assert not fast._for_cpu or tokens(inputs, rows) in attended
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def tokens(inputs: dict[str, Tensor], rows: int) -> int:
    """Returns the number of tokens that a graph of four samples computes for the first four rows.

    An absent text counts as one token. Where there are fewer rows, the first one is repeated.
    """
    counts = [
        int(mask.sum()) if here else 1
        for mask, here in zip(inputs["attention_mask"], inputs["text_present"], strict=True)
    ]
    first = counts[:4]
    return sum(first) + first[0] * (4 - len(first))


def test_other_weights_and_another_type_are_compiled_anew() -> None:
    # A graph on a CPU holds its weights, so an old graph would go on with the old weights.
    model, other = (
        kit.tiny_classifier("concat", "linear", "custom", "custom", seed=seed) for seed in (0, 1)
    )
    fast = CompiledClassifier(model, batch_sizes=(2,), lengths=(8,))
    inputs = inputs_of(model, 2)
    fast(**inputs)
    fast.load_state_dict({f"model.{name}": value for name, value in other.state_dict().items()})
    with torch.no_grad():
        torch.testing.assert_close(fast(**inputs).logits, other(**inputs).logits, atol=1e-5, rtol=0)
    before = fast._run
    assert fast.to(torch.bfloat16)._run is not before and fast.dtype == torch.bfloat16


def test_a_graph_packs_on_a_cpu_unless_told_otherwise() -> None:
    model = kit.tiny_classifier("concat", "linear", "timm_vit", "bert")
    seen: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        seen.append(
            sum(
                node.target is torch.ops.mmfusion.text_by_text.default for node in graph.graph.nodes
            )
        )
        return graph.forward

    for padding in ("auto", "padded"):
        model.text_encoder.padding = padding
        fast = CompiledClassifier(model, batch_sizes=(2,), lengths=(8,), backend=backend)
        fast(**inputs_of(model, 2))
    assert seen == [model.text_encoder.num_blocks if fast._for_cpu else 0, 0]
    assert not model.text_encoder._packs_in_graphs


def test_more_shapes_than_torch_allows_by_itself() -> None:
    model = kit.tiny_classifier(image=None, text="custom")
    backend = Counting()
    fast = CompiledClassifier(
        model, batch_sizes=(1, 2, 3), lengths=(2, 3, 4, 5), backend=backend
    ).warm_up()
    assert backend.graphs == len(fast.shapes) == 12 > torch._dynamo.config.recompile_limit
    # Every mode of the caller must use the same graphs: inference mode could compile others.
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            fast(**inputs_of(model, 2))
    assert backend.graphs == 12


def test_several_live_ones_do_not_share_a_budget() -> None:
    model = kit.tiny_classifier(image=None, text="custom")
    backend = Counting()
    alive = [
        CompiledClassifier(model, batch_sizes=(1, 2), lengths=(3, 4), backend=backend).warm_up()
        for _ in range(4)
    ]
    assert backend.graphs == sum(len(fast.shapes) for fast in alive) == 16


def test_what_is_not_saved_keeps_its_precision() -> None:
    model = kit.tiny_classifier("concat", "linear", None, "modernbert")
    fast = CompiledClassifier(model, dtype=torch.bfloat16, backend="eager", lengths=(8,))
    buffers = {
        name: buffer.dtype for name, buffer in fast.model.named_buffers() if "inv_freq" in name
    }
    assert buffers and set(buffers.values()) == {torch.float32}
    model.text_encoder.bfloat16()
    assert {p.dtype for p in CompiledClassifier(model, backend="eager").parameters()} == {
        torch.float32,
        torch.bfloat16,
    }


def test_the_model_stays_as_it_is_and_the_copy_is_in_half_precision() -> None:
    model = kit.tiny_classifier("late", "linear", "timm_vit", "bert").train()
    fast = CompiledClassifier(
        model, dtype=torch.bfloat16, batch_sizes=(4,), lengths=(8,), backend="eager"
    )
    assert (
        model.training
        and model.dtype == torch.float32
        and all(p.requires_grad for p in model.parameters())
    )
    assert (
        fast.dtype == torch.bfloat16
        and not fast.train().training
        and not any(p.requires_grad for p in fast.parameters())
    )
    inputs = inputs_of(model, 3)
    logits = fast(**inputs).logits.float()
    with torch.no_grad():
        expected = model.eval()(**inputs).logits
    assert not torch.equal(logits, expected)
    torch.testing.assert_close(logits, expected, atol=0.1, rtol=0)


def test_it_streams() -> None:
    model = kit.tiny_classifier("concat", "linear", "timm_vit", "bert")
    processor = FusionProcessor(
        word_tokenizer(["clear lungs effusion"]), model.image_encoder.input_spec
    )
    noise = np.random.default_rng(0).integers(0, 256, (9, 20, 20), dtype=np.uint8)
    samples = [
        {
            "image": None if i == 4 else noise[i],
            "text": "clear lungs effusion"[: 5 + i] if i % 3 else None,
        }
        for i in range(9)
    ]
    fast = CompiledClassifier(model, batch_sizes=(2, 4), lengths=(8,), backend="eager")
    found = list(predict_stream(fast, processor, samples, batch_size=4, progress=False))
    for answer, expected in zip(
        found, predict_stream(model, processor, samples, batch_size=4, progress=False), strict=True
    ):
        np.testing.assert_allclose(answer.logits, expected.logits, atol=1e-5)
        assert answer.missing == expected.missing


def test_lengths_go_up_to_the_encoders_limit() -> None:
    model = kit.tiny_classifier(image=None, text="bert")
    limit = model.text_encoder.max_length
    assert [length for _, length in CompiledClassifier(model, batch_sizes=(1,)).shapes][-1] == limit
    assert CompiledClassifier(
        kit.tiny_classifier(image="cnn", text=None), batch_sizes=(2, 2)
    ).shapes == [(2, 0)]


def test_what_it_refuses() -> None:
    model = kit.tiny_classifier("concat", "linear", "timm_vit", "bert")
    with pytest.raises(
        ValueError, match=r"batch_sizes must be one or more numbers of at least 1, got \(0,\)"
    ):
        CompiledClassifier(model, batch_sizes=(0,))
    with pytest.raises(
        ValueError, match=r"lengths must be one or more numbers of at least 1, got \(\)"
    ):
        CompiledClassifier(model, lengths=())
    with pytest.raises(
        ValueError, match=r"lengths must be at most \d+, the text encoder's limit, got 100000"
    ):
        CompiledClassifier(model, lengths=(100_000,))
    fast = CompiledClassifier(model, batch_sizes=(4,), lengths=(3,), backend="eager")
    with pytest.raises(ValueError, match="inputs must hold at least one sample"):
        fast(**{name: value[:0] for name, value in inputs_of(model, 2).items()})
    inputs = inputs_of(model, 4)
    with pytest.raises(
        ValueError, match=r"texts must have at most 3 tokens, got \d. Give larger lengths"
    ):
        fast(**inputs)
    with pytest.raises(
        ValueError,
        match=r"inputs must be those of the towers \(image, text\), got none for input_ids",
    ):
        fast(pixel_values=inputs["pixel_values"])
    with pytest.raises(ValueError, match="got pixel_values too"):
        CompiledClassifier(kit.tiny_classifier(image=None, text="bert"))(**inputs)
    # Here, where no shapes are checked at run time, the library's own messages are seen.
    for refuses in (model, fast):
        with pytest.raises(
            ValueError, match=r"pixel_values must be .*, got the shape \(3, 32, 32\)"
        ):
            refuses(**inputs | {"pixel_values": inputs["pixel_values"][0]})
        with pytest.raises(ValueError, match=r"attention_mask must have the shape of input_ids"):
            refuses(**inputs | {"attention_mask": inputs["attention_mask"][:, 1:]})
        with pytest.raises(TypeError, match="pixel_values must be a tensor of torch, got ndarray"):
            refuses(**inputs | {"pixel_values": inputs["pixel_values"].numpy()})
    inputs["text_present"][:] = False
    with pytest.raises(
        ValueError,
        match=r"every sample must have an image or a text, got none in rows \[0\] of the batch",
    ):
        fast(**inputs)


@pytest.mark.parametrize(
    ("image", "text", "fusion"),
    [("cnn", "roberta", "mmtm"), ("timm_vit", "bert", "joint")],
)
def test_pictures_of_a_study_and_windows_of_a_text(image: str, text: str, fusion: str) -> None:
    config = kit.tiny_classifier(fusion, "linear", image, text).config
    config.num_views = 3
    model = FusionClassifier(config).eval()
    kit.redraw_parameters(model, 0)
    backend = Counting()
    sizes = {"batch_sizes": (4,), "lengths": (8,), "windows": (2, 4)}
    fast = CompiledClassifier(model, **sizes, backend=backend)
    for windows, graphs in ((3, 1), (2, 2), (4, 2), (1, 3)):
        batch = kit.tiny_batch(model, 5, windows=windows, seed=windows)
        del batch["labels"]
        with torch.no_grad():
            expected = model(**batch).logits
        torch.testing.assert_close(fast(**batch).logits, expected, rtol=0, atol=1e-4)
        assert backend.graphs == graphs
    # A batch in which no sample has the last picture.
    less = batch | {name: batch[name][:, :2] for name in ("pixel_values", "image_present")}
    less["image_present"] = torch.ones(5, 2, dtype=torch.bool)
    with torch.no_grad():
        expected = model(**less).logits
    torch.testing.assert_close(fast(**less).logits, expected, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="texts must have at most 4 windows, got 5"):
        fast(**{n: v for n, v in kit.tiny_batch(model, windows=5).items() if n != "labels"})
