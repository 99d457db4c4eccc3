"""mmfusion: classify samples made of an image and a text.

The public names are loaded on first use (PEP 562): `import mmfusion` loads neither torch nor
transformers nor keras.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from .model.auto_classes import register_on_first_use

__version__ = "0.1.0"

_HOME = {
    "Encoded": "model.types",
    "Fused": "model.types",
    "FusionOutput": "model.types",
    "FusionConfig": "model.configuration",
    "ImageEncoder": "model.encoder_image",
    "TextEncoder": "model.encoder_text",
    "register_backbone": "model.registry",
    "EmbeddingMapper": "model.mapper",
    "Fusion": "model.fusion_base",
    "Concat": "model.fusion",
    "Joint": "model.fusion",
    "CrossAttention": "model.fusion",
    "MMTM": "model.fusion",
    "Bottleneck": "model.fusion",
    "FiLM": "model.fusion",
    "Gated": "model.fusion",
    "LowRank": "model.fusion",
    "TokenTransformer": "model.fusion",
    "Late": "model.fusion",
    "Guarded": "model.fusion",
    "register_fusion": "model.fusion",
    "FusionClassifier": "model.modeling",
    "BatchFacts": "model.missing",
    "FusionProcessor": "model.processing",
    "load_image": "model.images",
    "ImageError": "model.images",
    "load_manifest": "data.manifest",
    "as_dataset": "data.samples",
    "split": "data.splits",
    "folds": "data.splits",
    "audit": "data.audit",
    "FusionCollator": "data.collate",
    "Augmentation": "data.augmentation",
    "Augmented": "data.collate",
    "compare": "training.compare",
    "Comparison": "training.compare",
    "ComparisonRow": "training.compare_rows",
    "cache_features": "training.feature_cache",
    "training_arguments": "training.arguments",
    "FusionArguments": "training.recipe",
    "small_encoders": "training.small_encoders",
    "fit": "training.fit",
    "FusionEstimator": "training.estimator",
    "evaluate": "training.evaluate",
    "score": "training.evaluate",
    "Evaluation": "training.evaluate",
    "Head": "model.fusion_base",
    "Probe": "model.fusion_base",
    "TowerShapes": "model.fusion_base",
    "holm": "metrics.tests",
    "predict": "training.evaluate",
    "predict_proba": "training.evaluate",
    "CompiledClassifier": "inference.compiled",
    "FusionPipeline": "inference.pipeline",
    "register_pipeline": "inference.pipeline",
    "model_card": "training.card",
    "write_card": "model.card",
    "predict_on_ray": "inference.on_ray",
    "Prediction": "inference.stream",
    "predict_stream": "inference.stream",
    "dice": "metrics.functional",
    "accuracy": "metrics.functional",
    "cross_entropy": "metrics.functional",
    "auroc": "metrics.functional",
    "balanced_accuracy": "metrics.functional",
    "expected_calibration_error": "metrics.functional",
    "bootstrap_interval": "metrics.bootstrap",
    "paired_bootstrap": "metrics.bootstrap",
    "mcnemar": "metrics.tests",
    "evaluate_predictions": "metrics.report",
    "Interval": "metrics.bootstrap",
    "explain": "inference.explain",
    "Explanation": "inference.explanation",
    "HeatMap": "inference.explanation",
    "Word": "inference.explanation",
    "DeletionCurve": "inference.deletion",
    "deletion_curve": "inference.deletion",
    "ImageAttention": "inference.attention_maps",
    "image_attention": "inference.attention_maps",
    "attention_rollout": "inference.attention_maps",
    "record_attention": "inference.attention_maps",
    "ExportReport": "inference.export",
    "export_model": "inference.export",
    "UNetSegmenter": "segmentation.unet",
    "LungSegmenter": "segmentation.lungs",
    "LungMask": "segmentation.lungs",
    "NotAChestXrayWarning": "segmentation.lungs",
}
"""Public name -> the module that holds it.

Strategies that are not listed here are looked up in the table of `model.fusion`.
"""

_OPTIONAL = {"segmentation.unet": "keras", "segmentation.lungs": "keras"}
"""Module -> the package that it needs, which `pip install mmfusion` alone does not bring."""

# `from mmfusion import *` and `inspect.getmembers` ask for every listed name. A name whose package
# is missing is not listed. Whoever asks for it by name is told what to install.
__all__ = ["__version__"]
__all__ += [
    name
    for name, module in _HOME.items()
    if module not in _OPTIONAL or importlib.util.find_spec(_OPTIONAL[module]) is not None
]


if TYPE_CHECKING:
    from .data.audit import audit as audit
    from .data.augmentation import Augmentation as Augmentation
    from .data.collate import Augmented as Augmented
    from .data.collate import FusionCollator as FusionCollator
    from .data.manifest import load_manifest as load_manifest
    from .data.samples import as_dataset as as_dataset
    from .data.splits import folds as folds
    from .data.splits import split as split
    from .inference.attention_maps import ImageAttention as ImageAttention
    from .inference.attention_maps import attention_rollout as attention_rollout
    from .inference.attention_maps import image_attention as image_attention
    from .inference.attention_maps import record_attention as record_attention
    from .inference.compiled import CompiledClassifier as CompiledClassifier
    from .inference.deletion import DeletionCurve as DeletionCurve
    from .inference.deletion import deletion_curve as deletion_curve
    from .inference.explain import explain as explain
    from .inference.explanation import Explanation as Explanation
    from .inference.explanation import HeatMap as HeatMap
    from .inference.explanation import Word as Word
    from .inference.export import ExportReport as ExportReport
    from .inference.export import export_model as export_model
    from .inference.on_ray import predict_on_ray as predict_on_ray
    from .inference.pipeline import FusionPipeline as FusionPipeline
    from .inference.pipeline import register_pipeline as register_pipeline
    from .inference.stream import Prediction as Prediction
    from .inference.stream import predict_stream as predict_stream
    from .metrics.bootstrap import Interval as Interval
    from .metrics.bootstrap import bootstrap_interval as bootstrap_interval
    from .metrics.bootstrap import paired_bootstrap as paired_bootstrap
    from .metrics.functional import accuracy as accuracy
    from .metrics.functional import auroc as auroc
    from .metrics.functional import balanced_accuracy as balanced_accuracy
    from .metrics.functional import cross_entropy as cross_entropy
    from .metrics.functional import dice as dice
    from .metrics.functional import expected_calibration_error as expected_calibration_error
    from .metrics.report import evaluate_predictions as evaluate_predictions
    from .metrics.tests import holm as holm
    from .metrics.tests import mcnemar as mcnemar
    from .model.card import write_card as write_card
    from .model.configuration import FusionConfig as FusionConfig
    from .model.encoder_image import ImageEncoder as ImageEncoder
    from .model.encoder_text import TextEncoder as TextEncoder
    from .model.facts import BatchFacts as BatchFacts
    from .model.fusion import *  # noqa: F403  # every strategy of the table, by its class
    from .model.fusion import register_fusion as register_fusion
    from .model.fusion_base import Fusion as Fusion
    from .model.fusion_base import Head as Head
    from .model.fusion_base import Probe as Probe
    from .model.fusion_base import TowerShapes as TowerShapes
    from .model.images import ImageError as ImageError
    from .model.images import load_image as load_image
    from .model.mapper import EmbeddingMapper as EmbeddingMapper
    from .model.modeling import FusionClassifier as FusionClassifier
    from .model.processing import FusionProcessor as FusionProcessor
    from .model.registry import register_backbone as register_backbone
    from .model.types import Encoded as Encoded
    from .model.types import Fused as Fused
    from .model.types import FusionOutput as FusionOutput
    from .segmentation.lungs import LungMask as LungMask
    from .segmentation.lungs import LungSegmenter as LungSegmenter
    from .segmentation.lungs import NotAChestXrayWarning as NotAChestXrayWarning
    from .segmentation.unet import UNetSegmenter as UNetSegmenter
    from .training.arguments import training_arguments as training_arguments
    from .training.card import model_card as model_card
    from .training.compare import Comparison as Comparison
    from .training.compare import compare as compare
    from .training.compare_rows import ComparisonRow as ComparisonRow
    from .training.estimator import FusionEstimator as FusionEstimator
    from .training.evaluate import Evaluation as Evaluation
    from .training.evaluate import evaluate as evaluate
    from .training.evaluate import predict as predict
    from .training.evaluate import predict_proba as predict_proba
    from .training.evaluate import score as score
    from .training.feature_cache import cache_features as cache_features
    from .training.fit import fit as fit
    from .training.recipe import FusionArguments as FusionArguments
    from .training.small_encoders import small_encoders as small_encoders


def __getattr__(name: str) -> Any:
    """Returns the public object called `name`, imported from its module."""
    module = _HOME.get(name)
    if module is not None:
        value = getattr(importlib.import_module(f".{module}", __name__), name)
    else:
        value = _strategy(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the public names."""
    return sorted(__all__)


def _strategy(name: str) -> Any:
    """Returns the strategy of the table whose class has this name.

    Raises:
        AttributeError: when there is none.
    """
    # The name of a strategy's class begins with a capital letter. All other names are refused
    # without loading torch.
    if name[:1].isupper():
        from .model.fusion import FUSIONS

        for strategy in FUSIONS.values():
            if strategy.__name__ == name and strategy.__module__.startswith(f"{__name__}."):
                return strategy
    from .model.validation import did_you_mean

    raise AttributeError(
        f"module 'mmfusion' has no attribute {name!r}.{did_you_mean(name, __all__)}"
    )


register_on_first_use()
