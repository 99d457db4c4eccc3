"""Resumption: killed at any moment, from damaged checkpoints, and without pickle."""

import json
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

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


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "config.json"]
)
def test_a_changed_byte_is_seen(name, rows, tmp_path, caplog, compose, quiet):
    """The checkpoint before is taken, and the training ends at the same weights."""
    model, processor = compose(rows)
    arguments = quiet(tmp_path, num_train_epochs=2)
    fit(model, processor, rows, rows, arguments=arguments)
    expected = load_file(tmp_path / "model.safetensors")
    checkpoints = checkpoints_in(tmp_path)
    file = checkpoints[10] / name
    content = bytearray(file.read_bytes())
    place = len(content) // 2
    if zipfile.is_zipfile(file):
        # Between the entries of an archive there is padding, which is not read.
        with zipfile.ZipFile(file) as archive:
            entry = max(map(archive.read, archive.namelist()), key=len)
        place = content.index(entry) + len(entry) // 2
    content[place] ^= 1
    file.write_bytes(content)
    assert last_complete_checkpoint(tmp_path) == str(checkpoints[5])
    assert name in caplog.text
    model, processor = compose(rows)
    fit(model, processor, rows, rows, arguments=arguments)
    for key, value in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(value, expected[key]), key


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
