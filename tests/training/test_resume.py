"""Resumption: killed at any moment, from damaged checkpoints, and without pickle."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from mmfusion.training.fit import fit
from mmfusion.training.resume import checkpoints_in, last_complete_checkpoint

WORKERS = Path(__file__).parents[1] / "workers"


@pytest.mark.xdist_group("processes")
def test_killed_at_ten_random_moments_it_ends_at_the_same_weights(tmp_path, run):
    last = run(
        sys.executable, str(WORKERS / "kill_and_resume.py"), str(tmp_path), "10"
    ).splitlines()[-1]
    result = json.loads(last)
    assert result["different"] == []
    assert result["killed"] == 10
    assert result["half_written"] >= 2, (
        "no checkpoint was being written when a kill came: the test shows nothing"
    )


@pytest.mark.parametrize(
    "damage",
    ["cut_state", "no_state", "no_optimizer", "cut_weights", "cut_optimizer", "no_random_state"],
)
def test_a_damaged_checkpoint_is_passed_over(damage, rows, tmp_path, caplog, compose, quiet):
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


def test_a_checkpoint_of_the_trainer_is_read_without_pickle(
    rows, tmp_path, monkeypatch, compose, quiet
):
    model, processor = compose(rows)
    fit(model, processor, rows, rows, arguments=quiet(tmp_path, num_train_epochs=2))
    asked = []
    own = torch.load
    monkeypatch.setattr(
        torch, "load", lambda *a, **k: asked.append(k.get("weights_only")) or own(*a, **k)
    )
    shutil.rmtree(checkpoints_in(tmp_path)[10])
    model, processor = compose(rows)
    fit(model, processor, rows, rows, arguments=quiet(tmp_path, num_train_epochs=2))
    assert asked and all(asked)
