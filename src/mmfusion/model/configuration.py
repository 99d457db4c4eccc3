"""FusionConfig: everything that is needed to rebuild a classifier, in JSON that a person can diff. No tensor code."""

import difflib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# What transformers itself passes to a config beyond its fields.
_FROM_TRANSFORMERS = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_commit_hash",
        "_name_or_path",
        "attn_implementation",
        "auto_map",
        "experts_implementation",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "per_layer_config",
        "quantization_config",
        "torch_dtype",
        "use_cache",
    }
)


def closest(name: object, allowed: list[str]) -> str:
    """A sentence that proposes the closest allowed name, or lists them all.

    Example:
        >>> closest("concta", ["concat", "late"])
        "Did you mean 'concat'?"
    """
    match = difflib.get_close_matches(str(name), allowed, n=1)
    return f"Did you mean {match[0]!r}?" if match else f"Choose one of {sorted(allowed)}."


def named_options(value: str | Mapping[str, Any], *, field: str, key: str) -> dict[str, Any]:
    """`value` as a dict whose `key` holds the name and whose other entries are options.

    Raises:
        TypeError: when it is neither a string nor a mapping.
        ValueError: when the mapping lacks `key`.

    Example:
        >>> named_options("late", field="fusion", key="name")
        {'name': 'late'}
    """
    if isinstance(value, str):
        return {key: value}
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{field} must be a name or a mapping with a {key!r}, got {value!r}. Pass {field}={{{key!r}: ...}}."
        )
    if not isinstance(value.get(key), str):
        raise ValueError(
            f"{field} must be a mapping with a {key!r}, got {dict(value)!r}. Add {key!r}."
        )
    return dict(value)


@strict
class FusionConfig(PreTrainedConfig):
    """The configuration of a `FusionClassifier`.

    Args:
        image_encoder: name of an image backbone, or the `config` dict of an `ImageEncoder`; None
            for a text-only classifier.
        text_encoder: name of a text backbone, or the `config` dict of a `TextEncoder`; None for an
            image-only classifier.
        mapper: kind of `EmbeddingMapper`, or a dict with `kind` and its options. Used where there
            are two encoders.
        fusion: name of a fusion strategy, or a dict with `name` and its options. Used where there
            are two encoders.
        class_weights: one positive weight per class for the loss, or None.
        modality_dropout: probability in [0, 1) that a training sample which has both modalities
            loses one of them.
        auxiliary_loss_weight: weight (at least 0) of an extra classification loss on each modality
            alone.
        head_dropout: probability in [0, 1) of dropping a feature in front of a head while training.
        **kwargs: what every transformers config takes: `num_labels`, `id2label`, `label2id`,
            `problem_type`, `dtype` ...

    Raises:
        ValueError: for an option that does not exist (the closest one is named), or a value out of
            range.
        TypeError: for a value of the wrong type.

    Example:
        >>> config = FusionConfig(image_encoder="resnet18", text_encoder="google-bert/bert-base-uncased", num_labels=3)
        >>> config.fusion, config.mapper, config.num_labels
        ({'name': 'concat'}, {'kind': 'linear'}, 3)
        >>> FusionConfig(fuson="late")
        Traceback (most recent call last):
            ...
        ValueError: FusionConfig has no option 'fuson'. Did you mean 'fusion'?
    """

    model_type: ClassVar[str] = "mmfusion"

    image_encoder: dict[str, Any] | str | None = None
    text_encoder: dict[str, Any] | str | None = None
    mapper: dict[str, Any] | str = "linear"
    fusion: dict[str, Any] | str = "concat"
    class_weights: list[float | int] | None = None
    modality_dropout: float | int = 0.0
    auxiliary_loss_weight: float | int = 0.0
    head_dropout: float | int = 0.0
    problem_type: Literal["single_label_classification", "multi_label_classification"] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        fields = set(type(self).__dataclass_fields__)
        for name in kwargs:
            if name not in fields and name not in _FROM_TRANSFORMERS:
                raise ValueError(
                    f"FusionConfig has no option {name!r}. {closest(name, sorted(fields | {'num_labels'}))}"
                )
        self.mapper = named_options(self.mapper, field="mapper", key="kind")
        self.fusion = named_options(self.fusion, field="fusion", key="name")
        for field in ("image_encoder", "text_encoder"):
            value = getattr(self, field)
            if value is not None:
                setattr(self, field, named_options(value, field=field, key="name"))
        self._check_labels(kwargs.get("num_labels"))
        super().__post_init__(**kwargs)
        self._check_ranges()

    def _check_labels(self, num_labels: int | None) -> None:
        if num_labels is not None and (not isinstance(num_labels, int) or num_labels < 1):
            raise ValueError(
                f"num_labels must be at least 1, got {num_labels!r}. Give the number of classes."
            )
        if self.id2label is None:
            return
        ids = sorted(int(key) for key in self.id2label)
        if ids != list(range(len(ids))):
            raise ValueError(
                f"id2label must be keyed 0 .. {len(ids) - 1} without a gap, got {ids!r}. Renumber the classes."
            )
        if len(set(self.id2label.values())) < len(ids):
            raise ValueError(
                f"id2label must be a different name per class, got {self.id2label!r}. Rename the double."
            )
        if num_labels is not None and num_labels != len(ids):
            raise ValueError(
                f"num_labels must be the length of id2label ({len(ids)}), got {num_labels!r}. Leave one of the two out."
            )
        self.label2id = {name: int(key) for key, name in self.id2label.items()}

    def _check_ranges(self) -> None:
        for name in ("modality_dropout", "head_dropout"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value!r}. 0 switches it off.")
        if not self.auxiliary_loss_weight >= 0:
            raise ValueError(
                f"auxiliary_loss_weight must be at least 0, got {self.auxiliary_loss_weight!r}. 0 switches it off."
            )
        weights = self.class_weights
        if weights is not None and (
            len(weights) != self.num_labels or not all(0 < w < float("inf") for w in weights)
        ):
            raise ValueError(
                f"class_weights must be {self.num_labels} positive numbers, got {weights!r}. Give one per class."
            )
