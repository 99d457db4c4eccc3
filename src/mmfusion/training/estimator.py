"""FusionEstimator: a classifier of images and texts with the interface of scikit-learn."""

import copy
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, final

import datasets
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted
from transformers import PreTrainedTokenizerBase, set_seed

from ..data.samples import Samples, as_dataset
from ..data.splits import split
from ..model.encoder_image import ImageEncoder
from ..model.encoder_text import TextEncoder
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from .arguments import training_arguments
from .evaluate import predict_proba
from .fit import fit
from .recipe import FusionArguments

Array = np.ndarray[Any, Any]


@final
class FusionEstimator(ClassifierMixin, BaseEstimator):
    """A classifier that scikit-learn's tools can search, calibrate and cross-validate.

    `fit(X, y)` builds a `FusionClassifier` on copies of the encoders and trains it. X are samples
    as `as_dataset` takes them, with `image`, `text` or both; y are their classes. A column `group`
    of X (the patient) keeps rows together where `fit` holds out rows for validation.
    Cross-validation of scikit-learn does not read that column: pass `groups=` and a splitter such
    as `GroupKFold`.

    Args:
        image_encoder: an encoder, frozen or not; or a name, which makes a frozen pretrained one.
            None: no images.
        text_encoder: the same for texts.
        mapper: of the text, as `FusionClassifier` takes it.
        fusion: the strategy, as `FusionClassifier` takes it.
        tokenizer: for a text encoder that was made from a config.
        class_weights: as `FusionConfig` takes them, such as "balanced".
        validation_fraction: the share of rows that choose the epoch and the temperature, above 0
            and below 1.
        epochs: the most epochs; None: those of the recipe for what trains.
        learning_rate: of all parameters; None: that of the recipe.
        batch_size: of training and prediction, in samples.
        cache: a folder for the outputs of frozen towers. Trainings on the same encoders share it.
        training_options: further options of `training_arguments`.
        random_state: of the weights, the order of the rows and the held-out rows.
        verbose: whether progress is shown.

    Attributes:
        classes_: the classes in sorted order. With y [B, C], the numbers of its columns.
        model_: the trained `FusionClassifier`.
        processor_: its `FusionProcessor`.
        result_: the `FitResult` of the training.

    Example:
        >>> from mmfusion import TextEncoder
        >>> from mmfusion.data.toy import word_tokenizer
        >>> from mmfusion.testing import tiny_config
        >>> words = word_tokenizer(["clear lungs", "large opacity"])
        >>> encoder = TextEncoder(tiny_config("bert", vocab_size=len(words)))
        >>> estimator = FusionEstimator(text_encoder=encoder.freeze(), tokenizer=words)
        >>> X = [{"text": f"{text} {n}"} for n in range(10) for text in ("clear", "opacity")]
        >>> estimator.fit(X, ["well", "ill"] * 10).predict(X[:2]).tolist()
        ['well', 'ill']
    """

    def __init__(
        self,
        image_encoder: str | ImageEncoder | None = None,
        text_encoder: str | TextEncoder | None = None,
        *,
        mapper: Any = "linear",
        fusion: Any = "concat",
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        class_weights: list[float] | str | None = None,
        validation_fraction: float = 0.2,
        epochs: int | None = None,
        learning_rate: float | None = None,
        batch_size: int = 32,
        cache: str | None = None,
        training_options: Mapping[str, Any] | None = None,
        random_state: int = 0,
        verbose: bool = False,
    ):
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.mapper = mapper
        self.fusion = fusion
        self.tokenizer = tokenizer
        self.class_weights = class_weights
        self.validation_fraction = validation_fraction
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.cache = cache
        self.training_options = training_options
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        """Returns what scikit-learn must know: samples are no matrix of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True
        tags.classifier_tags.multi_label = True
        tags.no_validation = True
        tags.non_deterministic = False
        return tags

    def fit(self, X: Samples, y: Any) -> Self:
        """Returns this estimator after training.

        Args:
            X: samples, as `as_dataset` takes them. A column `label` in them is ignored.
            y: the class of each sample [B]; or 1 and 0 for each class [B, C].

        Raises:
            ValueError: if y has other rows than X or a single class, or as `fit` raises it.
        """
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                "validation_fraction must be above 0 and below 1, "
                f"got {self.validation_fraction!r}."
            )
        rows = self._labelled(as_dataset(X), np.asarray(y))
        set_seed(self.random_state)
        image, text = self._encoders()
        known: dict[str, Any] = {"num_labels": len(self.classes_)}
        if self._is_multi_label:
            known["problem_type"] = "multi_label_classification"
        self.model_ = FusionClassifier(
            image_encoder=image,
            text_encoder=text,
            mapper=self.mapper if image is not None and text is not None else None,
            fusion=self.fusion if image is not None and text is not None else None,
            class_weights=self.class_weights,
            **known,
        )
        self.processor_ = FusionProcessor.from_encoders(image, text, tokenizer=self.tokenizer)
        share = self.validation_fraction
        parts = split(rows, sizes={"train": 1 - share, "validation": share}, seed=self.random_state)
        with self._arguments(self.model_) as arguments:
            self.result_ = fit(
                self.model_,
                self.processor_,
                parts["train"],
                parts["validation"],
                arguments=arguments,
                cache=self.cache,
                refit=True,
            )
        return self

    def predict_proba(self, X: Samples) -> Array:
        """Returns the probabilities of samples, float32 [B, C], in the order of `classes_`.

        Args:
            X: samples, as for `fit`.

        Raises:
            NotFittedError: before `fit`.
        """
        check_is_fitted(self, "model_")
        rows = as_dataset(X)
        unused = [name for name in ("label", "group") if name in rows.column_names]
        with self._arguments(self.model_) as arguments:
            return predict_proba(
                self.model_,
                self.processor_,
                rows.remove_columns(unused),
                arguments=arguments,
                cache=self.cache,
            )

    def predict(self, X: Samples) -> Array:
        """Returns the most probable class of each sample [B]; or 1 and 0 for each class [B, C].

        Args:
            X: samples, as for `fit`.

        Raises:
            NotFittedError: before `fit`.
        """
        found = self.predict_proba(X)
        if self._is_multi_label:
            return (found >= 0.5).astype(int)
        chosen: Array = self.classes_[found.argmax(1)]
        return chosen

    def _labelled(self, rows: datasets.Dataset, y: Array) -> datasets.Dataset:
        """Returns the rows with `label`; `classes_` is set."""
        if len(y) != len(rows):
            raise ValueError(f"y must have one entry per sample, got {len(y)} for {len(rows)}.")
        if "label" in rows.column_names:
            rows = rows.remove_columns("label")
        check_classification_targets(y)
        self._is_multi_label = type_of_target(y) == "multilabel-indicator"
        if self._is_multi_label:
            self.classes_ = np.arange(y.shape[1])
            return rows.add_column("label", y.astype(np.float32).tolist())
        self.classes_, numbers = np.unique(y.ravel(), return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must have two classes or more, got {self.classes_.tolist()}.")
        names = datasets.ClassLabel(names=[str(name) for name in self.classes_])
        return rows.add_column("label", numbers.tolist(), feature=names)

    def _encoders(self) -> tuple[ImageEncoder | None, TextEncoder | None]:
        """Returns copies of the encoders: the estimator's own stay as they are."""
        if self.image_encoder is None and self.text_encoder is None:
            raise ValueError(
                "image_encoder or text_encoder must be given, got neither. Name one of timm or "
                "transformers."
            )
        image, text = self.image_encoder, self.text_encoder
        image = ImageEncoder(image).freeze() if isinstance(image, str) else copy.deepcopy(image)
        text = TextEncoder(text).freeze() if isinstance(text, str) else copy.deepcopy(text)
        return image, text

    @contextmanager
    def _arguments(self, model: FusionClassifier) -> Iterator[FusionArguments]:
        """Yields the arguments of a training that writes nothing."""
        wanted = {"num_train_epochs": self.epochs, "learning_rate": self.learning_rate}
        options = {
            "save_strategy": "no",
            "disable_tqdm": not self.verbose,
            "seed": self.random_state,
            "per_device_train_batch_size": self.batch_size,
            "per_device_eval_batch_size": self.batch_size,
            **{name: value for name, value in wanted.items() if value is not None},
            **(self.training_options or {}),
        }
        with tempfile.TemporaryDirectory(prefix="mmfusion-") as folder:
            yield training_arguments(folder, model, **options)
