"""The rows of the study's table: their models, and the training of a model on the folds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, final

import datasets
import numpy as np
import torch
from manifests import kept
from scipy.stats import chisquare
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from transformers import set_seed

from mmfusion import (
    FusionClassifier,
    FusionProcessor,
    ImageEncoder,
    TextEncoder,
    auroc,
    cache_features,
    fit,
    predict,
)
from mmfusion.data.splits import fold_indices, split
from mmfusion.training.arguments import training_arguments
from mmfusion.training.recipe import RECIPES

MAPPERS: dict[str, dict[str, Any]] = {
    "linear": {"name": "linear"},
    "mlp": {"name": "mlp", "hidden_dim": 256},
    "cross_attention": {
        "name": "cross_attention",
        "num_queries": 4,
        "inner_dim": 128,
        "hidden_dim": 128,
    },
}
OTHERS_MAPPER = "cross_attention"
"""The mapper of the strategies other than concat. Its few tokens make attention to them cheap."""

STRATEGIES: dict[str, dict[str, Any]] = {
    "joint": {"name": "joint"},
    "cross_attention": {"name": "cross_attention"},
    "mmtm": {"name": "mmtm", "pairs": 1},
    "late": {"name": "late"},
    "guarded": {"name": "guarded"},
}
# Options of strategies with attention.
_NARROW = {"inner_dim": 128, "hidden_dim": 128}


@final
@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        model: the name of the model.
        modality: "image", "text" or "image+text".
        mapper: the table's name of the mapper, or None.
        fusion: the table's name of the fusion strategy, or None.
        published: the published accuracy of the same kind of model, or None.
    """

    model: str
    modality: str
    mapper: str | None = None
    fusion: str | None = None
    published: float | None = None

    @property
    def is_fused(self) -> bool:
        """Whether the model sees both modalities."""
        return self.modality == "image+text"


def table_rows(published: bool) -> list[Row]:
    """Returns the rows of one protocol.

    Args:
        published: whether the published study used this protocol. Then its figures are included.
    """
    image, text, fused = (0.77, 0.88, 0.79) if published else (None, None, None)
    after = [Row(f"after mapping ({m}): concat", "image+text", m, "concat", fused) for m in MAPPERS]
    others = [
        Row(f"after mapping ({OTHERS_MAPPER}): {s}", "image+text", OTHERS_MAPPER, s)
        for s in STRATEGIES
    ]
    return [
        Row("TF-IDF + logistic regression", "text"),
        Row("image only", "image", published=image),
        Row("text only", "text", published=text),
        Row("before mapping: concat", "image+text", None, "concat"),
        *after,
        *others,
    ]


@final
@dataclass(frozen=True)
class Settings:
    """The settings of the training. Folds trained with other settings are never reused.

    Attributes:
        preset: "small" or "published".
        train: "frozen", "all" or "lora".
        folds: the number of test folds, at least 2.
        epochs: the largest number of epochs per fold. The best one on validation data is used.
            None: that of the library's recipe for what trains.
        seeds: the seeds. Each row is trained once per seed, and the probabilities are averaged.
        batch_size: samples per step.
        learning_rate: the peak learning rate of AdamW. None: that of the recipe.
        max_length: the largest number of tokens of a text. None is the text encoder's own limit.
        bf16: whether to train in bfloat16 (autocast).
        image_encoder: a hub name or folder instead of the preset's.
        text_encoder: a hub name or folder instead of the preset's.
    """

    preset: str = "small"
    train: str = "frozen"
    folds: int = 3
    epochs: int | None = None
    seeds: tuple[int, ...] = (0,)
    batch_size: int = 32
    learning_rate: float | None = None
    max_length: int | None = 64
    bf16: bool = False
    image_encoder: str | None = None
    text_encoder: str | None = None


@final
@dataclass(frozen=True)
class Part:
    """One test fold with the data that it is trained on, as indices into the samples."""

    train: np.ndarray[Any, Any]
    validation: np.ndarray[Any, Any]
    test: np.ndarray[Any, Any]


@final
@dataclass
class Outcome:
    """The outcome of a row.

    Attributes:
        logits: the test logits of every sample [B, C], each from the fold in which it was tested.
        validation: the validation AUROC of each fold.
        seconds_per_epoch: the mean over folds and seeds.
        trained_parameters: the number of parameters that were trained.
        curves: one list of log entries per fold and seed.
    """

    logits: np.ndarray[Any, Any]
    validation: list[float]
    seconds_per_epoch: float
    trained_parameters: int
    curves: list[list[dict[str, float]]] = field(default_factory=list)


def parts_of(samples: datasets.Dataset, n: int, texts_identify: bool, seed: int = 0) -> list[Part]:
    """Returns the folds, each with a validation part.

    No patient is in two parts. No text is in two parts either, if texts identify patients.
    """
    text = "text" if texts_identify else None
    result = []
    for train, test in fold_indices(samples, n=n, seed=seed, text=text):
        # `split` returns rows, so each row carries its index.
        numbered = samples.select(train).add_column("row", train.tolist())
        inner = split(numbered, sizes={"train": 0.85, "validation": 0.15}, seed=seed, text=text)
        result.append(
            Part(np.asarray(inner["train"]["row"]), np.asarray(inner["validation"]["row"]), test)
        )
    return result


@final
class Runner:
    """The training of rows on the folds of one protocol.

    Each finished fold is stored on disk, so that a stopped study can continue.
    """

    def __init__(
        self,
        samples: datasets.Dataset,
        parts: list[Part],
        settings: Settings,
        make_image: Callable[[], ImageEncoder],
        make_text: Callable[[], TextEncoder],
        folder: Path,
    ):
        self.samples, self.parts, self.settings, self.folder = samples, parts, settings, folder
        self.make_image, self.make_text = make_image, make_text
        self.classes = samples.features["label"].num_classes
        self.labels = np.asarray(samples["label"])
        self._prepared: tuple[Row | None, Any] = (None, None)
        rows = [
            [part.train.tolist(), part.validation.tolist(), part.test.tolist()] for part in parts
        ]
        # The hash covers all that decides an outcome: a change of it gives other file names.
        described = json.dumps(
            [
                asdict(settings),
                # Where the settings leave a value to the library, its recipe decides.
                {name: asdict(recipe) for name, recipe in RECIPES.items()},
                [MAPPERS, STRATEGIES, _NARROW],
                rows,
                list(samples["image"]),
                list(samples["text"]),
                self.labels.tolist(),
            ]
        )
        self._key = hashlib.sha256(described.encode()).hexdigest()[:16]

    def run(self, row: Row, advance: Callable[[], None] = lambda: None) -> Outcome:
        """Returns the outcome of a row. `advance` is called after each fold and seed."""
        outcomes = []
        for seed in self.settings.seeds:
            for number, part in enumerate(self.parts):
                name = f"{row.model}-{row.mapper}-{number}-{seed}".replace(" ", "_").replace(
                    ":", ""
                )
                done = kept(
                    self.folder / "folds" / f"{name}-{self._key}.json",
                    partial(self._fold, row, part, seed),
                )
                outcomes.append((part, done))
                advance()
        return self._joined(outcomes)

    def _joined(self, outcomes: list[tuple[Part, dict[str, Any]]]) -> Outcome:
        """Returns the outcome of a row from its folds, averaged over the seeds."""
        probabilities = np.zeros((len(self.samples), self.classes))
        for part, done in outcomes:
            logits = torch.tensor(done["logits"], dtype=torch.float64)
            probabilities[part.test] += logits.softmax(-1).numpy() / len(self.settings.seeds)
        return Outcome(
            # Zero has no logarithm.
            logits=np.log(np.clip(probabilities, 1e-12, 1)),
            validation=[
                float(np.mean([d["validation"] for p, d in outcomes if p is part]))
                for part in self.parts
            ],
            seconds_per_epoch=float(np.mean([done["seconds_per_epoch"] for _, done in outcomes])),
            trained_parameters=int(outcomes[0][1]["trained_parameters"]),
            curves=[done["curve"] for _, done in outcomes],
        )

    def _fold(self, row: Row, part: Part, seed: int) -> dict[str, Any]:
        """Returns the outcome of one fold and seed, as it is stored."""
        if row.model.startswith("TF-IDF"):
            return self._linear_on_words(part)
        wanted = [name for name in ("image", "text") if name in row.modality]
        here = {
            name: self._with(wanted, getattr(part, name))
            for name in ("train", "validation", "test")
        }
        # The first weights are random, so the seed is set before the model is made.
        set_seed(seed)
        model, processor = self._compose(row, wanted)
        rows = self._rows(row, wanted, model, processor)
        given = {
            "num_train_epochs": self.settings.epochs,
            "learning_rate": self.settings.learning_rate,
        }
        arguments = training_arguments(
            self.folder / "scratch",
            model,
            per_device_train_batch_size=self.settings.batch_size,
            save_strategy="no",
            seed=seed,
            bf16=self.settings.bf16,
            disable_tqdm=True,
            **{name: value for name, value in given.items() if value is not None},
        )
        result = fit(
            model,
            processor,
            rows.select(here["train"]),
            rows.select(here["validation"]),
            arguments=arguments,
        )
        logits = {
            name: self._without(wanted, part, len(getattr(part, name)))
            for name in ("validation", "test")
        }
        for name, filled in logits.items():
            # Samples without the modality have the logits of `_without`.
            has = np.isin(getattr(part, name), here[name])
            filled[has] = predict(model, processor, rows.select(here[name]), arguments=arguments)
        curve = [
            {k: v for k, v in entry.items() if isinstance(v, float | int)}
            for entry in result.history
        ]
        return {
            "logits": logits["test"].tolist(),
            "validation": auroc(logits["validation"], self.labels[part.validation]),
            "seconds_per_epoch": result.seconds_per_epoch,
            "trained_parameters": result.trained_parameters,
            "curve": curve,
        }

    def _rows(
        self, row: Row, wanted: list[str], model: FusionClassifier, processor: FusionProcessor
    ) -> Any:
        """Returns the samples as the row's model reads them.

        The features of frozen encoders are computed once, for all folds of the row.
        """
        if self._prepared[0] != row:
            rows: Any = self.samples.select_columns([*wanted, "label", "group"])
            if self.settings.train == "frozen":
                rows, _ = cache_features(model, processor, rows, self.folder.parent / "cache")
            self._prepared = (row, rows)
        return self._prepared[1]

    def _compose(self, row: Row, wanted: list[str]) -> tuple[FusionClassifier, FusionProcessor]:
        """Returns the untrained model of a row, and its processor."""
        image = self.make_image() if "image" in wanted else None
        text = self.make_text() if "text" in wanted else None
        options: dict[str, Any] = {"num_labels": self.classes}
        if row.is_fused:
            fusion = dict(STRATEGIES.get(str(row.fusion), {"name": row.fusion}))
            if fusion["name"] in ("joint", "cross_attention") and self.settings.preset == "small":
                # EfficientNet's embeddings have 1,280 dimensions. Attention of that width would
                # take most of the study's time.
                fusion |= _NARROW
            options |= {
                "fusion": fusion,
                "mapper": MAPPERS.get(str(row.mapper), {"name": "identity"}),
            }
        model = FusionClassifier(image_encoder=image, text_encoder=text, **options)
        return model, FusionProcessor.from_encoders(
            image, text, max_length=self.settings.max_length
        )

    def _with(self, wanted: list[str], indices: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Returns the indices of the samples that have at least one of the wanted modalities."""
        columns = [list(self.samples[name]) for name in wanted]
        return np.asarray(
            [i for i in indices if any(column[i] is not None for column in columns)], dtype=int
        )

    def _without(self, wanted: list[str], part: Part, n: int) -> np.ndarray[Any, Any]:
        """Returns `n` rows of logits for samples without the modality that the model sees.

        They are the log shares of the classes among the training samples. If the absence itself
        says something about the class, they are the shares among the training samples that also
        lack the modality. That is so if these shares differ from those of all samples (chi-square,
        p < .05). The reason is fairness: a model of both modalities sees that a text is missing,
        and must not look better for that alone.
        """
        lacking = np.setdiff1d(part.train, self._with(wanted, part.train))
        # Plus 1, so that a class without samples has no share of zero.
        counts, absent = (
            np.bincount(self.labels[rows], minlength=self.classes) + 1.0
            for rows in (part.train, lacking)
        )
        if chisquare(absent, counts / counts.sum() * absent.sum()).pvalue < 0.05:
            counts = absent
        return np.tile(np.log(counts / counts.sum()), (n, 1))

    def _linear_on_words(self, part: Part) -> dict[str, Any]:
        """Returns the outcome of TF-IDF with logistic regression on one fold."""
        texts = np.asarray([text or "" for text in self.samples["text"]], dtype=object)
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=10.0, max_iter=2000)
        )
        model.fit(texts[part.train], self.labels[part.train])
        logits = {
            name: model.predict_log_proba(texts[getattr(part, name)])
            for name in ("validation", "test")
        }
        return {
            "logits": logits["test"].tolist(),
            "validation": auroc(logits["validation"], self.labels[part.validation]),
            "seconds_per_epoch": 0.0,
            "trained_parameters": int(model[-1].coef_.size + model[-1].intercept_.size),
            "curve": [],
        }
