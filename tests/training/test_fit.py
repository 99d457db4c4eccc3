"""Training: killed and resumed, on several processes, and what a user can get wrong."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, ViTConfig

from mmfusion import FusionClassifier, FusionProcessor, ImageEncoder, TextEncoder, load_manifest
from mmfusion.data.toy import draw_shapes, word_tokenizer
from mmfusion.metrics.functional import accuracy
from mmfusion.training.arguments import training_arguments
from mmfusion.training.evaluate import evaluate, predict
from mmfusion.training.fit import fit
from mmfusion.training.resume import last_complete_checkpoint

WORKERS = Path(__file__).parents[1] / "workers"
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return load_manifest(draw_shapes(tmp_path_factory.mktemp("shapes"), 40, size=32))


def compose(rows, **options):
    torch.manual_seed(0)
    tokenizer = word_tokenizer(text for text in rows["text"] if text)
    image = ImageEncoder(ViTConfig(**SMALL, image_size=32, patch_size=8))
    text = TextEncoder(BertConfig(**SMALL, vocab_size=len(tokenizer)))
    model = FusionClassifier(image_encoder=image, text_encoder=text, num_labels=4, **options)
    return model, FusionProcessor.from_encoders(image, text, tokenizer=tokenizer)


def quiet(folder, **options):
    defaults = {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "disable_tqdm": True,
    }
    return training_arguments(folder, **(defaults | options))


def run(*command: str, timeout: int = 300) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.xdist_group("processes")
def test_killed_at_ten_random_moments_it_ends_at_the_same_weights(tmp_path):
    last = run(
        sys.executable, str(WORKERS / "kill_and_resume.py"), str(tmp_path), "10"
    ).splitlines()[-1]
    result = json.loads(last)
    assert result["different"] == []
    assert result["killed"] == 10
    assert result["half_written"] >= 2, (
        "no checkpoint was being written when a kill came: the test shows nothing"
    )


@pytest.mark.xdist_group("processes")
def test_two_processes_are_one(tmp_path):
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
    # that step.
    assert two["image_batches"] < 36
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert (
        max(float((first[key].float() - second[key].float()).abs().max()) for key in first) <= 1e-5
    )
    fresh = compose(load_manifest(rows_folder / "manifest.csv"), fusion="cross_attention")[
        0
    ].state_dict()
    assert any(not torch.equal(first[key], fresh[key]) for key in first), "nothing was trained"


def test_training_learns_and_is_saved(rows, tmp_path):
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


def test_the_best_epoch_is_the_one_that_stays(rows, tmp_path):
    model, processor = compose(rows)
    result = fit(
        model,
        processor,
        rows,
        rows.select(range(8)),
        arguments=quiet(tmp_path, num_train_epochs=6, learning_rate=2e-2),
    )
    losses = [entry["eval_loss"] for entry in result.history if "eval_loss" in entry]
    assert result.best_metric == min(losses)
    evaluation = evaluate(model, processor, rows.select(range(8)), resamples=10)
    assert evaluation.metrics["cross_entropy"].estimate == pytest.approx(min(losses), abs=1e-5)


def test_without_a_metric_the_last_epoch_is_the_one_that_stays(rows, tmp_path):
    # The better the model learns, the worse it does on validation data whose labels are wrong.
    wrong = rows.map(lambda row: {"label": (row["label"] + 1) % 4})
    options = {
        "num_train_epochs": 4,
        "learning_rate": 5e-3,
        "metric_for_best_model": None,
        "save_strategy": "no",
    }
    model, processor = compose(rows)
    result = fit(model, processor, rows, wrong, arguments=quiet(tmp_path / "watched", **options))
    losses = [entry["eval_loss"] for entry in result.history if "eval_loss" in entry]
    assert losses[-1] > min(losses)
    evaluation = evaluate(model, processor, wrong, resamples=10)
    assert evaluation.metrics["cross_entropy"].estimate == pytest.approx(losses[-1], abs=1e-5)
    assert not training_arguments(tmp_path, metric_for_best_model=None).load_best_model_at_end
    with pytest.raises(
        ValueError, match="patience must be None where metric_for_best_model is None"
    ):
        fit(model, processor, rows, rows, arguments=quiet(tmp_path, **options), patience=3)


def test_patience_stops_early(rows, tmp_path):
    model, processor = compose(rows)
    result = fit(
        model,
        processor,
        rows,
        rows,
        arguments=quiet(tmp_path, num_train_epochs=9, learning_rate=0.0),
        patience=2,
    )
    assert result.epochs == 3


def test_bf16_trains(rows, tmp_path):
    model, processor = compose(rows)
    result = fit(model, processor, rows, arguments=quiet(tmp_path, bf16=True))
    assert all(math.isfinite(p.sum().item()) for p in model.parameters())
    assert result.best_metric is None


def test_gradient_accumulation_is_a_larger_batch(rows, tmp_path):
    weights = []
    for name, batch, steps in (("whole", 8, 1), ("parts", 4, 2)):
        model, processor = compose(rows)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.text_encoder.backbone.config.attention_probs_dropout_prob = 0.0
        for layer in model.text_encoder.family.layers:
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


@pytest.mark.parametrize(
    "damage",
    ["cut_state", "no_state", "no_optimizer", "cut_weights", "cut_optimizer", "no_random_state"],
)
def test_a_damaged_checkpoint_is_passed_over(damage, rows, tmp_path, caplog):
    model, processor = compose(rows)
    fit(model, processor, rows, rows, arguments=quiet(tmp_path, num_train_epochs=2))
    first, second = sorted(
        tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])
    )
    assert last_complete_checkpoint(tmp_path) == str(second)
    target = (
        second
        / {
            "state": "trainer_state.json",
            "optimizer": "optimizer.pt",
            "weights": "model.safetensors",
            "random_state": "rng_state.pth",
        }[damage.split("_", 1)[1]]
    )
    target.unlink() if damage.startswith("no") else target.write_bytes(
        target.read_bytes()[: target.stat().st_size // 2]
    )
    assert last_complete_checkpoint(tmp_path) == str(first)


def test_no_checkpoint_is_none(tmp_path):
    (tmp_path / "checkpoint-best").mkdir()
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "nowhere") is None


def test_a_misspelt_training_option_is_named():
    with pytest.raises(ValueError, match="no option 'learning_rte'. Did you mean 'learning_rate'"):
        training_arguments("out", learning_rte=1e-3)


def test_patience_needs_validation(rows, tmp_path):
    model, processor = compose(rows)
    with pytest.raises(ValueError, match="patience must be None without validation data, got 3"):
        fit(model, processor, rows, arguments=quiet(tmp_path), patience=3)


def test_evaluation_needs_labels(rows):
    model, processor = compose(rows)
    with pytest.raises(ValueError, match="must have a column 'label'"):
        evaluate(model, processor, rows.remove_columns("label"))


def test_intervals_are_resampled_by_patient(rows):
    model, processor = compose(rows)
    by_patient = evaluate(model, processor, rows, resamples=500)
    by_row = evaluate(model, processor, rows, group=None, resamples=500)
    assert by_patient.groups == rows["group"] and by_row.groups is None
    assert by_patient.metrics["accuracy"].estimate == by_row.metrics["accuracy"].estimate
    assert by_patient.metrics["accuracy"] != by_row.metrics["accuracy"]


def test_a_checkpoint_of_the_trainer_is_read_without_pickle(rows, tmp_path, monkeypatch):
    model, processor = compose(rows)
    fit(model, processor, rows, rows, arguments=quiet(tmp_path, num_train_epochs=2))
    asked = []
    own = torch.load
    monkeypatch.setattr(
        torch, "load", lambda *a, **k: asked.append(k.get("weights_only")) or own(*a, **k)
    )
    model, processor = compose(rows)
    fit(model, processor, rows, rows, arguments=quiet(tmp_path, num_train_epochs=3))
    assert asked and all(asked)
