"""The small synthetic model that comes with the package, and examples for it."""

import json
from importlib import resources
from pathlib import Path

import torch

from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor

_FOLDER = "phantom_model"


def phantom_parts() -> tuple[FusionClassifier, FusionProcessor]:
    """Returns the synthetic model and its processor; `phantom_model/README.md` describes them.

    Example:
        >>> model, processor = phantom_parts()
        >>> list(model.config.id2label.values())
        ['no finding', 'opacity', 'effusion', 'large heart']
    """
    folder = _folder()
    model = FusionClassifier.from_pretrained(folder)
    # Its weights are stored in half precision.
    torch.nn.Module.float(model)
    return model.eval(), FusionProcessor.from_pretrained(folder)


def phantom_examples() -> list[tuple[Path, str]]:
    """Returns synthetic pictures with their notes, which the model was not trained on."""
    folder = _folder()
    listed = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    return [(folder / one["image"], one["text"]) for one in listed]


def _folder() -> Path:
    return Path(str(resources.files(__package__).joinpath(_FOLDER)))
