"""The choice of the checkpoint from which a stopped training resumes."""

import json
import os
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import logging

logger = logging.get_logger(__name__)


def last_complete_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """Returns the path of the newest complete checkpoint in `folder`, or None if there is none.

    The Trainer writes trainer_state.json last. If it is killed while it writes a checkpoint, that
    file is absent or ends too early. If it is killed while it deletes a checkpoint, another file is
    absent. Such checkpoints are skipped, and a warning in the log names them.

    Args:
        folder: the output_dir of the Trainer; it need not exist.
    """
    for _, path in sorted(checkpoints_in(folder).items(), reverse=True):
        fault = _fault_of(path)
        if fault is None:
            return str(path)
        logger.warning(f"Passing over {path}, which is incomplete: {fault}.")
    return None


def checkpoints_in(folder: str | os.PathLike[str]) -> dict[int, Path]:
    """Returns the checkpoints of a folder by their step, complete or not.

    Args:
        folder: the output_dir of the Trainer; it need not exist.
    """
    # Other folders, such as "checkpoint-best", are not written by the Trainer.
    return {
        int(path.name.removeprefix("checkpoint-")): path
        for path in Path(folder).glob("checkpoint-*")
        if path.is_dir() and path.name.removeprefix("checkpoint-").isdigit()
    }


def _fault_of(checkpoint: Path) -> str | None:
    """Returns the reason why a checkpoint cannot be used, or None if it is complete."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        random_states = sorted(checkpoint.glob("rng_state*.pth"))
        if not random_states:
            return "no rng_state"
        for path in (checkpoint / "optimizer.pt", checkpoint / "scheduler.pt", *random_states):
            # torch writes zip archives, whose table of contents stands at the end. If the table can
            # be read, the file was written completely. Nothing is unpickled.
            with zipfile.ZipFile(path) as archive:
                archive.namelist()
        weights = sorted(checkpoint.glob("model*.safetensors"))
        if not weights:
            return "no model.safetensors"
        for path in weights:
            # `safe_open` compares the header with the size of the file, and so finds a cut file.
            with safe_open(path, framework="pt") as tensors:
                tensors.keys()
        return (
            None
            if state.get("global_step") == int(checkpoint.name.removeprefix("checkpoint-"))
            else "another step's state"
        )
    except (OSError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
        return f"{type(error).__name__}: {error}"
