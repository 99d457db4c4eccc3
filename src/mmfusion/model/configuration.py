"""FusionConfig: all that is needed to rebuild a classifier, in JSON that a person can diff."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, Self, final

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .loss_weights import WEIGHTS, check_weights
from .validation import check_probability, closest, plain_value

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


def named_options(value: str | Mapping[str, Any], *, field: str) -> dict[str, Any]:
    """Returns `value` as a dict whose `name` holds the name and whose other entries are options.

    Args:
        value: a name, or a mapping with `name` and options.
        field: the name of the argument, for the error message.

    Raises:
        TypeError: when it is neither a string nor a mapping.
        ValueError: when the mapping lacks `name`.

    Example:
        >>> named_options("late", field="fusion")
        {'name': 'late'}
    """
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{field} must be a name or a mapping with a 'name', got {value!r}. "
            f"Pass {field}={{'name': ...}}."
        )
    if not isinstance(value.get("name"), str):
        raise ValueError(
            f"{field} must be a mapping with a 'name', got {dict(value)!r}. Add 'name'."
        )
    return dict(value)


def backbone_entries(config: PreTrainedConfig) -> dict[str, Any]:
    """Returns a backbone's config for JSON: the model type and what differs from the defaults.

    Args:
        config: the config.
    """
    changed: dict[str, Any] = config.to_diff_dict()
    return {"model_type": config.model_type} | {
        key: value
        for key, value in changed.items()
        # `auto_map` names the code of a checkpoint, which is never run.
        if key not in ("transformers_version", "architectures", "dtype", "auto_map")
    }


@final
@dataclass
class EncoderConfig:
    """The description from which an encoder is rebuilt.

    Attributes:
        name: the name that the encoder was made with.
        source: "timm", "transformers", "open_clip", "keras" or "custom". None: derived from the
            name.
        architecture: the timm name from which the model is rebuilt, without its hub or folder.
        options: what a timm model or a registered class was made with.
        backbone: the config of a transformers backbone (see `follow`).
        input_spec: of an image encoder: `size`, `channels`, `mean`, `std`, `interpolation`, and
            where they apply `channel_order` and `published` (see `ImageEncoder.input_spec`).
        pooling: of a text encoder: "mean", "cls", "eos", "last" or "pooler" (see `TextEncoder`). Of
            an image encoder: "pooler", or None for the class token or the mean of the tokens.
        projection: width of the published projection that the encoder ends with, or None.
        padding: of a text encoder: "auto", "packed" or "padded".
        trainable: "all", "frozen", or how many blocks at the end train.
        lora: the options of `Encoder.add_lora`, or None.
    """

    name: str
    source: str | None = None
    architecture: str | None = None
    options: dict[str, Any] | None = None
    backbone: dict[str, Any] | None = None
    input_spec: dict[str, Any] | None = None
    pooling: str | None = None
    projection: int | None = None
    padding: str | None = None
    trainable: str | int = "all"
    lora: dict[str, Any] | None = None

    # The config that the backbone uses itself. No field, because it is not an entry of its own.
    _live: ClassVar[PreTrainedConfig | None] = None

    def follow(self, backbone: PreTrainedConfig) -> None:
        """Makes `backbone` an image of a backbone's own config, from now on.

        The backbone may change it after it was built. For example, `resize_token_embeddings`
        changes the size of the vocabulary.

        Args:
            backbone: the config that the backbone holds.
        """
        object.__setattr__(self, "_live", backbone)
        self.backbone = backbone_entries(backbone)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Returns the config of an encoder that `to_dict` wrote.

        Args:
            value: its entries.

        Raises:
            ValueError: for an unknown entry (the closest one is named).

        Example:
            >>> EncoderConfig.from_dict({"name": "resnet18"}).to_dict()
            {'name': 'resnet18'}
        """
        allowed = [field.name for field in fields(cls)]
        for key in value:
            if key not in allowed:
                raise ValueError(
                    f"an encoder's config has no option {key!r}. {closest(key, sorted(allowed))}"
                )
        return cls(**value)

    def to_dict(self) -> dict[str, Any]:
        """Returns the entries that differ from their defaults, as a dict for JSON."""
        if self._live is not None:
            self.backbone = backbone_entries(self._live)
        entries = {key: plain_value(value) for key, value in asdict(self).items()}
        said = {key: value for key, value in entries.items() if value is not None}
        if self.trainable == "all":
            del said["trainable"]
        return said

    @property
    def trainable_blocks(self) -> int | None:
        """How many blocks at the end train, not counting LoRA; None if the whole encoder trains."""
        if self.trainable == "all":
            return None
        return 0 if self.trainable == "frozen" else int(self.trainable)


@final
@strict
class FusionConfig(PreTrainedConfig):
    """The configuration of a `FusionClassifier`.

    Args:
        image_encoder: name of an image backbone, or the `config` of an `ImageEncoder`, as it is or
            as a dict; None for a text-only classifier.
        text_encoder: the same of a text backbone; None for an image-only classifier.
        mapper: name of an `EmbeddingMapper`'s kind, or a dict with `name` and its options. Used
            where there are two encoders.
        fusion: name of a fusion strategy, or a dict with `name` and its options. Used where there
            are two encoders.
        class_weights: one positive weight per class for the loss, "balanced", or None. With
            "balanced", a class that n_c of the n training rows have gets n / (C n_c), where C
            classes occur. `fit` computes it and writes the numbers here.
        pos_weight: of a multi-label problem: one positive weight per label for the loss of its
            positives, as `torch.nn.BCEWithLogitsLoss` has it; "balanced", or None. "balanced" is
            negatives / positives among the known labels of the training rows. `fit` computes it and
            writes the numbers here.
        focal_gamma: the exponent (at least 0) of the focal loss, by which samples that are
            classified rightly count less (Lin et al. 2017, arXiv 1708.02002, eq. 5). 0 is the
            cross-entropy.
        modality_dropout: probability in [0, 1) that a training sample which has both modalities
            loses one of them.
        auxiliary_loss_weight: weight (at least 0) of an extra classification loss on each modality
            alone.
        head_dropout: probability in [0, 1) of dropping a feature in front of a head while training.
        label_smoothing: share in [0, 1) of the target that is spread evenly over the classes while
            training. `fit` sets it from `label_smoothing_factor` of the arguments.
        normalize_embeddings: whether a LayerNorm without parameters is applied to the tokens and
            the pooled vector of each tower before they meet mapper, strategy and head. Embeddings
            of two encoders have unlike scales; with it they share one.
        num_views: the most pictures of one sample, such as the frontal and the lateral view of a
            study. Above 1, a learned vector for each place is added to the embeddings of the
            picture there. It starts at zero.
        temperature: number above 0 that logits are divided by outside of training. `fit` chooses it
            on validation data (Guo et al. 2017, arXiv 1706.04599). 1 leaves them as they are.
        **kwargs: what every transformers config takes: `num_labels`, `id2label`, `label2id`,
            `problem_type`, `dtype` ...

    Raises:
        ValueError: for an option that does not exist (the closest one is named), or a value out of
            range.
        TypeError: for a value of the wrong type.

    Example:
        >>> text = "google-bert/bert-base-uncased"
        >>> config = FusionConfig(image_encoder="resnet18", text_encoder=text, num_labels=3)
        >>> config.fusion, config.mapper, config.num_labels
        ({'name': 'concat'}, {'name': 'linear'}, 3)
        >>> FusionConfig(fuson="late")
        Traceback (most recent call last):
            ...
        ValueError: FusionConfig has no option 'fuson'. Did you mean 'fusion'?
    """

    model_type: ClassVar[str] = "mmfusion"

    image_encoder: EncoderConfig | dict[str, Any] | str | None = None
    text_encoder: EncoderConfig | dict[str, Any] | str | None = None
    mapper: dict[str, Any] | str = "linear"
    fusion: dict[str, Any] | str = "concat"
    class_weights: list[float | int] | str | None = None
    pos_weight: list[float | int] | str | None = None
    focal_gamma: float | int = 0.0
    modality_dropout: float | int = 0.0
    auxiliary_loss_weight: float | int = 0.0
    head_dropout: float | int = 0.0
    label_smoothing: float | int = 0.0
    normalize_embeddings: bool = True
    num_views: int = 1
    temperature: float | int = 1.0
    problem_type: Literal["single_label_classification", "multi_label_classification"] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        own = set(type(self).__dataclass_fields__)
        for name in kwargs:
            if name not in own and name not in _FROM_TRANSFORMERS:
                raise ValueError(
                    f"FusionConfig has no option {name!r}. "
                    f"{closest(name, sorted(own | {'num_labels'}))}"
                )
        self.mapper = named_options(self.mapper, field="mapper")
        self.fusion = named_options(self.fusion, field="fusion")
        for field in ("image_encoder", "text_encoder"):
            value = getattr(self, field)
            if value is not None and not isinstance(value, EncoderConfig):
                described = EncoderConfig.from_dict(named_options(value, field=field))
                setattr(self, field, described)
        if "num_labels" in kwargs:
            kwargs["num_labels"] = plain_value(kwargs["num_labels"])
        self._check_labels(kwargs.get("num_labels"))
        super().__post_init__(**kwargs)
        self._check_ranges()

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as a dict for JSON."""
        entries: dict[str, Any] = super().to_dict()
        for field in ("image_encoder", "text_encoder"):
            value = getattr(self, field)
            entries[field] = value.to_dict() if isinstance(value, EncoderConfig) else value
        # Configs and bindings that earlier versions wrote do not have these.
        added = {"num_views": 1, "pos_weight": None, "focal_gamma": 0.0}
        for name, default in added.items():
            if entries.get(name) == default:
                entries.pop(name, None)
        return entries

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
                f"id2label must be keyed 0 .. {len(ids) - 1} without a gap, got {ids!r}. Renumber "
                "the classes."
            )
        if len(set(self.id2label.values())) < len(ids):
            raise ValueError(
                f"id2label must be a different name per class, got {self.id2label!r}. Rename the "
                "double."
            )
        if num_labels is not None and num_labels != len(ids):
            raise ValueError(
                f"num_labels must be the length of id2label ({len(ids)}), got {num_labels!r}. "
                "Leave one of the two out."
            )
        self.label2id = {name: int(key) for key, name in self.id2label.items()}

    def _check_ranges(self) -> None:
        if self.num_labels == 1 and self.problem_type != "multi_label_classification":
            raise ValueError(
                "num_labels must be at least 2 where each sample has one class, got 1. Give both "
                "classes, or problem_type='multi_label_classification' for one label of yes or no."
            )
        for name in ("modality_dropout", "head_dropout", "label_smoothing"):
            check_probability(name, getattr(self, name))
        if self.num_views < 1:
            raise ValueError(f"num_views must be at least 1, got {self.num_views!r}.")
        if not self.auxiliary_loss_weight >= 0:
            raise ValueError(
                f"auxiliary_loss_weight must be at least 0, got {self.auxiliary_loss_weight!r}. "
                "0 switches it off."
            )
        if not 0 < self.temperature < float("inf"):
            raise ValueError(
                f"temperature must be a number above 0, got {self.temperature!r}. 1 changes "
                "nothing."
            )
        if not 0 <= self.focal_gamma < float("inf"):
            raise ValueError(
                f"focal_gamma must be a number of at least 0, got {self.focal_gamma!r}. 0 is the "
                "cross-entropy."
            )
        is_multi = self.problem_type == "multi_label_classification"
        for name in WEIGHTS:
            check_weights(
                name, getattr(self, name), int(self.num_labels or 0), multi_label=is_multi
            )


def merged_config(config: FusionConfig | None, given: dict[str, Any]) -> FusionConfig:
    """Returns a config with the given values in the place of its own.

    Args:
        config: None means a new one.
        given: field -> value.

    Raises:
        TypeError: when `config` is none of this model type.
    """
    given = {
        key: value if isinstance(value, EncoderConfig) else plain_value(value)
        for key, value in given.items()
    }
    if config is None:
        return FusionConfig(**given)
    # By model type, not by class: transformers imports `configuration` twice for a model that
    # brings its code.
    if getattr(config, "model_type", None) != FusionConfig.model_type:
        raise TypeError(
            f"config must be a FusionConfig, got {type(config).__name__}. Parts are given by "
            "keyword."
        )
    if not given:
        return config
    entries = config.to_dict()
    if "num_labels" in given or "id2label" in given:
        entries.pop("id2label", None)
        entries.pop("label2id", None)
    return FusionConfig(**(entries | given))


def is_installed(module_name: str) -> bool:
    """Returns whether a module of this folder belongs to the installed library.

    A copy that was pushed with a model is loaded by the model's `auto_map`. It must not take the
    library's place in transformers' Auto classes.

    Args:
        module_name: the module's `__name__`.
    """
    return module_name.startswith("mmfusion.")


if is_installed(__name__):
    AutoConfig.register(FusionConfig.model_type, FusionConfig, exist_ok=True)
