"""The commands that train: `train` and `compare`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..model.printing import printable
from . import options
from .app import app
from .errors import check_output_folders, user_errors
from .inputs import require_extra
from .reports import (
    FOLD,
    TEST_ANSWERS,
    announce,
    command_to_evaluate,
    record_of,
    report_training,
    write_cards,
    write_record,
    write_test_answers,
)
from .support import checked_parts, compose, encoders_of, fit_and_score, given
from .trainings import (
    augmentation_of,
    check_training,
    fold_name,
    load_divided,
    load_with_truth,
    loss_of,
    models_of,
)

if TYPE_CHECKING:
    import datasets

    from ..model.modeling import FusionClassifier
    from ..model.processing import FusionProcessor
    from ..training.evaluate import Evaluation


@app.command()
@user_errors
def train(
    manifest: options.Manifest,
    output: options.TrainingFolder,
    image_encoder: options.ImageEncoderName = None,
    text_encoder: options.TextEncoderName = None,
    mapper: options.Mapper = "linear",
    mapper_option: options.MapperOptions = None,
    fusion: options.Fusion = "concat",
    fusion_option: options.FusionOptions = None,
    what: options.TrainedParts = options.Train.all,
    pretrained: options.Pretrained = True,
    label: options.LabelColumns = None,
    unknown_label: options.UnknownLabel = None,
    uncertain: options.Uncertain = "ignore",
    class_weights: options.ClassWeights = None,
    pos_weight: options.PosWeight = None,
    focal_gamma: options.FocalGamma = 0.0,
    epochs: options.Epochs = None,
    batch_size: options.ProcessBatchSize = 32,
    learning_rate: options.LearningRate = None,
    patience: options.Patience = None,
    cache: options.Cache = None,
    workers: options.Workers = 0,
    bf16: options.Bfloat16 = False,
    baselines: options.Baselines = True,
    template: options.Template = None,
    fit: options.Fit = None,
    image_column: options.ImageColumns = None,
    long_text: options.LongText = "truncate",
    split_column: options.SplitColumn = None,
    validation: options.ValidationManifest = None,
    test: options.TestManifest = None,
    folds: options.TestFolds = None,
    augment: options.Augmentation = None,
    overwrite: options.Overwrite = False,
    seed: options.Seed = 0,
    config: options.ConfigFile = None,
) -> None:
    """Split a manifest without leaks, train, and report the test part with intervals.

    If both encoders are given, the image-only and the text-only model are trained too, for
    comparison. The folder then also holds split.json, which tells `evaluate` what the model was
    trained on, and test_predictions.csv.
    """
    from datasets import concatenate_datasets

    wanted = models_of(image_encoder, text_encoder, baselines)
    composed: dict[str, Any] = checked_parts(mapper, mapper_option, fusion, fusion_option)
    check_training(output, folds, cache)
    how: dict[str, Any] = {"augment": augmentation_of(augment, image_encoder, cache)}
    how |= {"patience": patience, "cache": cache, "overwrite": overwrite}
    columns = (label, template, unknown_label, uncertain, image_column)
    how_divided = (manifest, validation, test, split_column, folds, columns)
    divided = load_divided(*how_divided, models=wanted, seed=seed)
    rows = concatenate_datasets(list(divided[0].values()))
    loss = loss_of(rows, class_weights, pos_weight, focal_gamma)
    composed |= {"what": what, "pretrained": pretrained, "seed": seed, "loss": loss}
    build = partial(compose, rows, template=template, fit=fit, long_text=long_text, **composed)
    settings = given(num_train_epochs=epochs, learning_rate=learning_rate, bf16=bf16, seed=seed)
    settings |= {"per_device_train_batch_size": batch_size, "dataloader_num_workers": workers}
    train_each = partial(_train_each, wanted, build, manifest, settings, how)
    unknown = None if unknown_label is None else [unknown_label]
    read = {"--image-column": image_column, "--unknown-label": unknown}
    evaluations = _train_divided(train_each, divided, output)
    measured = (output / fold_name(1) if folds else output, test or manifest, label, read)
    report_training(evaluations, output, command_to_evaluate(*measured), folds)


@app.command()
@user_errors
def compare(
    manifest: options.Manifest,
    output: options.ComparisonFolder = Path("runs/compare"),
    image_encoder: options.ImageEncoderName = None,
    text_encoder: options.TextEncoderName = None,
    image_weights: options.ImageWeights = None,
    text_weights: options.TextWeights = None,
    rows: options.Rows = None,
    folds: options.Folds = 3,
    seeds: options.Seeds = 3,
    what: options.TrainedParts = options.Train.frozen,
    pretrained: options.Pretrained = True,
    template: options.Template = None,
    keep_texts: options.KeepTexts = None,
    label: options.LabelColumns = None,
    unknown_label: options.UnknownLabel = None,
    uncertain: options.Uncertain = "ignore",
    class_weights: options.ClassWeights = None,
    pos_weight: options.PosWeight = None,
    focal_gamma: options.FocalGamma = 0.0,
    max_length: options.MaxLength = None,
    fit: options.Fit = None,
    image_column: options.ImageColumns = None,
    long_text: options.LongText = "truncate",
    epochs: options.Epochs = None,
    batch_size: options.ProcessBatchSize = 32,
    learning_rate: options.LearningRate = None,
    bf16: options.Bfloat16 = False,
    augment: options.Augmentation = None,
    cache: options.Cache = None,
    config: options.ConfigFile = None,
) -> None:
    """Say whether fusing helps: train fused models and each modality alone on the same folds.

    A stopped run continues where it was stopped.
    """
    require_extra("report", "matplotlib", "statsmodels")
    check_output_folders(output, cache)
    from ..training.compare import compare as compare_rows
    from ..training.compare_rows import DEFAULT_ROWS

    # First of all, because a mistake should not wait for the weights.
    how = {"augment": augmentation_of(augment, image_encoder), "cache": cache}
    columns = (template, unknown_label, uncertain, image_column)
    samples, truth = load_with_truth(manifest, label, *columns)
    loss = loss_of(samples, class_weights, pos_weight, focal_gamma)
    weights = image_weights, text_weights
    image, text = encoders_of(image_encoder, text_encoder, what, pretrained, *weights)
    prepared: dict[str, Any] = {"template": template, "keep_texts": keep_texts, "fit": fit}
    prepared |= {"max_length": max_length, "long_text": long_text, "folds": folds, "seeds": seeds}
    prepared |= loss | how | {"truth": truth}
    comparison = compare_rows(
        samples,
        output,
        image_encoder=image,
        text_encoder=text,
        rows="all" if rows == ["all"] else rows or DEFAULT_ROWS,
        **prepared,
        options=given(num_train_epochs=epochs, learning_rate=learning_rate, bf16=bf16)
        | {"per_device_train_batch_size": batch_size},
        title=printable(manifest.stem),
    )
    comparison.print()
    typer.echo(f"Written to {printable(str(output))}: report.html, report.md, results.json.")


def _train_divided(
    train_each: "Callable[..., dict[str, Evaluation]]",
    divided: "list[dict[str, datasets.Dataset]]",
    output: Path,
) -> "dict[str, Evaluation]":
    """Returns the evaluation of each model on its test rows, those of all folds together.

    Each row is answered by the model that was trained without it.
    """
    if len(divided) == 1:
        return train_each(divided[0], output)
    import numpy as np
    from datasets import concatenate_datasets

    from ..data.labels import class_names
    from ..training.evaluate import score

    found = []
    for number, parts in enumerate(divided, start=1):
        announce(f"fold {number} of {len(divided)}")
        found.append(train_each(parts, output / fold_name(number)))
    tested = [parts["test"] for parts in divided]
    numbered = [
        rows.remove_columns([FOLD] if FOLD in rows.column_names else []).add_column(
            FOLD, [number] * len(rows)
        )
        for number, rows in enumerate(tested, start=1)
    ]
    rows = concatenate_datasets(numbered)
    evaluations = {
        name: score(np.concatenate([fold[name].logits for fold in found]), rows)
        for name in found[0]
    }
    first = next(iter(evaluations.values()))
    names = class_names(rows) or [str(number) for number in range(first.logits.shape[1])]
    write_test_answers(output / TEST_ANSWERS, names, first, rows)
    return evaluations


def _train_each(
    wanted: dict[str, tuple[str | None, str | None]],
    build: "Callable[..., tuple[FusionClassifier, FusionProcessor]]",
    manifest: Path,
    settings: dict[str, Any],
    how: dict[str, Any],
    parts: "dict[str, datasets.Dataset]",
    output: Path,
) -> "dict[str, Evaluation]":
    """Returns the evaluation of each model, after its training.

    The first model is the one that the user asked for. It is written to `output` itself. The record
    of the split is written beside each model as soon as it is trained.
    """
    from ..inference.explain_sample import class_names
    from ..training.arguments import training_arguments

    evaluations: dict[str, Evaluation] = {}
    trained: dict[Path, FusionClassifier] = {}
    for number, (name, (image, text)) in enumerate(wanted.items(), start=1):
        model = build(image, text)
        folder = output if number == 1 else output / f"{name}-only"
        arguments = training_arguments(folder, model[0], **settings)
        announce(f"model {number} of {len(wanted)}: {name}")
        evaluations[name] = fit_and_score(model, parts, arguments, **how)
        if number == 1:
            record = record_of(parts, manifest, settings["seed"])
            classes = class_names(model[0])
            write_test_answers(output / TEST_ANSWERS, classes, evaluations[name], parts["test"])
        write_record(folder, record)
        trained[folder] = model[0]
    write_cards(trained, evaluations, parts)
    return evaluations
