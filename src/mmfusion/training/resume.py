"""The choice of the checkpoint from which a stopped training resumes."""

import hashlib
import json
import os
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import logging

from .stored import write_json

logger = logging.get_logger(__name__)

DIGESTS_FILE = "digests.json"
"""The file in a checkpoint with the digests of the files that have no checksum of their own."""


def last_complete_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """Returns the path of the newest complete checkpoint in `folder`, or None if there is none.

    The Trainer writes trainer_state.json last. If it is killed while it writes a checkpoint, that
    file is absent or ends too early. If it is killed while it deletes a checkpoint, another file is
    absent. A byte may also have changed on the disk. Such checkpoints are skipped, and a warning in
    the log names them.

    Args:
        folder: the output_dir of the Trainer; it need not exist.
    """
    for _, path in sorted(checkpoints_in(folder).items(), reverse=True):
        fault = _fault_of(path)
        if fault is None:
            return str(path)
        logger.warning(f"Passing over {path}, which is incomplete or damaged: {fault}.")
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


def write_digests(checkpoint: str | os.PathLike[str]) -> None:
    """Writes the digests of the files of a complete checkpoint that have no checksums.

    Archives of torch have checksums; safetensors and JSON files have none.

    Args:
        checkpoint: the folder.
    """
    digests = {path.name: _digest(path) for path in _without_checksum(Path(checkpoint))}
    write_json(Path(checkpoint) / DIGESTS_FILE, digests)


def _without_checksum(checkpoint: Path) -> list[Path]:
    files = [*checkpoint.glob("*.safetensors"), *checkpoint.glob("*.json")]
    return sorted(path for path in files if path.name != DIGESTS_FILE)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _changed_file(checkpoint: Path) -> str | None:
    """Returns the name of a file that is not as the checkpoint was written, or None."""
    path = checkpoint / DIGESTS_FILE
    # A run may have been killed before it wrote the digests. The checkpoint is complete even so.
    if not path.exists():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    found = {file.name: _digest(file) for file in _without_checksum(checkpoint)}
    names = [name for name in sorted(stored | found) if stored.get(name) != found.get(name)]
    return names[0] if names else None


def _fault_of(checkpoint: Path) -> str | None:
    """Returns the reason why a checkpoint cannot be used, or None if it is complete."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        random_states = sorted(checkpoint.glob("rng_state*.pth"))
        if not random_states:
            return "no rng_state"
        for path in (checkpoint / "optimizer.pt", checkpoint / "scheduler.pt", *random_states):
            # torch writes zip archives with a checksum of each entry. Nothing is unpickled.
            with zipfile.ZipFile(path) as archive:
                if (entry := archive.testzip()) is not None:
                    return f"the checksum of {entry} in {path.name}"
        weights = sorted(checkpoint.glob("model*.safetensors"))
        if not weights:
            return "no model.safetensors"
        for path in weights:
            # `safe_open` compares the header with the size of the file, and so finds a cut file.
            with safe_open(path, framework="pt") as tensors:
                tensors.keys()
        if (name := _changed_file(checkpoint)) is not None:
            return f"{name} has changed since it was written"
        return (
            None
            if state.get("global_step") == int(checkpoint.name.removeprefix("checkpoint-"))
            else "another step's state"
        )
    except (OSError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
        return f"{type(error).__name__}: {error}"
