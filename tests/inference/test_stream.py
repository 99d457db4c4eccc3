"""Streamed predictions.

They equal the model's own and come in the order of the samples, for any number of samples. A faulty
sample leaves its error in its place.
"""

import copy
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmfusion import FusionClassifier, FusionProcessor, predict_stream
from mmfusion import testing as kit
from mmfusion.cli import errors
from mmfusion.data.toy import word_tokenizer
from mmfusion.inference.stream import WINDOW

WORDS = [
    "no",
    "acute",
    "effusion",
    "opacity",
    "left",
    "right",
    "lung",
    "clear",
    "heart",
    "size",
    "normal",
]


@pytest.fixture(scope="module")
def parts() -> tuple[FusionClassifier, FusionProcessor]:
    model = kit.tiny_classifier("cross_attention", "linear", "timm_vit", "bert")
    return model, FusionProcessor(word_tokenizer([" ".join(WORDS)]), model.image_encoder.input_spec)


def samples(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yields noise and words; every fifth sample lacks its picture, every seventh its text."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        picture = Image.fromarray(rng.integers(0, 256, (20, 24), dtype=np.uint8))
        text = " ".join(rng.choice(WORDS, rng.integers(1, 6)))
        # No sample lacks both, because that is an error.
        lacks_text = index % 7 == 3 and index % 5 != 2
        yield {
            "image": None if index % 5 == 2 else picture,
            "text": None if lacks_text else text,
            "label": 1,
            "note": object(),
        }


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (4, 0), (50, 0), (4, 2)])
def test_each_answer_is_what_the_model_says_of_the_sample_alone(
    parts: tuple[FusionClassifier, FusionProcessor], batch_size: int, workers: int
) -> None:
    model, processor = parts
    model.train()
    model.text_encoder.eval()
    found = []
    for answer in predict_stream(
        model, processor, samples(45), batch_size=batch_size, workers=workers, progress=False
    ):
        # Between two answers the model must be in the mode that the caller set.
        assert model.training and not model.text_encoder.training
        found.append(answer)
    model.eval()
    assert len(found) == 45
    for sample, answer in zip(samples(45), found, strict=True):
        inputs = processor(images=[sample["image"]], text=[sample["text"]])
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        np.testing.assert_allclose(answer.logits, logits, atol=1e-5)
        np.testing.assert_allclose(answer.probabilities, logits.softmax(-1), atol=1e-5)
        assert (
            answer.missing == tuple(name for name in ("image", "text") if sample[name] is None)
            and answer.error is None
        )


def test_multi_label_probabilities_are_sigmoids() -> None:
    model = kit.tiny_classifier(image=None, text="bert", problem_type="multi_label_classification")
    processor = FusionProcessor(word_tokenizer([" ".join(WORDS)]))
    for answer in predict_stream(model, processor, samples(2), progress=False):
        np.testing.assert_allclose(
            answer.probabilities, 1 / (1 + np.exp(-answer.logits)), atol=1e-6
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_it_reads_no_further_than_it_must(
    parts: tuple[FusionClassifier, FusionProcessor], workers: int
) -> None:
    read = 0

    def endless() -> Iterator[dict[str, Any]]:
        nonlocal read
        while True:
            read += 1
            yield {"text": WORDS[read % len(WORDS)]}

    stream = predict_stream(*parts, endless(), batch_size=2, workers=workers, progress=False)
    for taken in range(1, 101):
        next(stream)
        # Samples are read ahead for the window and, by each worker of the loader, for two batches.
        assert read - taken <= 2 * (WINDOW * 2 + 2 * workers * 2)
    stream.close()


def test_a_batch_holds_texts_of_like_length(
    parts: tuple[FusionClassifier, FusionProcessor],
) -> None:
    model, processor = parts
    lengths: list[list[int]] = []
    hook = model.text_encoder.register_forward_pre_hook(
        lambda _, inputs: lengths.append(inputs[1].sum(1).tolist())
    )
    rng = np.random.default_rng(0)
    texts = [
        {"text": " ".join(rng.choice(WORDS, n))} for n in rng.permutation(np.repeat([1, 5], 8))
    ]
    list(predict_stream(model, processor, texts, batch_size=4, progress=False))
    hook.remove()
    assert [len(set(batch)) for batch in lengths] == [1, 1, 1, 1]


def test_a_sample_that_cannot_be_read(
    parts: tuple[FusionClassifier, FusionProcessor], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    given = [
        {"text": "clear lung"},
        {"image": broken, "text": "clear"},
        {"image": None},
        {"text": 3},
        {"text": "left lung"},
    ]
    with pytest.raises(
        ValueError, match=r"sample \d \(counted from 0\) must be readable, got an error: "
    ):
        list(predict_stream(*parts, given, progress=False))
    found = list(predict_stream(*parts, given, batch_size=2, on_error="keep", progress=False))
    assert [answer.error is None for answer in found] == [True, False, False, False, True]
    assert "broken.png" in str(found[1].error) and "must have image or text, got nothing" in str(
        found[2].error
    )
    assert (
        np.isnan(found[1].logits).all()
        and np.isnan(found[1].probabilities).all()
        and found[1].logits.shape == (3,)
    )
    assert [answer.missing for answer in found] == [
        ("image",),
        (),
        ("image", "text"),
        ("image",),
        ("image",),
    ]
    alone = next(predict_stream(*parts, given[4:], progress=False))
    np.testing.assert_allclose(found[4].logits, alone.logits, atol=1e-5)


def test_a_fault_in_a_worker_is_named(
    parts: tuple[FusionClassifier, FusionProcessor], tmp_path: Path
) -> None:
    given = [{"text": "clear lung"}, {"image": tmp_path / "nowhere.png"}]
    with pytest.raises(ValueError, match="sample 1 .*nowhere.png"):
        list(predict_stream(*parts, given, workers=1, progress=False))


def test_the_bar_counts_samples(
    parts: tuple[FusionClassifier, FusionProcessor], capsys: pytest.CaptureFixture[str]
) -> None:
    list(predict_stream(*parts, list(samples(6)), batch_size=4))
    assert "6/6" in capsys.readouterr().err


def test_options_are_checked_at_once(parts: tuple[FusionClassifier, FusionProcessor]) -> None:
    with pytest.raises(
        ValueError,
        match=r"on_error must be one of \['raise', 'keep'\], got 'kep'. Did you mean 'keep'",
    ):
        predict_stream(*parts, [], on_error="kep")
    with pytest.raises(
        ValueError, match="batch_size must be at least 1 and workers at least 0, got 0 and 0"
    ):
        predict_stream(*parts, [], batch_size=0)
    assert list(predict_stream(*parts, [], progress=False)) == []
    model, processor = parts
    words_alone = FusionProcessor(processor.tokenizer)
    with pytest.raises(
        ValueError,
        match=r"processor must have a part for each .*\(image, text\), got none for image",
    ):
        predict_stream(model, words_alone, [])
    text_alone = kit.tiny_classifier(image=None, text="bert")
    given = [{"text": "clear lung"}]
    (found,), (expected,) = (
        list(predict_stream(text_alone, p, given, progress=False)) for p in (processor, words_alone)
    )
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_answer_that_is_no_number_is_an_error(value: float) -> None:
    """Only rows with a picture meet the broken weight; the others keep their answers."""
    model = kit.tiny_classifier("concat", "linear", "timm_vit", "bert")
    processor = FusionProcessor(word_tokenizer([" ".join(WORDS)]), model.image_encoder.input_spec)
    given = list(samples(12))
    right = list(predict_stream(model, processor, given, progress=False))
    with torch.no_grad():
        next(model.image_encoder.backbone.parameters()).fill_(value)
    found = list(
        predict_stream(
            model, processor, given, batch_size=4, workers=1, on_error="keep", progress=False
        )
    )
    for sample, answer, before in zip(given, found, right, strict=True):
        assert answer.missing == before.missing
        if sample["image"] is None:
            np.testing.assert_allclose(answer.logits, before.logits, atol=1e-5)
            assert answer.error is None
        else:
            assert "it must get finite logits, got [nan, nan, nan]" in str(answer.error)
            assert np.isnan(answer.probabilities).all()
            assert answer.probabilities.shape == before.probabilities.shape
    with pytest.raises(ValueError, match=r"sample \d+ \(counted from 0\) must get finite"):
        list(predict_stream(model, processor, given, batch_size=1, progress=False))


def test_one_infinite_logit_is_an_error_too() -> None:
    model = kit.tiny_classifier(image=None, text="bert", problem_type="multi_label_classification")
    processor = FusionProcessor(word_tokenizer([" ".join(WORDS)]))
    (before,) = predict_stream(model, processor, [{"text": "clear lung"}], progress=False)
    bias = next(p for name, p in reversed(list(model.named_parameters())) if p.shape == (3,))
    with torch.no_grad():
        bias[1] = float("inf")
    (found,) = predict_stream(
        model, processor, [{"text": "clear lung"}], on_error="keep", progress=False
    )
    assert f"got [{before.logits[0]}" in str(found.error)
    assert ", inf, " in str(found.error)


def test_a_worker_that_is_killed_is_told(parts: tuple[FusionClassifier, FusionProcessor]) -> None:
    def killing() -> Iterator[dict[str, Any]]:
        for number in range(2000):
            if number == 200:
                for child in multiprocessing.active_children():
                    os.kill(child.pid, signal.SIGKILL)  # type: ignore[arg-type]
                    # torch tells of its death by a signal. Inside of a check of shapes, which only
                    # the tests have, that would become an error of the check.
                    child.join()
            yield {"text": WORDS[number % len(WORDS)]}

    stream = predict_stream(*parts, killing(), batch_size=2, workers=2, progress=False)
    with pytest.raises(RuntimeError, match=r"workers must be .* fewer workers or a smaller batch"):
        list(stream)


@pytest.mark.parametrize("error", [ConnectionResetError, EOFError, FileNotFoundError])
def test_a_worker_that_is_killed_while_it_hands_over_is_told(
    parts: tuple[FusionClassifier, FusionProcessor],
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    def gone(*_: Any) -> None:
        raise error("the other end is gone")

    def lost() -> Iterator[dict[str, Any]]:
        yield {"text": "clear lungs"}
        raise ConnectionResetError("the server of the samples is gone")

    # An error of the samples themselves is no error of a worker.
    with pytest.raises(ConnectionResetError, match="the server of the samples"):
        list(predict_stream(*parts, lost(), batch_size=1, progress=False))
    monkeypatch.setattr("multiprocessing.resource_sharer._resource_sharer.get_connection", gone)
    stream = predict_stream(*parts, [{"text": "clear lungs"}], workers=1, progress=False)
    with pytest.raises(
        RuntimeError, match=r"workers must be .* got a DataLoader worker that was stopped"
    ) as told:
        list(stream)
    # The command line tells it in one line, without a traceback.
    assert errors._is_users(told.value)


def test_a_model_in_half_precision_answers_about_the_same(
    parts: tuple[FusionClassifier, FusionProcessor],
) -> None:
    model, processor = parts
    half = copy.deepcopy(model).to(torch.bfloat16)
    own, other = (
        [
            answer.probabilities
            for answer in predict_stream(one, processor, samples(6), progress=False)
        ]
        for one in (model, half)
    )
    for expected, got in zip(own, other, strict=True):
        assert np.allclose(got, expected, rtol=0, atol=0.05)
