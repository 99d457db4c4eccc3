"""The trainings of a comparison: one for each row, seed and fold, each stored when it is done."""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import datasets
import numpy as np
from transformers import set_seed

from ..data.collate import Augment
from ..data.labels import class_names, label_array
from ..data.splits import components, fold_indices, split
from ..model.configuration import FusionConfig
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from .arguments import training_arguments
from .binding import augment_name
from .compare_baselines import (
    Array,
    absent_logits,
    class_logits,
    word_logits,
)
from .compare_encoders import Encoders
from .compare_loss import weighted, word_weights
from .compare_rows import TFIDF, ComparisonRow
from .evaluate import predict
from .feature_cache import cache_features
from .feature_store import content_keys, needs_image_tokens
from .fit import fit
from .label_space import label_options
from .recipe import RECIPES, is_solved_by_probes
from .rows import first_views, has_modality, most_views, without
from .stored import kept
from .versions import version_of
from .warm_start import held_out_folds

VALIDATION_SHARE = 0.15
_FORMAT = 2
"""The version of what is stored. Another one is never read."""


@final
@dataclass(frozen=True)
class Part:
    """One test fold with the rows that it is trained on, as indices into the samples."""

    train: Array
    validation: Array
    test: Array

    @property
    def known(self) -> Array:
        """The rows of training and validation, in the order of the samples."""
        return np.sort(np.concatenate([self.train, self.validation]))


def parts_of(samples: datasets.Dataset, n: int, seed: int, *, text: str | None) -> list[Part]:
    """Returns the test folds of one seed, each with a validation part of 15 % of its other rows.

    No group is in two parts, and no text either, if `text` names their column.

    Args:
        samples: with the columns `label` and `group`.
        n: the number of folds.
        seed: another seed divides the samples in another way.
        text: the column of the texts that are kept together, or None.
    """
    sizes = {"train": 1 - VALIDATION_SHARE, "validation": VALIDATION_SHARE}
    parts = []
    for train, test in fold_indices(samples, n=n, seed=seed, text=text, warns=False):
        # `split` returns rows, so each row carries its index.
        names = [name for name in ("group", "text", "label") if name in samples.column_names]
        numbered = samples.select_columns(names).select(train).add_column("row", train.tolist())
        inner = split(numbered, sizes=sizes, seed=seed, text=text, warns=False)
        parts.append(
            Part(np.asarray(inner["train"]["row"]), np.asarray(inner["validation"]["row"]), test)
        )
    return parts


def texts_tie(samples: datasets.Dataset) -> float:
    """Returns the share of the rows in the largest set that equal texts and groups tie together."""
    return float(np.bincount(components(samples)).max()) / len(samples)


@final
class Trainings:
    """The trainings of a comparison.

    Args:
        samples: rows with `image`, `text` or both, `label` and `group`.
        encoders: what each training begins with.
        options: for `training_arguments`.
        folder: each outcome is stored in it, as JSON.
        cache: the folder for the features of frozen encoders.
        loss: options of the loss, for `FusionClassifier`.
        augment: of the pictures of the training rows, as for `fit`; None for none.

    Raises:
        ValueError: if an option of the loss does not fit the labels.
    """

    def __init__(
        self,
        samples: datasets.Dataset,
        encoders: Encoders,
        options: Mapping[str, Any],
        folder: Path,
        cache: Path,
        loss: Mapping[str, Any] | None = None,
        augment: Augment | None = None,
    ):
        self.samples, self.encoders, self.options = samples, encoders, dict(options)
        self.folder, self.cache, self.loss = folder, cache, dict(loss or {})
        self.augment = augment
        # A mistake in the options is told before anything is encoded.
        FusionConfig(**label_options(samples), **self.loss)
        self.labels = label_array(samples)
        self.names = class_names(samples)
        self.num_labels: int = len(self.names or ()) or label_options(samples)["num_labels"]
        self.content = {
            name: [content_keys(one, name) for one in samples[name]]
            for name in ("image", "text")
            if name in samples.column_names
        }
        self._prepared: dict[str, Any] = {}
        self._seen: dict[int, datasets.Dataset] = {}
        self._key = self._digest()

    def outcome(self, row: ComparisonRow, seed: int, number: int, part: Part) -> dict[str, Any]:
        """Returns the outcome of a training, from disk if it was stored before.

        | key | meaning |
        | --- | --- |
        | logits | of the test rows [T, C] |
        | held_out_rows, held_out | rows that were not trained on, and their logits |
        | withheld | modality -> logits of the test rows where it was withheld [T, C] |
        | temperature | that the logits were divided by |
        | seconds, parameters | of the training; how many parameters were trained |
        | curve | the log of the Trainer |
        """
        described = asdict(row)
        if row.views is None:
            # What was stored before there were views keeps its name.
            del described["views"]
        told = [described, seed, *([int(i) for i in rows] for rows in vars(part).values())]
        if (augment := self._augment(row)) is not None:
            told.append(augment_name(augment))
        key = hashlib.sha256(json.dumps([self._key, *told], default=dict).encode()).hexdigest()
        shown = "".join(sign if sign.isalnum() else "-" for sign in row.name)
        path = self.folder / f"{shown}-{seed}-{number}-{key[:16]}.json"
        return kept(path, lambda: self._train(row, seed, part))

    def copies(self) -> int:
        """Returns how many pictures occur, byte for byte, in more than one group."""
        groups: dict[str | None, set[str]] = {}
        for keys, group in zip(self.content.get("image", []), self.samples["group"], strict=False):
            for key in keys if isinstance(keys, list) else [keys]:
                groups.setdefault(key, set()).add(group)
        return sum(len(names) > 1 for key, names in groups.items() if key is not None)

    def prepare(self, rows: Sequence[ComparisonRow]) -> None:
        """Encodes the samples for every row, as far as encoders are frozen.

        Rows that need every token of a picture come first: the pooled vectors of the others are
        stored with those tokens.

        Args:
            rows: of the comparison.
        """
        made = [(row, *self._compose(row)) for row in rows if row.has_encoder]
        for row, model, processor in sorted(made, key=lambda one: not needs_image_tokens(one[1])):
            self._rows(row, model, processor)

    def _digest(self) -> str:
        """Returns a digest of all that every outcome depends on."""
        told = [
            _FORMAT,
            version_of("mmfusion"),
            self.encoders.digest(),
            self.options,
            {name: asdict(recipe) for name, recipe in RECIPES.items()},
            self.content,
            self.labels.tolist(),
            self.names,
            list(self.samples["group"]),
            # What was stored before there were such options stays valid.
            *([self.loss] if self.loss else []),
        ]
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()

    def _train(self, row: ComparisonRow, seed: int, part: Part) -> dict[str, Any]:
        if row.has_encoder:
            return self._encoded(row, seed, part)
        started, known, count = time.perf_counter(), part.known, 0
        if row.name == TFIDF:
            texts = np.asarray(self.samples["text"], dtype=object)
            folds = held_out_folds(self.samples.select(known), seed)
            logits, held_out, count = word_logits(
                list(texts[known]),
                self.labels[known],
                self.num_labels,
                folds,
                list(texts[part.test]),
                word_weights(self.loss, self.labels[known], self.num_labels, self.names),
            )
        else:
            prior = class_logits(self.labels[known], self.num_labels)
            logits, held_out = (np.tile(prior, (len(rows), 1)) for rows in (part.test, known))
        return {
            "logits": logits.tolist(),
            "held_out_rows": known.tolist(),
            "held_out": held_out.tolist(),
            "withheld": {},
            "temperature": 1.0,
            "seconds": time.perf_counter() - started,
            "parameters": count,
            "curve": [],
        }

    def _encoded(self, row: ComparisonRow, seed: int, part: Part) -> dict[str, Any]:
        """Returns the outcome of a row with an encoder."""
        # The first weights are random, so the seed is set before the model is made.
        set_seed(seed)
        model, processor = self._compose(row)
        rows = self._rows(row, model, processor)
        has = has_modality(self._pictures(row), row.modalities)
        augment = self._augment(row)
        # One solution does not cover augmented pictures, so `fit` trains such a model in epochs.
        is_solved = is_solved_by_probes(model) and augment is None
        # A model without epochs needs no validation rows: its choices are made on held-out answers.
        train, asked = (part.known, part.known) if is_solved else (part.train, part.validation)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            arguments = training_arguments(
                scratch,
                model,
                **self.options | {"save_strategy": "no", "seed": seed, "disable_tqdm": True},
            )
            result = fit(
                model,
                processor,
                rows.select(train[has[train]]),
                None if is_solved else rows.select(asked[has[asked]]),
                arguments=arguments,
                augment=augment,
                # Only what was better than the start keeps to the training part.
                refit=not is_solved,
            )
            seconds = time.perf_counter() - started

            def answers(rows: Any, indices: Array) -> Array:
                return predict(model, processor, rows.select(indices), arguments=arguments)

            start = result.start if result.start_was_best else None
            if start is not None and start.logits is not None:
                # Solved on all known rows: these answers come from the folds inside. Their order is
                # that in which `fit` got the rows.
                asked = part.known if is_solved else np.concatenate([part.train, part.validation])
                own = start.logits.numpy() / model.config.temperature
            else:
                own = answers(rows, asked[has[asked]])
            trained = self.labels[train]
            absent = weighted(model, absent_logits(trained, ~has[train], self.num_labels))
            nothing = weighted(model, class_logits(trained, self.num_labels))
            tested = has[part.test]
            seen = answers(rows, part.test[tested]) if tested.any() else None
            withheld = {
                name: self._withheld(name, row, rows, nothing, part.test, answers)
                for name in (row.modalities if row.is_fused else ())
            }
        return {
            "logits": _filled(absent, tested, seen).tolist(),
            "held_out_rows": asked.tolist(),
            "held_out": _filled(absent, has[asked], own).tolist(),
            "withheld": withheld,
            "temperature": model.config.temperature,
            "seconds": seconds,
            "parameters": result.trained_parameters,
            "curve": [_numbers(entry) for entry in result.history],
        }

    def _withheld(
        self,
        name: str,
        row: ComparisonRow,
        rows: Any,
        nothing: Array,
        test: Array,
        answers: Callable[[Any, Array], Array],
    ) -> list[list[float]]:
        """Returns the logits of the test rows [T, C] of a fused model that does not see `name`.

        A row without the other modality gets `nothing`.
        """
        (other,) = {"image", "text"} - {name}
        here = has_modality(self._pictures(row), [other])[test]
        seen = answers(without(rows, name), test[here]) if here.any() else None
        filled: list[list[float]] = _filled(nothing, here, seen).tolist()
        return filled

    def _compose(self, row: ComparisonRow) -> tuple[FusionClassifier, FusionProcessor]:
        """Returns the untrained model of a row, and its processor."""
        image, text = self.encoders.taken(row)
        views = most_views(self._pictures(row)) if image is not None else 1
        model = FusionClassifier(
            image_encoder=image,
            text_encoder=text,
            num_views=views,
            **label_options(self.samples),
            **row.options(),
            **self.loss,
        )
        processor = FusionProcessor.from_encoders(
            image,
            text,
            tokenizer=self.encoders.tokenizer if text is not None else None,
            max_length=self.encoders.max_length,
            fit=self.encoders.fit if image is not None else None,
            num_views=views,
            long_text=self.encoders.long_text if text is not None else "truncate",
        )
        return model, processor

    def _augment(self, row: ComparisonRow) -> Augment | None:
        """Returns the augmentation of the pictures that the row's model is trained on."""
        return self.augment if "image" in row.modalities else None

    def _pictures(self, row: ComparisonRow) -> datasets.Dataset:
        """Returns the samples with the pictures that the row's model sees."""
        views = row.views
        if views is None:
            return self.samples
        if views not in self._seen:
            # Every training asks for them.
            self._seen[views] = first_views(self.samples, views)
        return self._seen[views]

    def _rows(self, row: ComparisonRow, model: FusionClassifier, processor: FusionProcessor) -> Any:
        """Returns the samples as the row's model reads them.

        The features of frozen encoders are computed once, for all folds and seeds. Augmented
        pictures differ in every epoch, so the rows with pictures have no stored features then.
        """
        if row.name not in self._prepared:
            rows: Any = self._pictures(row).select_columns([*row.modalities, "label", "group"])
            encoders = [getattr(model, f"{name}_encoder") for name in row.modalities]
            is_fixed = self._augment(row) is None
            if is_fixed and any(encoder.num_frozen_blocks for encoder in encoders):
                rows, _ = cache_features(model, processor, rows, self.cache)
            self._prepared[row.name] = rows
        return self._prepared[row.name]


def _filled(absent: Array, has: Array, logits: Array | None) -> Array:
    """Returns one row of logits per sample: `absent`, or the model's where the sample has input."""
    filled = np.tile(absent, (len(has), 1)).astype(np.float64)
    if logits is not None:
        filled[has] = logits
    return filled


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of a log entry, without those that tell how long something took."""
    timed = ("runtime", "per_second", "flos")
    return {
        key: value
        for key, value in entry.items()
        if isinstance(value, float | int) and not any(word in key for word in timed)
    }


def joined(outcomes: Sequence[dict[str, Any]], parts: Sequence[Part], key: str = "logits") -> Array:
    """Returns the logits of all samples [B, C], each from the fold in which it was tested.

    Args:
        outcomes: of the folds of one seed.
        parts: the folds.
        key: "logits"; or "image" or "text", for the answers where that modality was withheld.
    """
    count = sum(len(part.test) for part in parts)
    logits: Array = np.zeros((count, len(outcomes[0]["logits"][0])))
    for outcome, part in zip(outcomes, parts, strict=True):
        logits[part.test] = outcome["logits"] if key == "logits" else outcome["withheld"][key]
    return logits
