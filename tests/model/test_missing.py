"""The inputs of each modality, and which samples lack which modality."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmfusion.model.facts import BatchFacts, look
from mmfusion.model.missing import (
    BatchInputs,
    complete_inputs,
    drop_modalities,
    is_blank,
)
from mmfusion.model.modalities import describes_itself
from mmfusion.model.tower_start import tower_of


def test_neither_modality_is_an_error(classifier: Any, batch: Any) -> None:
    model, inputs = classifier(), batch()
    with pytest.raises(ValueError, match="pixel_values or input_ids must be given, got neither"):
        model()
    present = {
        "image_present": torch.tensor([True, False, True, True]),
        "text_present": torch.tensor([True, False, True, True]),
    }
    with pytest.raises(
        ValueError, match=r"every sample must have an image or a text, got none in rows \[1\]"
    ):
        model(**inputs, **present)


def test_a_mask_without_a_one_is_a_missing_text(classifier: Any, batch: Any) -> None:
    model, inputs = classifier(), batch()
    inputs["attention_mask"][2] = 0
    said = model(**inputs, text_present=torch.tensor([True, True, False, True])).logits
    assert torch.equal(model(**inputs).logits, said)
    assert torch.equal(model(**inputs, text_present=torch.ones(4, dtype=torch.bool)).logits, said)


def test_a_whole_batch_may_lack_a_modality(classifier: Any, batch: Any) -> None:
    model, inputs = classifier(), batch()
    absent = torch.zeros(4, dtype=torch.bool)
    without = model(pixel_values=inputs["pixel_values"]).logits
    assert torch.equal(model(**inputs, text_present=absent).logits, without)
    words = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    assert torch.equal(model(**inputs, image_present=absent).logits, model(**words).logits)


def test_no_mask_means_that_every_token_is_real(classifier: Any, batch: Any) -> None:
    model, inputs = classifier(), batch()
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    with_mask = model(**inputs).logits
    del inputs["attention_mask"]
    assert torch.equal(model(**inputs).logits, with_mask)


def test_presence_of_another_length_is_refused(classifier: Any, batch: Any) -> None:
    # The run-time check of the shapes may raise its own error first.
    with pytest.raises(
        (ValueError, TypeError), match="presence must be one flag per sample|image_present"
    ):
        classifier()(**batch(), image_present=torch.ones(3, dtype=torch.bool))


def test_modality_dropout_takes_one_modality_at_its_rate(
    monkeypatch: pytest.MonkeyPatch, classifier: Any
) -> None:
    model = classifier(modality_dropout=0.4, fusion="late")
    seen: list[Tensor] = []

    def spy(model: Any, name: str, batch: BatchInputs) -> Any:
        seen.append(batch.present[name])
        return tower_of(model, name, batch)

    monkeypatch.setattr("mmfusion.model.modeling.tower_of", spy)
    rows = 2000
    present = torch.ones(rows, dtype=torch.bool)
    image_only, text_only = present.clone(), present.clone()
    image_only[:100], text_only[100:200] = False, False
    inputs = {
        "pixel_values": torch.zeros(rows, 3, 16, 16),
        "input_ids": torch.ones(rows, 1, dtype=torch.long),
    }
    with torch.no_grad():
        model(**inputs, image_present=image_only, text_present=text_only)
        assert torch.equal(seen[0], image_only) and torch.equal(seen[1], text_only)
        seen.clear()
        model.training = True
        model(**inputs, image_present=image_only, text_present=text_only)
    image, text = seen
    assert bool((image | text).all())
    assert torch.equal(image[:200], image_only[:200]) and torch.equal(text[:200], text_only[:200])
    for lost in (~image[200:], ~text[200:]):
        # The bound is five standard deviations of a rate of 0.2 over 1,800 samples.
        assert abs(lost.float().mean().item() - 0.2) < 0.047
    assert bool((~image[200:] & ~text[200:]).sum() == 0)


BOTH = ("image", "text")


def random_inputs(seed: int, rows: int = 12) -> dict[str, Tensor]:
    """Returns a batch in which images and texts are missing at random, by flags or by masks."""
    draw = torch.Generator().manual_seed(seed)
    inputs = {
        "pixel_values": torch.zeros(rows, 1, 2, 2),
        "input_ids": torch.randint(3, 50, (rows, 6), generator=draw),
        "attention_mask": (torch.rand(rows, 6, generator=draw) < 0.4).long(),
        "image_present": torch.rand(rows, generator=draw) < 0.6,
        "text_present": torch.rand(rows, generator=draw) < 0.6,
    }
    inputs["attention_mask"][:3] = 0
    inputs["image_present"] |= ~(inputs["text_present"] & inputs["attention_mask"].bool().any(1))
    return inputs


def test_masks_and_flags_are_filled_in() -> None:
    pixels, ids = torch.zeros(2, 1, 2, 2), torch.tensor([[5, 6, 7], [8, 9, 4]])
    batch = complete_inputs(BOTH, {"pixel_values": pixels, "input_ids": ids, "labels": None})
    assert set(batch.tensors) == {"pixel_values", "input_ids", "attention_mask"}
    assert batch.tensors["attention_mask"].tolist() == [[True] * 3] * 2
    assert {name: flags.tolist() for name, flags in batch.present.items()} == {
        "image": [True, True],
        "text": [True, True],
    }
    given = {"input_ids": ids, "attention_mask": torch.tensor([[1, 0, 1], [0, 1, 0]])}
    batch = complete_inputs(BOTH, given)
    assert batch.tensors["attention_mask"] is given["attention_mask"]
    assert batch.present["image"].tolist() == [False, False]
    # What a cache stored is a text, too, and its mask is filled in with the places of the state.
    batch = complete_inputs(BOTH, {"text_state": torch.zeros(2, 4, 8)})
    assert batch.tensors["attention_mask"].shape == (2, 4)
    assert batch.present["text"].tolist() == [True, True]


@pytest.mark.parametrize(
    ("modalities", "given", "message"),
    [
        (
            ("text",),
            ["input_ids", "pixel_values"],
            "pixel_values must be left out of .* text alone",
        ),
        (("text",), ["input_ids", "image_state"], "image_state must be left out of .* text alone"),
        (
            ("image",),
            ["pixel_values", "text_state"],
            "text_state must be left out of .* image alone",
        ),
        (BOTH, ["attention_mask"], "pixel_values or input_ids must be given, got neither"),
        (BOTH, [], "pixel_values or input_ids must be given, got neither"),
    ],
)
def test_inputs_without_a_tower_are_refused(
    modalities: tuple[str, ...], given: list[str], message: str
) -> None:
    tensors = {"pixel_values": torch.zeros(2, 1, 2, 2), "input_ids": torch.ones(2, 3).long()}
    tensors |= {"attention_mask": torch.ones(2, 3).long()}
    tensors |= {"image_state": torch.zeros(2, 3, 4), "text_state": torch.zeros(2, 3, 4)}
    with pytest.raises(ValueError, match=message):
        complete_inputs(modalities, {name: tensors[name] for name in given})


def test_there_must_be_one_flag_per_sample() -> None:
    given = {"pixel_values": torch.zeros(2, 1, 2, 2), "image_present": torch.tensor([True] * 3)}
    with pytest.raises(ValueError, match=r"presence must be one flag per sample \[2\], got \(3,\)"):
        complete_inputs(BOTH, given)


@pytest.mark.parametrize("labels", ["none", "indices", "multi", "odd"])
@pytest.mark.parametrize("seed", range(4))
def test_facts_are_what_plain_python_counts(seed: int, labels: str) -> None:
    inputs = random_inputs(seed)
    draw = torch.Generator().manual_seed(seed)
    if labels == "indices":
        inputs["labels"] = torch.randint(0, 9, (12,), generator=draw)
    elif labels != "none":
        inputs["labels"] = torch.randint(0, 2, (12, 3), generator=draw).float()
        inputs["labels"][2, 1] = float("nan")
    if labels == "odd":
        inputs["labels"][5, 2], inputs["labels"][8, 0] = 0.25, 3.0
    ids, mask = inputs["input_ids"].tolist(), inputs["attention_mask"].tolist()
    images, texts = inputs["image_present"].tolist(), inputs["text_present"].tolist()
    texts = [flag and any(row) for flag, row in zip(texts, mask, strict=True)]
    assert True in images and False in images and True in texts and False in texts
    real = [
        [token for token, kept in zip(ids[row], mask[row], strict=True) if kept and texts[row]]
        for row in range(12)
    ]
    # Padding counts as the token 0, which every vocabulary has.
    everything = [0, *(token for tokens in real for token in tokens)]
    classes = inputs["labels"].tolist() if labels == "indices" else []
    expected = BatchFacts(
        present={"image": tuple(images), "text": tuple(texts)},
        text_lengths=tuple(len(tokens) for tokens in real),
        token_range=(0, max(everything)),
        class_range=(min(classes), max(classes)) if classes else None,
        odd_label=0.25 if labels == "odd" else None,
        labelled=labels != "none",
    )
    assert look(inputs) == expected
    assert complete_inputs(BOTH, inputs).facts == expected


def test_facts_that_fit_are_taken_and_others_are_looked_up() -> None:
    inputs = random_inputs(0)
    facts = look(inputs)
    assert complete_inputs(BOTH, inputs, facts).facts is facts
    with pytest.raises(ValueError, match="facts must be those of this batch"):
        complete_inputs(BOTH, inputs, replace(facts, token_range=(1, 2)))
    part = {name: value[:4] for name, value in inputs.items()}
    assert complete_inputs(BOTH, part, facts).facts == look(part)


def test_facts_fit_a_batch_of_their_own_shape_alone() -> None:
    inputs = random_inputs(0) | {"labels": torch.zeros(12, dtype=torch.long)}
    facts = look(inputs)
    longest = max(facts.text_lengths or ())
    assert facts.fits(inputs)
    assert not facts.fits({name: value[:6] for name, value in inputs.items()})
    assert not facts.fits({name: value for name, value in inputs.items() if name != "labels"})
    assert not facts.fits({name: value for name, value in inputs.items() if name != "pixel_values"})
    for places, fits in ((longest, True), (longest - 1, False)):
        cut = {name: inputs[name][:, :places] for name in ("input_ids", "attention_mask")}
        assert facts.fits(inputs | cut) == fits


@pytest.mark.parametrize("probability", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_dropped_modalities_are_the_same_in_facts_and_tensors(
    seed: int, probability: float
) -> None:
    batch = complete_inputs(BOTH, random_inputs(seed, rows=60))
    torch.manual_seed(seed)
    dropped = drop_modalities(batch, probability)
    assert dropped.facts is not None and dropped.tensors is batch.tensors
    flags = {name: dropped.present[name].tolist() for name in BOTH}
    assert {name: list(flags) for name, flags in dropped.facts.present.items()} == flags
    masks = batch.tensors["attention_mask"].tolist()
    assert list(dropped.facts.text_lengths or ()) == [
        sum(mask) if flag else 0 for mask, flag in zip(masks, flags["text"], strict=True)
    ]
    lost = 0
    for row in range(60):
        before = [batch.present[name][row].item() for name in BOTH]
        after = [flags[name][row] for name in BOTH]
        assert after in (
            [before] if sum(before) == 1 else [[True, True], [True, False], [False, True]]
        )
        lost += before != after
    assert (lost > 0) == (probability > 0)
    # A graph has no facts. The same draw must drop the same modalities there.
    torch.manual_seed(seed)
    traced = drop_modalities(replace(batch, facts=None), probability)
    assert {name: traced.present[name].tolist() for name in BOTH} == flags


@pytest.mark.parametrize(
    ("value", "blank"),
    [
        (None, True), (float("nan"), True), ("", True), (" \n\t", True),
        ("a", False), (" a ", False), (0, False), (0.0, False), (False, False),
    ],
)  # fmt: skip
def test_what_is_blank(value: object, blank: bool) -> None:
    assert is_blank(value) == blank


def test_inputs_of_unlike_batches_are_refused() -> None:
    given = {"pixel_values": torch.zeros(2, 3, 8, 8), "input_ids": torch.ones(3, 4).long()}
    with pytest.raises(ValueError, match=r"input_ids must have one row per sample \(2\), got"):
        complete_inputs(("image", "text"), given)


def test_a_batch_describes_itself_with_its_masks_and_flags_alone() -> None:
    assert not describes_itself(["labels"])
    assert describes_itself(["pixel_values", "image_present", "labels"])
    assert not describes_itself(["pixel_values"])
    assert not describes_itself(["input_ids", "text_present"])
    assert describes_itself(["input_ids", "attention_mask", "text_present"])
