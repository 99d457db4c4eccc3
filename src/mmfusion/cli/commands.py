"""The commands: each one reads its options, calls the library and prints the result."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from ..model.printing import printable
from . import options
from .errors import check_output_file, check_output_folder, user_errors
from .explanations import explain_one
from .predictions import predict_many, predict_one
from .support import (
    check_model,
    compose,
    encoders_of,
    fit_and_score,
    given,
    load_rows,
    open_model,
    read_sample,
    report_training,
    to_json,
)
from .trainings import load_with_truth, loss_of, models_of, split_rows

if TYPE_CHECKING:
    from ..training.evaluate import Evaluation

app = typer.Typer(
    name="mmfusion",
    help="Classify samples made of an image and a text, and say honestly how well.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
@user_errors
def train(
    manifest: options.Manifest,
    output: options.TrainingFolder,
    image_encoder: options.ImageEncoderName = None,
    text_encoder: options.TextEncoderName = None,
    mapper: options.Mapper = "linear",
    fusion: options.Fusion = "concat",
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
    overwrite: options.Overwrite = False,
    seed: options.Seed = 0,
) -> None:
    """Split a manifest without leaks, train, and report the test part with intervals.

    If both encoders are given, the image-only and the text-only model are trained too, for
    comparison.
    """
    from ..training.arguments import training_arguments

    wanted = models_of(image_encoder, text_encoder, baselines)
    _check_folders(output, cache)
    rows, truth = load_with_truth(manifest, label, template, unknown_label, uncertain, image_column)
    loss = loss_of(rows, class_weights, pos_weight, focal_gamma)
    parts = split_rows(rows, truth, seed=seed, text=bool(text_encoder))
    evaluations: dict[str, Evaluation] = {}
    for name, (image, text) in wanted.items():
        # The first model is the one that the user asked for, so it is written to `output` itself.
        folder = output if len(evaluations) == 0 else output / f"{name}-only"
        model = compose(
            *(rows, image, text, mapper, fusion, what, pretrained, seed, template, fit),
            long_text=long_text,
            loss=loss,
        )
        arguments = training_arguments(
            folder,
            model[0],
            per_device_train_batch_size=batch_size,
            bf16=bf16,
            seed=seed,
            dataloader_num_workers=workers,
            **given(num_train_epochs=epochs, learning_rate=learning_rate),
        )
        evaluations[name] = fit_and_score(model, parts, arguments, patience, cache, overwrite)
    report_training(evaluations, output)


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
    cache: options.Cache = None,
) -> None:
    """Say whether fusing helps: train fused models and each modality alone on the same folds.

    A stopped run continues where it was stopped.
    """
    _check_folders(output, cache)
    from ..training.compare import compare as compare_rows
    from ..training.compare_rows import DEFAULT_ROWS

    # First of all, because a mistake in the table should not wait for the weights.
    samples, truth = load_with_truth(
        manifest, label, template, unknown_label, uncertain, image_column
    )
    loss = loss_of(samples, class_weights, pos_weight, focal_gamma)
    image, text = encoders_of(
        image_encoder, text_encoder, what, pretrained, image_weights, text_weights
    )
    prepared: dict[str, Any] = {"template": template, "keep_texts": keep_texts, "fit": fit}
    prepared |= {"max_length": max_length, "long_text": long_text, "folds": folds, "seeds": seeds}
    comparison = compare_rows(
        samples,
        output,
        image_encoder=image,
        text_encoder=text,
        rows="all" if rows == ["all"] else rows or DEFAULT_ROWS,
        **prepared,
        options={"per_device_train_batch_size": batch_size, "bf16": bf16}
        | given(num_train_epochs=epochs, learning_rate=learning_rate),
        **loss,
        truth=truth,
        cache=cache,
        title=printable(manifest.stem),
    )
    comparison.print()
    typer.echo(f"Written to {printable(str(output))}: report.html, report.md and results.json.")


@app.command()
@user_errors
def evaluate(
    model: options.ModelFolder,
    manifest: options.Manifest,
    label: options.LabelColumns = None,
    image_column: options.ImageColumns = None,
    unknown_label: options.UnknownLabel = None,
    batch_size: options.BatchSize = 64,
    as_json: options.AsJson = False,
) -> None:
    """Print the metrics of a model on a manifest, with 95 % intervals resampled by patient."""
    from ..training.arguments import training_arguments
    from ..training.evaluate import evaluate as evaluate_model

    classifier, processor = open_model(model)
    # The class names of the model fix the order of the classes. The manifest may lack some of them.
    names = [str(name) for name in (classifier.config.id2label or {}).values()]
    if classifier.multi_label and not label:
        label = names
    rows = load_rows(
        manifest,
        label,
        names=names,
        template=processor.template,
        images=image_column,
        unknown_label=unknown_label,
    )
    # The Trainer needs an output folder, although an evaluation writes nothing into it.
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(
            folder, per_device_eval_batch_size=batch_size, disable_tqdm=as_json
        )
        result = evaluate_model(classifier, processor, rows, arguments=arguments)
    if as_json:
        typer.echo(to_json({"samples": len(rows), **result.to_dict()}))
        return
    table = Table("metric", "estimate (95 % interval)", title=f"{len(rows)} samples")
    for name, interval in result.metrics.items():
        table.add_row(name, str(interval))
    Console().print(table)


@app.command()
@user_errors
def predict(
    model: options.ModelFolder,
    image: options.ImageFiles = None,
    text: options.TextFile = None,
    as_json: options.AsJson = False,
    manifest: options.ManySamples = None,
    image_column: options.ImageColumns = None,
    output: options.PredictionsFile = None,
    batch_size: options.ManifestBatchSize = 32,
    workers: options.ManifestWorkers = 0,
) -> None:
    """Print the probabilities of one sample, or write those of many samples to a CSV file.

    For one sample, the modality that was missing is printed too.
    """
    if (manifest is None) != (output is None) or (
        manifest is not None and (image or text or as_json)
    ):
        raise ValueError(
            "--manifest and --output must be given together, "
            "and without --image, --text and --json."
        )
    check_model(model)
    if output is not None:
        check_output_file("--output", output)
    written = read_sample(image, text)
    classifier, processor = open_model(model)
    if manifest is not None and output is not None:
        predict_many(classifier, processor, manifest, output, batch_size, workers, image_column)
        return
    answer = predict_one(classifier, processor, image, written)
    names = (classifier.config.id2label or {}).values()
    # JSON cannot hold the floats of numpy.
    named = {str(name): float(p) for name, p in zip(names, answer.probabilities, strict=True)}
    if as_json:
        typer.echo(to_json({"probabilities": named, "missing": list(answer.missing)}))
        return
    for name, probability in sorted(named.items(), key=lambda pair: -pair[1]):
        typer.echo(f"{printable(name)}\t{probability:.4f}")
    typer.echo(f"missing: {', '.join(answer.missing) or 'nothing'}")


@app.command()
@user_errors
def explain(
    model: options.ModelFolder,
    image: options.ImageFiles = None,
    text: options.TextFile = None,
    output: options.PageFile = None,
    as_json: options.AsJson = False,
    target: options.Target = None,
    method: options.HeatMethod = "auto",
    words: options.WordMethod = "auto",
) -> None:
    """Write a page that shows why a model answers as it does for one sample.

    It shows the share of each modality, a heat map over the picture, and a weight for each word.
    """
    if output is None and not as_json:
        raise ValueError("--output or --json must be given, got neither. Give one or both.")
    check_model(model)
    if output is not None:
        check_output_file("--output", output)
    written = read_sample(image, text)
    explain_one(
        *open_model(model),
        image,
        written,
        output=output,
        as_json=as_json,
        target=target,
        method=method,
        words=words,
    )


@app.command()
@user_errors
def audit(
    manifest: options.Manifests,
    label: options.LabelColumns = None,
    image_column: options.ImageColumns = None,
    unknown_label: options.UnknownLabel = None,
    as_json: options.AsJson = False,
) -> None:
    """Report leaks between splits, duplicates, unreadable files, empty texts and class balance.

    The exit status is 1 if there are errors.
    """
    from ..data.audit import audit as audit_rows

    stems = [path.stem for path in manifest]
    # Under one name, one of a/train.csv and b/train.csv would not be audited.
    names = stems if len(set(stems)) == len(stems) else [str(path) for path in manifest]
    if len(set(names)) < len(names):
        raise ValueError(f"manifests must be different files, got {names!r}. Name each once.")
    parts = {
        name: load_rows(path, label, images=image_column, unknown_label=unknown_label)
        for name, path in zip(names, manifest, strict=True)
    }
    report = audit_rows(parts if len(parts) > 1 else next(iter(parts.values())))
    typer.echo(to_json(report.to_dict()) if as_json else str(report))
    if not report.ok:
        raise typer.Exit(1)


@app.command()
@user_errors
def export(
    model: options.ModelFolder,
    output: options.GraphFile,
    manifest: options.CheckedSamples = None,
    image_column: options.ImageColumns = None,
    samples: options.SampleCount = 32,
    batch_size: options.BatchSize = 8,
) -> None:
    """Write a model as one graph, after a check that the graph gives the logits of the model."""
    import numpy as np

    from ..data.collate import FusionCollator
    from ..inference.export import export_model
    from ..training.rows import has_modality

    check_model(model)
    check_output_file("output", output)
    classifier, processor = open_model(model)
    batches = None
    if manifest is not None:
        rows = load_rows(manifest, labelled=False, template=processor.template, images=image_column)
        # Without this, the collator would decode a modality that the model does not use.
        rows = rows.select_columns(
            [name for name in classifier.modalities if name in rows.column_names]
        )
        # A sample without any modality is an error of the model, not of the graph.
        chosen = np.flatnonzero(has_modality(rows, classifier.modalities))[:samples].tolist()
        collate = FusionCollator(processor)
        starts = range(0, len(chosen), batch_size)
        batches = [
            collate([rows[i] for i in chosen[start : start + batch_size]]) for start in starts
        ]
    try:
        windows = processor.long_text == "chunk"
        report = export_model(classifier, output, batches=batches, windows=windows)
    # `export_model` raises this if the graph differs from the model. `user_errors` prints a
    # ValueError as one line.
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    where = "drawn samples" if manifest is None else f"samples of {manifest}"
    typer.echo(
        f"{printable(str(report.path))}: {report.format}, inputs {', '.join(report.inputs)}; "
        f"on {report.samples} {printable(where)} its logits differ from the model's "
        f"by at most {report.largest_difference:.1e}."
    )


def _check_folders(output: Path, cache: Path | None) -> None:
    check_output_folder("--output", output)
    if cache is not None:
        check_output_folder("--cache", cache)
