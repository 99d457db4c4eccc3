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
    "register_backbone": "registry",
    "EmbeddingMapper": "mapper",
    "Fusion": "strategy",
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
    "load_manifest": "manifest",
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
    "CompiledClassifier": "compiled",
    "Prediction": "inference",
    "predict_stream": "inference",
    "dice": "metrics",
    "accuracy": "metrics",
    "cross_entropy": "metrics",
    "auroc": "metrics",
    "balanced_accuracy": "metrics",
    "expected_calibration_error": "metrics",
    "bootstrap_interval": "intervals",
    "paired_bootstrap": "intervals",
    "mcnemar": "intervals",
    "evaluate_predictions": "intervals",
    "Interval": "intervals",
    "ImageAttention": "explain",
    "image_attention": "explain",
    "attention_rollout": "explain",
    "record_attention": "explain",
    "ExportReport": "export",
    "export_model": "export",
    "UNetSegmenter": "segmentation.unet",
    "LungSegmenter": "segmentation.lungs",
    "LungMask": "segmentation.lungs",
    "NotAChestXrayWarning": "segmentation.lungs",
}
"""Public name -> the module (room) that holds it."""

_AUTO = {"configuration", "modeling", "processing"}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from .auditing import audit as audit
    from .cache import cache_features as cache_features
    from .compiled import CompiledClassifier as CompiledClassifier
    from .configuration import FusionConfig as FusionConfig
    from .data import Augmented as Augmented
    from .data import FusionCollator as FusionCollator
    from .encoders import ImageEncoder as ImageEncoder
    from .encoders import TextEncoder as TextEncoder
    from .explain import ImageAttention as ImageAttention
    from .explain import attention_rollout as attention_rollout
    from .explain import image_attention as image_attention
    from .explain import record_attention as record_attention
    from .export import ExportReport as ExportReport
    from .export import export_model as export_model
    from .fusion import MMTM as MMTM
    from .fusion import Concat as Concat
    from .fusion import CrossAttention as CrossAttention
    from .fusion import Joint as Joint
    from .fusion import Late as Late
    from .fusion import register_fusion as register_fusion
    from .images import ImageError as ImageError
    from .images import load_image as load_image
    from .inference import Prediction as Prediction
    from .inference import predict_stream as predict_stream
    from .intervals import Interval as Interval
    from .intervals import bootstrap_interval as bootstrap_interval
    from .intervals import evaluate_predictions as evaluate_predictions
    from .intervals import mcnemar as mcnemar
    from .intervals import paired_bootstrap as paired_bootstrap
    from .manifest import load_manifest as load_manifest
    from .mapper import EmbeddingMapper as EmbeddingMapper
    from .metrics import accuracy as accuracy
    from .metrics import auroc as auroc
    from .metrics import balanced_accuracy as balanced_accuracy
    from .metrics import cross_entropy as cross_entropy
    from .metrics import dice as dice
    from .metrics import expected_calibration_error as expected_calibration_error
    from .modeling import FusionClassifier as FusionClassifier
    from .outputs import Encoded as Encoded
    from .outputs import Fused as Fused
    from .outputs import FusionOutput as FusionOutput
    from .processing import FusionProcessor as FusionProcessor
    from .registry import register_backbone as register_backbone
    from .segmentation.lungs import LungMask as LungMask
    from .segmentation.lungs import LungSegmenter as LungSegmenter
    from .segmentation.lungs import NotAChestXrayWarning as NotAChestXrayWarning
    from .segmentation.unet import UNetSegmenter as UNetSegmenter
    from .splits import folds as folds
    from .splits import split as split
    from .strategy import Fusion as Fusion
    from .training import evaluate as evaluate
    from .training import fit as fit
    from .training import predict as predict
    from .training import training_arguments as training_arguments


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
