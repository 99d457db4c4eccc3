"""A training that is killed and resumed, compared with one that runs through.

It is killed with SIGKILL at random moments, some of them while a checkpoint is being written.

Usage: python kill_and_resume.py FOLDER KILLS. Prints one JSON line.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

# This must come before the first fork, because threads do not survive a fork.
torch.set_num_threads(1)

sys.path.insert(0, str(Path(__file__).parent))
import killing
from killing import attempt
from safetensors.torch import load_file
from small_training import brighten, compose, rows_in

from mmfusion.training.arguments import training_arguments
from mmfusion.training.fit import fit
from mmfusion.training.resume import last_complete_checkpoint


def train(folder: Path, data: Path) -> None:
    """Runs the whole training, or what is left of it."""
    rows = rows_in(data)
    model, processor = compose(rows, dropout=0.1, modality_dropout=0.3, auxiliary_loss_weight=0.1)
    arguments = training_arguments(
        folder,
        num_train_epochs=6,
        per_device_train_batch_size=6,
        learning_rate=1e-3,
        save_strategy="steps",
        eval_strategy="steps",
        save_steps=2,
        eval_steps=2,
        gradient_accumulation_steps=1,
        disable_tqdm=True,
        logging_strategy="no",
    )
    fit(
        model,
        processor,
        rows,
        rows.select(range(12)),
        arguments=arguments,
        augment=brighten,
        patience=50,
    )


def wait_for_a_half_written_checkpoint(folder: Path, child: int, done: set[Path]) -> bool:
    """Returns True once a new checkpoint's folder exists that is not finished.

    It returns False where the child ended before that.
    """
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        for path in set(folder.glob("checkpoint-*")) - done:
            # The Trainer writes this file last, so a folder without it is unfinished.
            if not (path / "trainer_state.json").exists():
                time.sleep(random.uniform(0, 0.01))
                return True
        time.sleep(0.0005)
    return False


def kill_once(folder: Path, data: Path, whole: float, half_written: bool) -> bool:
    """Returns True if a training in `folder` was killed, and False if it ended before the kill."""
    child = attempt(train, folder, data)
    if half_written:
        alive = wait_for_a_half_written_checkpoint(folder, child, set(folder.glob("checkpoint-*")))
    else:
        time.sleep(random.uniform(0.02, 0.5) * whole)
        alive = os.waitpid(child, os.WNOHANG) == (0, 0)
    if alive:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return alive


def newest_is_half_written(folder: Path) -> bool:
    """Returns True if the newest checkpoint of `folder` is not complete."""
    newest = max(
        folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), default=None
    )
    return newest is not None and str(newest) != last_complete_checkpoint(folder)


def run_through(folder: Path, data: Path) -> dict[str, torch.Tensor]:
    """Returns the weights at the end of a training that is not killed, begun anew or resumed."""
    killing.run_through(train, folder, data)
    return load_file(folder / "model.safetensors")


def main() -> None:
    """Runs both trainings and prints how their weights differ."""
    base, kills = Path(sys.argv[1]), int(sys.argv[2])
    data = base / "data"
    rows_in(data)
    random.seed(1)
    straight = base / "straight"
    straight.mkdir()
    started = time.perf_counter()
    expected = run_through(straight, data)
    whole = time.perf_counter() - started
    half_written = killed = trainings = 0
    different: set[str] = set()
    # How far a training comes between two kills depends on the machine's load. One that ends
    # before its last kill is compared, and the kills that are left go to another training.
    while killed < kills:
        if trainings == kills:
            raise SystemExit(f"{trainings} trainings ended, but only {killed} kills came in time.")
        broken = base / f"broken-{trainings}"
        broken.mkdir()
        # Every second kill waits for a half-written checkpoint; random moments seldom meet one.
        while killed < kills and kill_once(broken, data, whole, half_written=bool(killed % 2)):
            killed += 1
            half_written += newest_is_half_written(broken)
        weights = run_through(broken, data)
        different |= {key for key in expected if not torch.equal(expected[key], weights[key])}
        trainings += 1
    print(
        json.dumps(
            {
                "killed": killed,
                "half_written": half_written,
                "trainings": trainings,
                "tensors": len(expected),
                "different": sorted(different),
            }
        )
    )


if __name__ == "__main__":
    main()
