"""mmfusion: classify samples made of an image and a text.

The public names are loaded on first use (PEP 562): `import mmfusion` loads neither torch nor transformers nor keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Encoded": "outputs",
    "Fused": "outputs",
    "FusionOutput": "outputs",
    "FusionConfig": "configuration",
    "ImageEncoder": "encoders",
    "TextEncoder": "encoders",
    "register_backbone": "backbones",
    "EmbeddingMapper": "mapper",
    "Fusion": "fusion",
    "Concat": "fusion",
    "Joint": "fusion",
    "CrossAttention": "fusion",
    "MMTM": "fusion",
    "Late": "fusion",
    "register_fusion": "fusion",
    "FusionClassifier": "modeling",
    "FusionProcessor": "processing",
    "load_image": "images",
    "ImageError": "images",
    "load_manifest": "data",
    "split": "splits",
    "folds": "splits",
    "audit": "auditing",
    "FusionCollator": "data",
    "Augmented": "data",
    "cache_features": "cache",
    "training_arguments": "training",
    "fit": "training",
    "evaluate": "training",
    "predict": "training",
    "dice": "metrics",
    "accuracy": "metrics",
    "cross_entropy": "metrics",
    "auroc": "metrics",
    "balanced_accuracy": "metrics",
    "expected_calibration_error": "metrics",
    "bootstrap_interval": "intervals",
    "paired_bootstrap": "intervals",
    "mcnemar": "intervals",
}
"""Public name -> the module (room) that holds it."""

_AUTO = {"configuration", "modeling", "processing"}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604 (the table above is the single list of public names)

if TYPE_CHECKING:
    from .auditing import audit
    from .backbones import register_backbone
    from .cache import cache_features
    from .configuration import FusionConfig
    from .data import Augmented, FusionCollator, load_manifest
    from .encoders import ImageEncoder, TextEncoder
    from .fusion import MMTM, Concat, CrossAttention, Fusion, Joint, Late, register_fusion
    from .images import ImageError, load_image
    from .intervals import bootstrap_interval, mcnemar, paired_bootstrap
    from .mapper import EmbeddingMapper
    from .metrics import accuracy, auroc, balanced_accuracy, cross_entropy, dice, expected_calibration_error
    from .modeling import FusionClassifier
    from .outputs import Encoded, Fused, FusionOutput
    from .processing import FusionProcessor
    from .splits import folds, split
    from .training import evaluate, fit, predict, training_arguments


def __getattr__(name: str) -> Any:
    """The public object called `name`, imported from its room."""
    room = _HOME.get(name)
    if room is None:
        import difflib

        close = difflib.get_close_matches(name, __all__, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise AttributeError(f"module 'mmfusion' has no attribute {name!r}.{hint}")
    value = getattr(importlib.import_module(f".{room}", __name__), name)
    if room in _AUTO:
        _register_auto_classes()
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _register_auto_classes() -> None:
    """Teach transformers' AutoConfig, AutoModel and AutoProcessor this library's model type."""
    from transformers import AutoConfig, AutoModel, AutoProcessor

    from .configuration import FusionConfig
    from .modeling import FusionClassifier
    from .processing import FusionProcessor

    AutoConfig.register(FusionConfig.model_type, FusionConfig, exist_ok=True)
    AutoModel.register(FusionConfig, FusionClassifier, exist_ok=True)
    AutoProcessor.register(FusionConfig, FusionProcessor, exist_ok=True)
