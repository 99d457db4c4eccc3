"""How often a forward pass makes the host wait for the device, for every strategy.

A device computes while the host goes on. Whenever the host reads a number of a tensor, it waits
until the device has computed all that came before. Between two towers such a wait leaves the device
idle.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmfusion import FusionClassifier, FusionCollator, FusionProcessor
from mmfusion import testing as kit
from mmfusion.data.toy import word_tokenizer
from mmfusion.model.fusion import BUILT_IN

# Operators whose result depends on values, so that a device has to be asked for them.
WAITING_OPERATORS = {
    "_local_scalar_dense",
    "is_nonzero",
    "nonzero",
    "item",
    "equal",
    "masked_select",
}
WAITING_METHODS = {
    "tolist",
    "item",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "numpy",
    "cpu",
}
WORDS = ["clear", "lungs", "no", "effusion", "opacity", "left", "right", "heart"]


class Operators(TorchDispatchMode):
    """Notes waits among the operators that torch runs."""

    def __init__(self, events: list[str]):
        super().__init__()
        self.events = events

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        # An index of truth values counts them first, inside of torch.
        masks = name == "index" and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITING_OPERATORS or masks:
            self.events.append(name)
        return func(*args, **(kwargs or {}))


class Methods(TorchFunctionMode):
    """Notes waits among the methods that Python code calls on tensors."""

    def __init__(self, events: list[str]):
        super().__init__()
        self.events = events

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in WAITING_METHODS:
            self.events.append(func.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(model: FusionClassifier) -> Iterator[list[str]]:
    """Yields the list of what happens: "tower" where one starts, else the name of a wait."""
    events: list[str] = []
    encoders = [encoder for encoder in (model.image_encoder, model.text_encoder) if encoder]
    handles = [
        module.register_forward_pre_hook(lambda *_: events.append("tower"))
        for encoder in encoders
        for module in encoder.backbone.modules()
        if module is not encoder.backbone
    ]
    try:
        with Operators(events), Methods(events):
            yield events
    finally:
        for handle in handles:
            handle.remove()


def collated(model: FusionClassifier, *, missing: bool, labels: Any = None) -> dict[str, Any]:
    """Returns a batch of 16 unlike texts from the library's collator."""
    spec = model.image_encoder.input_spec if model.image_encoder else None
    processor = FusionProcessor(word_tokenizer(WORDS), spec, 30)
    draw = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for number in range(16):
        words = draw.choice(WORDS, 1 + 2 * (number % 9))
        picture = draw.integers(0, 255, (*(spec or {"size": [1, 1]})["size"], 3), dtype=np.uint8)
        label = number % 3 if labels is None else labels[number]
        rows.append({"image": picture, "text": " ".join(words), "label": label})
    if missing:
        rows[1]["image"], rows[2]["text"], rows[3]["text"] = None, None, "  "
    return FusionCollator(processor)(rows)


CASES = [
    pytest.param(fusion, mapper, image, missing, id=f"{fusion}-{mapper}-{image}-{missing}")
    for fusion in BUILT_IN
    for mapper in ("linear", "mlp", "cross_attention")
    for image, missing in (
        ("timm_vit", True),
        ("transformers_vit", False),
        ("transformers_vit", True),
        ("cnn", True),
    )
]


@pytest.mark.parametrize(("fusion", "mapper", "image", "missing"), CASES)
def test_a_collated_batch_costs_no_wait_after_a_tower_has_started(
    fusion: str, mapper: str, image: str, missing: bool
) -> None:
    model = kit.tiny_classifier(fusion, mapper, image)
    batch = collated(model, missing=missing)
    facts = batch.pop("facts")
    for training in (False, True):
        model.train(training)
        # On a CPU facts are compared with the batch, which costs a look. See below for devices.
        for known, most in ((facts, 1), (None, 2)):
            with watched(model) as events:
                model(**batch, facts=known)
            assert "tower" in events
            waits = [event for event in events if event != "tower"]
            assert len(waits) <= most, events
            after = events[events.index("tower") :]
            assert set(after) == {"tower"}, f"a wait after a tower has started: {after}"


@pytest.mark.parametrize("padding", ["padded", "packed"])
@pytest.mark.parametrize("text", ["bert", "roberta", "distilbert", "mpnet", "modernbert"])
def test_no_text_tower_waits(text: str, padding: str) -> None:
    model = kit.tiny_classifier("concat", text=text)
    model.text_encoder.padding = padding
    batch = collated(model, missing=True)
    with watched(model) as events:
        model(**batch)
    assert set(events[events.index("tower") :]) == {"tower"}


def test_multi_label_costs_no_more_than_two_waits() -> None:
    model = kit.tiny_classifier(num_labels=2, problem_type="multi_label_classification")
    batch = collated(model, missing=True, labels=[[1.0, float("nan")]] * 16)
    del batch["facts"]
    with watched(model) as events:
        model(**batch)
    assert 0 < len([event for event in events if event != "tower"]) <= 2


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("fusion", BUILT_IN)
def test_a_device_that_cannot_be_read_gets_through(fusion: str, dropout: float) -> None:
    """A tensor on the meta device has no values: whoever reads one raises."""
    model = kit.tiny_classifier(fusion, "cross_attention", "transformers_vit").train()
    model.config.modality_dropout = dropout
    batch = collated(model, missing=True)
    facts = batch.pop("facts")
    model.to("meta")
    inputs = {name: value.to("meta") for name, value in batch.items()}
    assert model(**inputs, facts=facts).loss.device.type == "meta"
    with pytest.raises((RuntimeError, NotImplementedError)):
        model(**inputs)


def test_facts_of_another_batch_are_not_used() -> None:
    model = kit.tiny_classifier("joint")
    batch = collated(model, missing=True)
    part = {name: value[4:9] for name, value in batch.items() if name != "facts"}
    alone = model(**part)
    # nn.DataParallel hands the whole batch's facts to each of its parts.
    assert torch.equal(model(**part, facts=batch["facts"]).logits, alone.logits)


def test_facts_change_no_answer() -> None:
    for fusion in BUILT_IN:
        model = kit.tiny_classifier(fusion)
        batch = collated(model, missing=True)
        expected = model(**{name: value for name, value in batch.items() if name != "facts"})
        assert torch.equal(model(**batch).logits, expected.logits)


def test_ids_of_an_absent_text_may_be_anything() -> None:
    """The slot of a missing text is not looked at, also not by the check of the vocabulary."""
    model = kit.tiny_classifier()
    batch = kit.tiny_batch(model)
    expected = model(**batch).logits
    absent = ~batch["text_present"]
    assert bool(absent.any())
    batch["input_ids"][absent], batch["attention_mask"][absent] = 10**6, 1
    assert torch.equal(model(**batch).logits, expected)
    batch["input_ids"][0], batch["text_present"][0] = 10**6, True
    with pytest.raises(ValueError, match="the vocabulary"):
        model(**batch)


def test_on_a_cpu_facts_of_another_batch_are_refused() -> None:
    model = kit.tiny_classifier()
    batch = collated(model, missing=True)
    flipped = {name: value.flip(0) for name, value in batch.items() if name != "facts"}
    with pytest.raises(ValueError, match="facts must be those of this batch"):
        model(**flipped, facts=batch["facts"])
    assert batch["facts"].to("cpu") is batch["facts"]


def test_facts_of_unlike_shapes_or_types_are_not_used() -> None:
    model = kit.tiny_classifier()
    batch = collated(model, missing=True)
    facts = batch.pop("facts")
    assert facts.fits(batch)
    for changed in (
        {name: value[:3] for name, value in batch.items()},
        {name: value for name, value in batch.items() if name != "labels"},
        {name: value for name, value in batch.items() if name != "pixel_values"},
        batch | {"attention_mask": batch["attention_mask"][:, :1]},
        batch | {"labels": torch.zeros(16, 3)},
    ):
        assert not facts.fits(changed)


def test_labels_without_elements_are_refused() -> None:
    model = kit.tiny_classifier()
    batch = kit.tiny_batch(model)
    with pytest.raises(ValueError, match=r"labels must be class indices \[4\]"):
        model(**(batch | {"labels": batch["labels"][:0]}))
