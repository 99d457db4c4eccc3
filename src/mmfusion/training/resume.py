"""Which checkpoint a stopped training goes on from."""

import json
import os
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import logging

logger = logging.get_logger(__name__)


def last_complete_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """The newest checkpoint in `folder` that was written to its end, or None.

    The Trainer writes trainer_state.json last, so a checkpoint killed while being written lacks it
    or ends in the middle of it; one killed while being deleted lacks another file. Either is passed
    over, and the log says so.

    Args:
        folder: the Trainer's output_dir; it need not exist.
    """
    steps = {
        int(path.name.removeprefix("checkpoint-")): path
        for path in Path(folder).glob("checkpoint-*")
        if path.is_dir() and path.name.removeprefix("checkpoint-").isdigit()
    }
    for _, path in sorted(steps.items(), reverse=True):
        fault = _fault_of(path)
        if fault is None:
            return str(path)
        logger.warning(f"Passing over {path}, which is incomplete: {fault}.")
    return None


def _fault_of(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        random_states = sorted(checkpoint.glob("rng_state*.pth"))
        if not random_states:
            return "no rng_state"
        for path in (checkpoint / "optimizer.pt", checkpoint / "scheduler.pt", *random_states):
            with zipfile.ZipFile(path) as archive:
                archive.namelist()
        weights = sorted(checkpoint.glob("model*.safetensors"))
        if not weights:
            return "no model.safetensors"
        for path in weights:
            with safe_open(path, framework="pt") as tensors:
                tensors.keys()
        return (
            None
            if state.get("global_step") == int(checkpoint.name.removeprefix("checkpoint-"))
            else "another step's state"
        )
    except (OSError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
        return f"{type(error).__name__}: {error}"
