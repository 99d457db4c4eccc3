"""The commands that use a model or a table: they read options, call the library and print."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..model.printing import printable
from . import options
from .app import app
from .errors import check_output_file, user_errors
from .explanations import explain_one
from .inputs import check_model, open_model, read_sample, require_extra
from .predictions import predict_many, predict_one
from .reports import announce, report_evaluation
from .support import load_rows, to_json

if TYPE_CHECKING:
    import datasets


@app.command()
@user_errors
def evaluate(
    model: options.ModelFolder,
    manifest: options.Manifest,
    label: options.LabelColumns = None,
    image_column: options.ImageColumns = None,
    unknown_label: options.UnknownLabel = None,
    part: options.EvaluatedPart = None,
    batch_size: options.BatchSize = 64,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
) -> None:
    """Print the metrics of a model on a manifest, with 95 % intervals resampled by patient.

    Rows that the model was trained on, or that it was chosen by, are left out.
    """
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
    rows = _measured(Path(model), rows, manifest, part)
    # The Trainer needs an output folder, although an evaluation writes nothing into it.
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(
            folder, per_device_eval_batch_size=batch_size, disable_tqdm=as_json
        )
        result = evaluate_model(classifier, processor, rows, arguments=arguments)
    if as_json:
        typer.echo(to_json({"samples": len(rows), **result.to_dict()}))
    else:
        report_evaluation(result, len(rows))


def _measured(
    folder: Path, rows: "datasets.Dataset", manifest: Path, part: options.Part | None
) -> "datasets.Dataset":
    """Returns the rows to measure on, and says what is left out or must not be trusted."""
    import numpy as np

    from ..training.split_record import part_of_rows

    parts = part_of_rows(folder, rows, manifest)
    used = np.isin(parts, ["train", "validation"])
    if part is None:
        chosen, count = ~used, int(used.sum())
        told = f"{count} of {len(rows)} rows are left out: the model was trained on them, or chosen"
        told += " by them (same patient, picture or text). --part all keeps them."
    else:
        chosen = np.ones(len(rows), bool) if part is options.Part.all else parts == part.value
        count = int((used & chosen).sum())
        told = f"{count} of {int(chosen.sum())} rows were used to train or to choose the model: "
        told += "these figures are too good."
    if not chosen.any():
        raise ValueError(
            f"manifest must have rows of the part to measure on, got none in {str(manifest)!r}. "
            "Give new samples, or another --part."
        )
    if count:
        announce(told)
    return rows.select(np.flatnonzero(chosen))


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
    ray: options.OnRay = False,
    config: options.ConfigFile = None,
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
    if ray:
        require_extra("ray", "ray")
        if manifest is None:
            raise ValueError("--ray must come with --manifest and --output, got neither.")
    check_model(model)
    if output is not None:
        check_output_file("--output", output)
    written = read_sample(image, text)
    classifier, processor = open_model(model)
    if manifest is not None and output is not None:
        # Actors may run in another folder, or on another machine that mounts the same one.
        actors_of = (str(Path(model).resolve()) if Path(model).is_dir() else model) if ray else None
        many = (classifier, processor, manifest, output, batch_size)
        predict_many(*many, workers, image_column, actors_of)
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
    config: options.ConfigFile = None,
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
    config: options.ConfigFile = None,
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
    # The report lists absent files together with all other faults.
    read: dict[str, Any] = {
        "images": image_column,
        "unknown_label": unknown_label,
        "keeps_absent": True,
    }
    parts = {
        name: load_rows(path, label, **read) for name, path in zip(names, manifest, strict=True)
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
    config: options.ConfigFile = None,
) -> None:
    """Write a model as one graph, after a check that the graph gives the logits of the model."""
    import numpy as np

    from ..data.collate import FusionCollator
    from ..inference.export import export_model
    from ..training.rows import has_modality

    check_model(model)
    check_output_file("output", output)
    if output.suffix == ".onnx":
        require_extra("export", "onnx", "onnxruntime", "onnxscript")
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
