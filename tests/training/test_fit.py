"""Training: on one process and several, the choice of the epoch, and what a user can get wrong."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mmfusion import FusionClassifier, FusionProcessor, load_manifest
from mmfusion.data.toy import draw_shapes
from mmfusion.metrics.functional import accuracy
from mmfusion.training.evaluate import evaluate, predict
from mmfusion.training.fit import fit

WORKERS = Path(__file__).parents[1] / "workers"


@pytest.mark.parametrize("size", [3_000, 20_000, 200_000])
def test_a_full_disk_is_told_and_the_training_goes_on(
    rows, compose, quiet, tmp_path, full_disk, size
):
    """The disk is full while the facts, the weights, or the state of the optimizer are written."""
    ends = []
    for folder, limit in ((tmp_path / "whole", None), (tmp_path / "full", size)):
        model, processor = compose(rows)
        if limit is not None:
            is_small = limit == 3_000
            told = "File too large" if is_small else "could not be written as a whole.*Make room"
            with full_disk(limit), pytest.raises(OSError, match=told):
                fit(model, processor, rows, rows, arguments=quiet(folder))
            assert not list(folder.glob("*.part"))
            model, processor = compose(rows)
        fit(model, processor, rows, rows, arguments=quiet(folder))
        ends.append(load_file(folder / "model.safetensors"))
    for key, value in ends[0].items():
        assert torch.equal(value, ends[1][key]), key


def test_a_model_that_does_not_fit_on_the_disk(rows, compose, tmp_path, full_disk):
    model, _ = compose(rows)
    with full_disk(20_000), pytest.raises(OSError, match=f"'{tmp_path}' could not be written"):
        model.save_pretrained(tmp_path)


@pytest.mark.xdist_group("processes")
def test_two_processes_are_one(tmp_path, compose, run):
    rows_folder = tmp_path / "data"
    draw_shapes(rows_folder, 37, size=32, missing=0.4)
    script = str(WORKERS / "two_processes.py")
    run(sys.executable, script, str(tmp_path / "one"), "2")
    run(
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        "29611",
        script,
        str(tmp_path / "two"),
        "2",
    )
    one, two = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")
    )
    assert (one["world"], two["world"]) == (1, 2)
    assert one["samples"] == two["samples"] == 37
    for name, metric in one["before"].items():
        assert two["before"][name] == pytest.approx(metric, abs=1e-6)
    # With one sample per process, a process whose sample lacks its picture runs no image tower in
    # this step.
    assert two["image_batches"] < 36
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert (
        max(float((first[key].float() - second[key].float()).abs().max()) for key in first) <= 1e-5
    )
    fresh = compose(load_manifest(rows_folder / "manifest.csv"), fusion="cross_attention")[
        0
    ].state_dict()
    assert any(not torch.equal(first[key], fresh[key]) for key in first), "nothing was trained"


def test_training_learns_and_is_saved(rows, tmp_path, compose, quiet):
    model, processor = compose(rows)
    arguments = quiet(
        tmp_path, num_train_epochs=14, learning_rate=5e-3, metric_for_best_model="auroc"
    )
    result = fit(model, processor, rows, rows, arguments=arguments)
    evaluation = evaluate(model, processor, rows, resamples=200)
    assert evaluation.metrics["auroc"].estimate == pytest.approx(result.best_metric, abs=1e-6)
    assert evaluation.metrics["auroc"].estimate > 0.8
    assert evaluation.metrics["accuracy"].estimate == accuracy(evaluation.logits, evaluation.labels)
    assert result.trained_parameters == sum(p.numel() for p in model.parameters())
    again = FusionClassifier.from_pretrained(tmp_path)
    logits = predict(again, FusionProcessor.from_pretrained(tmp_path), rows)
    assert np.array_equal(logits, evaluation.logits)
    assert not list(tmp_path.glob("*.bin")) and not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize(("warm", "epochs"), [(True, 2), (False, 3)])
def test_patience_stops_early(warm, epochs, rows, tmp_path, compose, quiet):
    """Without a warm start, the first epoch is the one that two others do not beat."""
    model, processor = compose(rows)
    result = fit(
        model,
        processor,
        rows,
        rows,
        arguments=quiet(tmp_path, num_train_epochs=9, learning_rate=0.0),
        patience=2,
        warm_start=warm,
    )
    assert result.epochs == epochs


def test_bf16_trains(rows, tmp_path, compose, quiet):
    model, processor = compose(rows)
    result = fit(model, processor, rows, arguments=quiet(tmp_path, bf16=True))
    assert all(math.isfinite(p.sum().item()) for p in model.parameters())
    assert result.best_metric is None


def test_gradient_accumulation_is_a_larger_batch(rows, tmp_path, compose, quiet):
    weights = []
    for name, batch, steps in (("whole", 8, 1), ("parts", 4, 2)):
        model, processor = compose(rows)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.text_encoder.backbone.config.attention_probs_dropout_prob = 0.0
        for layer in model.text_encoder.adapter.layers:
            layer.attention.self.dropout.p = 0.0
        fit(
            model,
            processor,
            rows,
            arguments=quiet(
                tmp_path / name,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=steps,
            ),
        )
        weights.append(model.state_dict())
    assert max(float((weights[0][k] - weights[1][k]).abs().max()) for k in weights[0]) < 1e-5


def test_patience_needs_validation(rows, tmp_path, compose, quiet):
    model, processor = compose(rows)
    with pytest.raises(ValueError, match="patience must be None without validation data, got 3"):
        fit(model, processor, rows, arguments=quiet(tmp_path), patience=3)


def test_the_arguments_of_the_caller_stay_as_they_are(rows, tmp_path, compose, quiet):
    model, processor = compose(rows)
    arguments = quiet(tmp_path)
    before = arguments.to_dict()
    assert arguments.load_best_model_at_end and before["eval_strategy"] == "epoch"
    fit(model, processor, rows, arguments=arguments)
    assert arguments.to_dict() == before
