"""Loads a saved classifier one of whose files is damaged, and lets it answer."""

import math
import shutil
import tempfile
from pathlib import Path

from transformers.utils import logging

from mmfusion import FusionClassifier, FusionProcessor, predict_stream

logging.set_verbosity(logging.CRITICAL)


def answer(path: str) -> None:
    """Answers one sample with a copy of the whole model in which a file is replaced.

    Args:
        path: of the damaged file. Its name ends with "@" and the name of the file that it replaces.
            The folder `whole` beside it holds the whole model.
    """
    damaged = Path(path)
    with tempfile.TemporaryDirectory() as folder:
        model_folder = shutil.copytree(damaged.parent / "whole", Path(folder) / "model")
        shutil.copy(damaged, model_folder / damaged.name.partition("@")[2])
        model = FusionClassifier.from_pretrained(model_folder)
        processor = FusionProcessor.from_pretrained(model_folder)
        sample = {"image": str(damaged.parent / "picture.png"), "text": "clear lungs"}
        (found,) = predict_stream(model, processor, [sample], progress=False)
        assert all(map(math.isfinite, found.logits)), found
