"""The comparison of fused models with each modality alone, on a table of samples."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import datasets
import numpy as np
from rich.console import Console
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..data.collate import Augment
from ..data.present import load_present
from ..data.samples import Samples, as_dataset
from ..data.splits import GLUED_SHARE
from ..model.encoder_image import ImageEncoder
from ..model.encoder_text import TextEncoder
from ..model.quiet import without_messages
from ..model.template import check_columns, template_columns, write_text
from .binding import augment_name
from .compare_encoders import Encoders
from .compare_folds import Part, Trainings, parts_of, texts_tie
from .compare_html import page
from .compare_loss import given_loss, loss_notes, true_labels
from .compare_plots import draw, require_report
from .compare_report import console_table, markdown, verdict
from .compare_rows import DEFAULT_ROWS, ComparisonRow, rows_of
from .compare_summary import Answers, summarise
from .fit import FitResult
from .progress import bar_on, error_console
from .stored import finite, write_json
from .versions import versions


@final
@dataclass(frozen=True)
class Comparison:
    """The results of a comparison.

    Attributes:
        results: the content of results.json.
        folder: where results.json, report.md, report.html and the plots are.
        answers: the logits of every row and training, and what is true.
    """

    results: dict[str, Any]
    folder: Path
    answers: Answers = field(repr=False)

    @property
    def verdict(self) -> str:
        """The sentence that says whether fusing helped."""
        return str(self.results["verdict"])

    def print(self, console: Console | None = None) -> None:
        """Prints the verdict and a table of at most 80 columns.

        Args:
            console: of rich; None makes one.
        """
        console = console or Console()
        console.print(console_table(self.results))
        console.print(self.verdict, highlight=False)


def compare(
    samples: str | os.PathLike[str] | Samples,
    output: str | os.PathLike[str],
    *,
    image_encoder: str | ImageEncoder | None = None,
    text_encoder: str | TextEncoder | None = None,
    rows: str | Sequence[str | ComparisonRow] = DEFAULT_ROWS,
    folds: int = 3,
    seeds: int = 3,
    template: str | None = None,
    keep_texts: bool | None = None,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    max_length: int | None = None,
    fit: str | None = None,
    long_text: str = "truncate",
    options: Mapping[str, Any] | None = None,
    class_weights: list[float] | str | None = None,
    pos_weight: list[float] | str | None = None,
    focal_gamma: float = 0.0,
    truth: datasets.Dataset | None = None,
    augment: Augment | None = None,
    cache: str | os.PathLike[str] | None = None,
    resamples: int = 2000,
    title: str = "Does fusing help?",
    notes: Sequence[str] = (),
    progress: bool = True,
) -> Comparison:
    """Trains fused models, single modalities and simple baselines, and says whether fusing helps.

    Each seed divides the samples into test folds in another way. Each row is trained on each fold
    of each seed, and answers the test samples of that fold. No patient (group) is in two folds. In
    each fold, the best single modality and the best fused model are chosen by AUROC on answers to
    rows that were not trained on. The intervals resample patients and trainings.

    Every training is stored when it is done. A second call with the same arguments continues a run
    that was stopped. What is stored is bound to the samples, the encoders and the settings.

    Args:
        samples: a manifest, or rows as `load_manifest` reads them, with `label`, `group`, and
            `image`, `text` or both.
        output: the folder for results.json, report.md, report.html, the plots and the answers.
        image_encoder: a name, which makes a frozen pretrained encoder; or an encoder, frozen or
            not. None: no row sees images.
        text_encoder: the same for texts.
        rows: names or `ComparisonRow`, or "all". Names are "majority" (the shares of the classes),
            "tfidf" (logistic regression on words), "image", "text", and the fusion strategies.
        folds: the number of test folds, at least 2.
        seeds: how often the samples are divided and each row is trained, at least 1.
        template: a sentence with names of columns in braces, which writes the texts; as for
            `load_manifest`.
        keep_texts: whether equal texts are kept in one fold, because a copied text would leak.
            None: yes, unless they tie more than a tenth of the rows together, as texts such as
            "male, 60 years" do.
        tokenizer: as for `FusionProcessor.from_encoders`.
        max_length: as for `FusionProcessor.from_encoders`.
        fit: how a picture of another shape is brought to the encoder's size, as for
            `FusionProcessor`.
        long_text: what happens to texts that are too long, as for `FusionProcessor`.
        options: for `training_arguments`, such as `{"num_train_epochs": 5}`. The seed is that of
            each training.
        class_weights: of the loss of every row that is trained, as for `FusionConfig`. With
            "balanced", each fold computes its own from its training rows. TF-IDF has them in
            single-label problems; the shares of the classes stay as they are.
        pos_weight: the same for the positives of multi-label problems.
        focal_gamma: of the loss of the rows with an encoder, as for `FusionConfig`.
        truth: the same samples with the labels that answers are measured on. None: those of
            `samples`. So uncertain labels that count as 0 or 1 in training can be left out where a
            model is measured (`load_manifest(..., uncertain=)`).
        augment: of the pictures of the training rows, as for `fit`: `Augmentation("xray")`. Every
            row with pictures then trains in epochs and computes its frozen encoders in each of
            them, which takes much longer. Rows without pictures are not affected. What is stored
            is bound to its name.
        cache: the folder for the features of frozen encoders. None: `cache` in the output folder.
        resamples: of the bootstrap.
        title: of the report.
        notes: sentences about the data, which the report shows first.
        progress: whether a progress bar is shown.

    Returns:
        the comparison, also written to the output folder.

    Raises:
        ValueError: for wrong arguments, samples without labels, or an unknown row.
        ImportError: if matplotlib, which draws the plots, is not installed.
    """
    started = time.perf_counter()
    _check_first(folds, seeds, resamples, augment, image_encoder)
    image, text = _frozen(image_encoder, ImageEncoder), _frozen(text_encoder, TextEncoder)
    encoders = Encoders(image, text, tokenizer, max_length, fit, long_text)
    loss = given_loss(class_weights, pos_weight, focal_gamma)
    table = _with_encoders(_read(samples, template), encoders)
    chosen = rows_of(rows, encoders.modalities)
    texts, text_notes = _tied_texts(table, keep_texts)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    stored = (folder / "answers", folder / "cache" if cache is None else Path(cache))
    with _quiet():
        parts = [parts_of(table, folds, seed, text=texts) for seed in range(seeds)]
        trainings = Trainings(table, encoders, options or {}, *stored, loss, augment)
        measured = true_labels(truth, table)
        outcomes = _train(trainings, chosen, parts, title, progress)
    answers = Answers(outcomes, parts, measured, list(table["group"]), resamples)
    settings: dict[str, Any] = {"folds": folds, "seeds": seeds, "resamples": resamples}
    settings |= {"template": template, "max_length": max_length, "fit": fit, "long_text": long_text}
    settings |= {"encoders": {"image": _name(image), "text": _name(text)}, "loss": loss}
    settings |= {"options": dict(options or {}), "equal_texts_in_one_fold": texts is not None}
    settings |= {"augment": augment_name(augment)}
    described = {
        "title": title,
        "verdict": "",
        "notes": [*notes, *_described(table, trainings, measured), *text_notes],
        "settings": settings,
        "versions": versions(),
        **summarise(answers, chosen),
    }
    results = finite(described)
    results |= {"verdict": verdict(results), "seconds": round(time.perf_counter() - started, 1)}
    return _written(Comparison(results, folder, answers), chosen, trainings)


def _check_first(
    folds: int, seeds: int, resamples: int, augment: Augment | None, image_encoder: Any
) -> None:
    """Raises an error for what would otherwise fail after the trainings, or in the midst of them.

    Raises:
        ValueError: if a number is too small, or no row has pictures that could be augmented.
        ImportError: if matplotlib or statsmodels is not installed.
    """
    require_report()
    if min(folds - 1, seeds, resamples) < 1:
        raise ValueError(
            "folds must be at least 2, seeds and resamples at least 1, "
            f"got {folds!r}, {seeds!r} and {resamples!r}."
        )
    if augment is not None and image_encoder is None:
        raise ValueError(
            f"augment must be None without image_encoder, got {augment_name(augment)}: "
            "no row sees pictures. Leave it out."
        )


def _train(
    trainings: Trainings,
    rows: Sequence[ComparisonRow],
    parts: Sequence[Sequence[Part]],
    title: str,
    progress: bool,
) -> dict[str, list[list[dict[str, Any]]]]:
    """Returns row -> seed -> fold -> outcome, and says meanwhile which one is made."""
    outcomes: dict[str, list[list[dict[str, Any]]]] = {row.name: [] for row in rows}
    console = error_console()
    # A file gets a line for each fold that is done, and a terminal a bar.
    lines = progress and not console.is_terminal
    with bar_on(console) as bar:
        task = bar.add_task(title, total=len(rows) * sum(map(len, parts)), visible=progress)
        bar.update(task, description=f"{title}: encoding")
        trainings.prepare(rows)
        for seed, folds in enumerate(parts):
            for row in rows:
                outcomes[row.name].append([])
            # All rows of a fold before the next fold: they share solutions (`regression.solve`).
            for number, part in enumerate(folds):
                place = f"seed {seed + 1} of {len(parts)}, fold {number + 1} of {len(folds)}"
                for row in rows:
                    bar.update(task, description=f"{title}: {place}, {row.name}")
                    outcomes[row.name][seed].append(trainings.outcome(row, seed, number, part))
                    bar.advance(task)
                if lines:
                    console.print(f"{title}: {place} is done", markup=False)
    return outcomes


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the libraries from printing a bar and a message for every single training."""
    had_bars = not datasets.are_progress_bars_disabled()
    # That nothing is left to train is known here.
    of_fit = logging.get_logger(FitResult.__module__)
    level = of_fit.level
    of_fit.setLevel(logging.log_levels["error"])
    datasets.disable_progress_bars()
    try:
        with without_messages():
            yield
    finally:
        of_fit.setLevel(level)
        if had_bars:
            datasets.enable_progress_bars()


def _read(samples: Any, template: str | None) -> datasets.Dataset:
    """Returns the samples with the columns of the modalities that they have."""
    if not isinstance(samples, str | os.PathLike):
        table = samples = as_dataset(samples)
        if template is not None:
            check_columns(template, samples.column_names)
            rows = samples.select_columns(template_columns(template))
            texts = [write_text(template, row) for row in rows]
            kept = [name for name in samples.column_names if name != "text"]
            feature = datasets.Value("string")
            table = samples.select_columns(kept).add_column("text", texts, feature=feature)
    else:
        table = load_present(samples, template)
    for name in ("label", "group"):
        if name not in table.column_names:
            raise ValueError(
                f"samples must have a column {name!r}, got {table.column_names}. "
                "Read them with load_manifest."
            )
    return table


def _with_encoders(table: datasets.Dataset, encoders: Encoders) -> datasets.Dataset:
    """Returns the rows that have a modality with an encoder, with the columns that are needed."""
    names = encoders.modalities
    if not names:
        raise ValueError("image_encoder or text_encoder must be given, got neither.")
    for name in names:
        if name not in table.column_names or not any(one is not None for one in table[name]):
            raise ValueError(
                f"samples must have a column {name!r} with values for {name}_encoder, "
                f"got {table.column_names}. Leave {name}_encoder out."
            )
    return table.select_columns([*names, "label", "group"])


def _frozen(encoder: Any, kind: Any) -> Any:
    """Returns the encoder of a name, frozen; another one comes back as it is."""
    return kind(encoder).freeze() if isinstance(encoder, str) else encoder


def _tied_texts(table: datasets.Dataset, keep: bool | None) -> tuple[str | None, list[str]]:
    """Returns the column of the texts that are kept in one fold, or None, and a note."""
    if "text" not in table.column_names:
        return None, []
    share = texts_tie(table)
    if keep if keep is not None else share <= GLUED_SHARE:
        return "text", ["Equal texts are in one fold."]
    return None, [
        f"Equal texts may be in two folds (together with groups they tie {share:.0%} of the rows)."
    ]


def _described(
    table: datasets.Dataset, trainings: Trainings, measured: np.ndarray[Any, Any]
) -> list[str]:
    """Returns sentences about the samples: how many, how many of each class, what is missing.

    They also tell the augmentation, the loss, and labels that are not measured on.
    """
    notes = [f"{len(table)} samples of {len(set(table['group']))} groups"]
    if trainings.names:
        labels = trainings.labels
        if labels.ndim == 2:
            counts = np.nansum(labels, axis=0).astype(int)
        else:
            counts = np.bincount(labels, minlength=trainings.num_labels)
        classes = zip(trainings.names, counts, strict=True)
        notes.append("classes: " + ", ".join(f"{name} {count}" for name, count in classes))
    for name in trainings.encoders.modalities:
        absent = sum(one is None for one in table[name])
        if absent:
            notes.append(f"{absent} samples without {name}")
    if trainings.augment is not None:
        told = augment_name(trainings.augment)
        notes.append(f"Pictures of the training rows are augmented by {told}.")
    if copies := trainings.copies():
        notes.append(
            f"{copies} pictures occur in more than one group: a copy in another fold is a leak"
        )
    return [*notes, *loss_notes(trainings.loss, trainings.labels, measured)]


def _name(encoder: Any) -> str | None:
    """Returns the name of an encoder and what of it trains."""
    if encoder is None:
        return None
    trains = "LoRA" if encoder.config.lora else encoder.config.trainable
    name = encoder.config.name
    # A folder of this machine tells nobody anything. Its last part may.
    shown = Path(name).name if name and Path(name).is_absolute() else name
    return f"{shown or type(encoder.backbone).__name__} ({trains})"


def _written(
    comparison: Comparison, rows: Sequence[ComparisonRow], trainings: Trainings
) -> Comparison:
    """Returns the comparison, after results.json, the plots and the reports are written."""
    folder, results = comparison.folder, comparison.results
    write_json(folder / "results.json", results)
    names = trainings.names or [f"label {number}" for number in range(trainings.num_labels)]
    plots = draw(folder, comparison.answers, rows, results, names)
    (folder / "report.md").write_text(markdown(results, plots), encoding="utf-8")
    (folder / "report.html").write_text(page(results, plots, folder), encoding="utf-8")
    return comparison
