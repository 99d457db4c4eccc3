"""Deletion curves: on models that are known, at their ends, and against what decides."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmfusion import deletion_curve, explain
from mmfusion.testing import tiny_classifier


def chosen(model, processor, image, text, number):
    logits = model(**processor(images=[image], text=[text])).logits[0]
    return logits.softmax(-1)[number].item()


@pytest.mark.parametrize("over", ["image", "words"])
@pytest.mark.parametrize(("fusion", "image"), [("cross_attention", "opaque"), ("joint", "custom")])
def test_what_decides_falls_far_faster_than_at_random(fusion, image, over, trained, shapes):
    model, processor = trained(fusion, image)
    draw = np.random.default_rng(7)
    gains = []
    for _ in range(4):
        picture = shapes.spotted(draw, tuple(draw.integers(0, 4, 2)))
        text = shapes.written(draw, True)
        curve = deletion_curve(
            model, processor, picture, text, over=over, steps=8, cells=4, fill="mean"
        )
        assert curve.target == "spot fever" and curve.top[0] > 0.9
        gains.append(curve.gain)
    assert np.mean(gains) > 0.2, gains


@pytest.mark.parametrize("fill", ["mean", "blur"])
def test_the_ends_are_the_whole_sample_and_nothing_of_it(fill, processor_of, sample):
    model = tiny_classifier("joint", "linear", "cnn", "bert")
    processor, (picture, text) = processor_of(model), sample
    found = explain(model, processor, picture, text, target=1)
    curve = deletion_curve(
        model, processor, picture, text, over="image", explanation=found, fill=fill, steps=3
    )
    assert curve.fractions[[0, -1]].tolist() == [0, 1] and curve.random.shape == (5, 4)
    assert curve.top[0] == pytest.approx(chosen(model, processor, picture, text, 1), abs=1e-5)
    # All orders end at the same picture.
    assert np.ptp(curve.random[:, -1]) < 1e-6
    assert curve.top[-1] == pytest.approx(curve.random[0, -1], abs=1e-6)
    if fill == "mean":
        grey = Image.new("L", picture.size, round(np.asarray(picture).mean()))
        expected = chosen(model, processor, grey, text, 1)
        assert curve.top[-1] == pytest.approx(expected, abs=1e-5)


def test_words_are_left_out_in_the_order_of_their_weights(processor_of, sample):
    model = tiny_classifier("late", "linear", "cnn", "bert")
    processor, (picture, text) = processor_of(model), sample
    found = explain(model, processor, picture, text, target=2, words="occlusion")
    curve = deletion_curve(
        model, processor, picture, text, over="words", explanation=found, steps=9
    )
    words = text.split()
    order = sorted(range(9), key=lambda place: -found.words[place].weight)
    for count in range(9):
        rest = [word for place, word in enumerate(words) if place not in order[:count]]
        expected = chosen(model, processor, picture, " ".join(rest), 2)
        assert curve.top[count] == pytest.approx(expected, abs=1e-5)
    widths = np.diff(curve.fractions)
    trapezoids = widths * (curve.top[1:] + curve.top[:-1]) / 2
    assert curve.area == pytest.approx(trapezoids.sum())
    assert curve.gain == pytest.approx(1 - curve.area / curve.random_area)


def test_the_same_seed_gives_the_same_orders_and_no_global_state_moves(processor_of, sample):
    model = tiny_classifier("concat", "linear", "custom", "custom")
    found = explain(model, processor_of(model), *sample)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    curves = [
        deletion_curve(
            model, processor_of(model), *sample, over="words", explanation=found, seed=seed
        )
        for seed in (1, 1, 2)
    ]
    assert (curves[0].random == curves[1].random).all()
    assert (curves[0].random != curves[2].random).any()
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_a_text_of_which_nothing_is_left_has_the_prior(processor_of):
    model = tiny_classifier("concat", "linear", None, "bert", num_labels=4)
    processor = processor_of(model)
    processor.tokenizer.backend_tokenizer.post_processor = None
    curve = deletion_curve(model, processor, text="no mass", over="words", steps=2)
    assert curve.top[-1] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"over": "pixels"}, "over must be one of"),
        ({"over": "image", "fill": "black"}, "fill must be one of"),
        ({"over": "image", "steps": 0}, "steps must be at least 1"),
        ({"over": "image", "orders": 0}, "orders must be at least 1"),
        ({"over": "image", "cells": 0}, "cells must be at least 1"),
        ({"over": "image"}, "image must be given to delete its pixels"),
    ],
)
def test_wrong_options_are_refused(options, message, processor_of, sample):
    model = tiny_classifier()
    with pytest.raises(ValueError, match=message):
        deletion_curve(model, processor_of(model), None, sample[1], **options)


def test_words_that_are_not_there_or_have_no_weight_are_refused(processor_of, sample):
    model = tiny_classifier()
    with pytest.raises(ValueError, match="text must be given to delete its words"):
        deletion_curve(model, processor_of(model), sample[0], over="words")
