"""`mmfusion train | evaluate | predict | audit | export`: parse, call, print."""

import functools
import json
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import datasets

    from .model.modeling import FusionClassifier
    from .model.processing import FusionProcessor
    from .training.evaluate import Evaluation

app = typer.Typer(
    name="mmfusion",
    help="Classify samples made of an image and a text, and say honestly how well.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Train(StrEnum):
    """What of the encoders trains."""

    all = "all"
    frozen = "frozen"
    lora = "lora"


def _user_errors(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, answering a user's mistake with one line instead of a traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, TypeError, OSError, ImportError) as error:
            if os.environ.get("MMFUSION_DEBUG"):
                raise
            Console(stderr=True, highlight=False, soft_wrap=True).print(
                f"[bold red]error:[/] {_plain(str(error))}"
            )
            raise typer.Exit(1) from None

    return run


Manifest = Annotated[
    Path, typer.Argument(help="CSV, JSONL or Parquet with the columns image, text, label, group.")
]
ModelFolder = Annotated[
    str, typer.Argument(help="A folder that `mmfusion train` wrote, or a hub name.")
]
LabelColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--label", help="Label column; given more than once, one column per class (multi-label)."
    ),
]


@app.command()
@_user_errors
def train(
    manifest: Manifest,
    output: Annotated[
        Path, typer.Option(help="Folder for checkpoints, the model and results.json.")
    ],
    image_encoder: Annotated[
        str | None, typer.Option(help="timm or transformers name, or a folder.")
    ] = None,
    text_encoder: Annotated[str | None, typer.Option(help="transformers name or a folder.")] = None,
    mapper: Annotated[
        str, typer.Option(help="linear, mlp, cross_attention or identity.")
    ] = "linear",
    fusion: Annotated[
        str, typer.Option(help="concat, joint, cross_attention, mmtm or late.")
    ] = "concat",
    what: Annotated[
        Train, typer.Option("--train", help="What of the encoders trains.")
    ] = Train.all,
    pretrained: Annotated[bool, typer.Option(help="Start from published weights.")] = True,
    label: LabelColumns = None,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Per process.")] = 32,
    learning_rate: Annotated[float, typer.Option(min=0.0)] = 1e-4,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many epochs without a better one.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for what frozen towers compute.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 0,
    bf16: Annotated[bool, typer.Option("--bf16", help="Train in bfloat16.")] = False,
    baselines: Annotated[
        bool, typer.Option(help="Train the image-only and the text-only model too, and compare.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Split a manifest without leaks, train, and report the test part with intervals, beside each modality alone."""
    from .data.splits import split
    from .training.arguments import training_arguments

    if image_encoder is None and text_encoder is None:
        raise ValueError(
            "--image-encoder or --text-encoder must be given, got neither. Give one or both."
        )
    rows = _load(manifest, label)
    parts = split(
        rows, seed=seed, text="text" if text_encoder and "text" in rows.column_names else None
    )
    evaluations: dict[str, Evaluation] = {}
    wanted = {"image+text": (image_encoder, text_encoder)}
    if image_encoder is None or text_encoder is None:
        wanted = {"text" if image_encoder is None else "image": (image_encoder, text_encoder)}
    elif baselines:
        wanted |= {"image": (image_encoder, None), "text": (None, text_encoder)}
    for name, (image, text) in wanted.items():
        folder = output if len(evaluations) == 0 else output / f"{name}-only"
        arguments = training_arguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            bf16=bf16,
            seed=seed,
            dataloader_num_workers=workers,
        )
        model = _compose(rows, image, text, mapper, fusion, what, pretrained, seed)
        evaluations[name] = _fit_one(model, parts, arguments, patience, cache)
    _report_training(evaluations, output)


@app.command()
@_user_errors
def evaluate(
    model: ModelFolder,
    manifest: Manifest,
    label: LabelColumns = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the metrics of a model on a manifest, with 95 % intervals resampled by patient."""
    from .training.arguments import training_arguments
    from .training.evaluate import evaluate as evaluate_model

    classifier, processor = _open(model)
    names = [str(name) for name in (classifier.config.id2label or {}).values()]
    rows = _load(manifest, label, names=names)
    arguments = training_arguments(
        _scratch(), per_device_eval_batch_size=batch_size, disable_tqdm=as_json
    )
    result = evaluate_model(classifier, processor, rows, arguments=arguments)
    if as_json:
        typer.echo(json.dumps({"samples": len(rows), **result.to_dict()}, indent=2))
        return
    table = Table("metric", "estimate (95 % interval)", title=f"{len(rows)} samples")
    for name, interval in result.metrics.items():
        table.add_row(name, str(interval))
    Console().print(table)


@app.command()
@_user_errors
def predict(
    model: ModelFolder,
    image: Annotated[
        Path | None, typer.Option(help="A picture: PNG, JPEG, TIFF, DICOM ...")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="A text file; - reads standard input.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    manifest: Annotated[
        Path | None, typer.Option(help="Many samples instead: CSV, JSONL or Parquet, as for train.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="With --manifest: the CSV file to write.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="With --manifest.")] = 32,
    workers: Annotated[
        int, typer.Option(min=0, help="With --manifest: processes that decode images.")
    ] = 0,
) -> None:
    """Print the probabilities of one sample and which modality was missing, or write those of many to a CSV file."""
    import torch

    if (manifest is None) != (output is None) or (
        manifest is not None and (image or text or as_json)
    ):
        raise ValueError(
            "--manifest and --output must be given together, and without --image, --text and --json."
        )
    classifier, processor = _open(model)
    if manifest is not None and output is not None:
        _predict_many(classifier, processor, manifest, output, batch_size, workers)
        return
    written = None if text is None else _read_text(text)
    has = {"image": image, "text": written}
    for name, value in has.items():
        if value is not None and name not in classifier.modalities:
            raise ValueError(
                f"--{name} must be left out for a classifier of {classifier.modalities[0]} alone, got {value!r}."
            )
    if image is None and written is None:
        raise ValueError("--image or --text must be given, got neither.")
    inputs = processor(
        images=[image] if image else None, text=[written] if written is not None else None
    )
    with torch.no_grad():
        logits = classifier.eval()(**inputs).logits[0].float()
    probabilities = logits.sigmoid() if classifier.multi_label else logits.softmax(-1)
    missing = [name for name in classifier.modalities if not bool(inputs[f"{name}_present"][0])]
    names = (classifier.config.id2label or {}).values()
    named = {str(name): float(p) for name, p in zip(names, probabilities, strict=True)}
    if as_json:
        typer.echo(json.dumps({"probabilities": named, "missing": missing}, indent=2))
        return
    for name, probability in sorted(named.items(), key=lambda pair: -pair[1]):
        typer.echo(f"{name}\t{probability:.4f}")
    typer.echo(f"missing: {', '.join(missing) or 'nothing'}")


def _predict_many(
    classifier: "FusionClassifier",
    processor: "FusionProcessor",
    manifest: Path,
    output: Path,
    batch_size: int,
    workers: int,
) -> None:
    """Write a line per row of the manifest as it is answered; a picture that cannot be decoded has its error there."""
    import csv

    import torch

    from .data.tables import read_table
    from .inference.stream import predict_stream

    if output.resolve() == manifest.resolve():
        raise ValueError(
            f"--output must be another file than --manifest, got {str(output)!r} for both."
        )
    if torch.cuda.is_available():
        torch.nn.Module.to(classifier, "cuda")
    rows = _load(manifest, labelled=False)
    names = [str(name) for name in (classifier.config.id2label or {}).values()]
    own = read_table(manifest).column_names
    # Not the texts, which may be long and are patients'; a group only where the manifest has one.
    shown = [name for name in rows.column_names if name in own and name != "text"]
    failed = 0
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="", encoding="utf-8") as file:
        write = csv.writer(file).writerow
        predicted = [] if classifier.multi_label else ["predicted"]
        write(["row", *shown, *predicted, *(f"p_{name}" for name in names), "missing", "error"])
        stream = predict_stream(
            classifier, processor, rows, batch_size=batch_size, workers=workers, on_error="keep"
        )
        for number, (sample, found) in enumerate(zip(rows, stream, strict=True), start=1):
            failed += found.error is not None
            chosen = "" if found.error else names[int(found.logits.argmax())]
            probabilities = ["" if found.error else f"{value:.6f}" for value in found.probabilities]
            kept = [sample[name] for name in shown] + ([] if classifier.multi_label else [chosen])
            write([number, *kept, *probabilities, " ".join(found.missing), found.error or ""])
    typer.echo(f"{output}: {len(rows)} samples, {failed} of them with an error.")
    if failed:
        raise typer.Exit(1)


@app.command()
@_user_errors
def audit(
    manifest: Annotated[
        list[Path], typer.Argument(help="One manifest, or one per split (train.csv test.csv).")
    ],
    label: LabelColumns = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Report leaks between splits, duplicates, unreadable files, empty texts and class balance; exit with 1 on errors."""
    from .data.audit import audit as audit_rows

    parts = {path.stem: _load(path, label) for path in manifest}
    found = audit_rows(parts if len(parts) > 1 else next(iter(parts.values())))
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))
    if not found.ok:
        raise typer.Exit(1)


@app.command()
@_user_errors
def export(
    model: ModelFolder,
    output: Annotated[
        Path, typer.Argument(help="The file to write: .pt2 (torch.export) or .onnx.")
    ],
    manifest: Annotated[
        Path | None, typer.Option(help="Samples to check the graph on; without it, some are drawn.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many of them.")] = 32,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
) -> None:
    """Write a model as one graph, once the graph has answered as the model does."""
    from .data.collate import FusionCollator
    from .inference.export import export_model

    classifier, processor = _open(model)
    batches = None
    if manifest is not None:
        rows = _load(manifest, labelled=False)
        rows = rows.select_columns(
            [name for name in classifier.modalities if name in rows.column_names]
        )
        chosen = _rows_with(rows, classifier.modalities)[:samples]
        collate = FusionCollator(processor)
        starts = range(0, len(chosen), batch_size)
        batches = [
            collate([rows[i] for i in chosen[start : start + batch_size]]) for start in starts
        ]
    try:
        report = export_model(classifier, output, batches=batches)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    where = "drawn samples" if manifest is None else f"samples of {manifest}"
    typer.echo(
        f"{report.path}: {report.format}, inputs {', '.join(report.inputs)}; on {report.samples} {where} its logits differ from "
        f"the model's by at most {report.largest_difference:.1e}."
    )


def _load(
    manifest: Path,
    label: list[str] | None = None,
    *,
    names: list[str] | None = None,
    labelled: bool = True,
) -> "datasets.Dataset":
    """The manifest's rows; an absent default column means that modality is not there."""
    from .data.manifest import load_manifest
    from .data.tables import read_table

    columns = read_table(manifest).column_names
    wanted: Any = "label" if not label else (label[0] if len(label) == 1 else label)
    return load_manifest(
        manifest,
        image="image" if "image" in columns else None,
        text="text" if "text" in columns else None,
        label=wanted if labelled else None,
        label_names=names if isinstance(wanted, str) and names else None,
    )


def _compose(
    rows: "datasets.Dataset",
    image: str | None,
    text: str | None,
    mapper: str,
    fusion: str,
    what: Train,
    pretrained: bool,
    seed: int,
) -> "tuple[FusionClassifier, FusionProcessor]":
    import datasets
    from transformers import set_seed

    from .model.encoder_image import ImageEncoder, TextEncoder
    from .model.modeling import FusionClassifier
    from .model.processing import FusionProcessor

    set_seed(seed)
    start = None if pretrained else False
    image_encoder = None if image is None else ImageEncoder(image, pretrained=start)
    text_encoder = None if text is None else TextEncoder(text, pretrained=start)
    for encoder in (image_encoder, text_encoder):
        if encoder is not None and what is Train.frozen:
            encoder.freeze()
        elif encoder is not None and what is Train.lora:
            encoder.add_lora()
    feature = rows.features["label"]
    single = isinstance(feature, datasets.ClassLabel)
    model = FusionClassifier(
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        mapper=mapper,
        fusion=fusion,
        id2label=dict(enumerate(feature.names)) if single else None,
        num_labels=None if single else len(rows[0]["label"]),
        problem_type="single_label_classification" if single else "multi_label_classification",
    )
    return model, FusionProcessor.from_encoders(image_encoder, text_encoder)


def _fit_one(
    parts_of_model: Any, parts: Any, arguments: Any, patience: int | None, cache: Path | None
) -> "Evaluation":
    """Train on the rows that have one of the model's modalities, and judge all of the test part.

    Of a test row that has none, the model says what the classes' shares in training say, so that
    every model is judged on the same rows.
    """
    import numpy as np

    from .training.evaluate import predict, score
    from .training.fit import fit

    model, processor = parts_of_model
    here = {name: _rows_with(rows, model.modalities) for name, rows in parts.items()}
    chosen = {name: rows.select(here[name]) for name, rows in parts.items()}
    fit(
        model,
        processor,
        chosen["train"],
        chosen["validation"],
        arguments=arguments,
        patience=patience,
        cache=cache,
    )
    shares = (
        np.nanmean(np.eye(model.config.num_labels)[parts["train"]["label"]], axis=0)
        if not model.multi_label
        else None
    )
    prior = np.log(shares + 1e-6) if shares is not None else _log_odds(parts["train"]["label"])
    logits = np.tile(prior, (len(parts["test"]), 1)).astype(np.float32)
    logits[here["test"]] = predict(
        model, processor, chosen["test"], arguments=arguments, cache=cache
    )
    return score(logits, parts["test"])


def _rows_with(rows: "datasets.Dataset", modalities: tuple[str, ...]) -> list[int]:
    columns = [list(rows[name]) for name in modalities if name in rows.column_names]
    return [i for i in range(len(rows)) if any(column[i] is not None for column in columns)]


def _log_odds(labels: Any) -> Any:
    import numpy as np

    shares = np.clip(np.nanmean(np.asarray(labels, dtype=float), axis=0), 1e-6, 1 - 1e-6)
    return np.log(shares / (1 - shares))


def _report_training(evaluations: "dict[str, Evaluation]", output: Path) -> None:
    """Print and write the table: every model's accuracy and AUROC, and the fused one's difference to each modality alone."""
    from .metrics.bootstrap import paired_bootstrap
    from .metrics.functional import auroc

    if int(os.environ.get("RANK", "0")):
        return
    fused = next(iter(evaluations.values()))
    table = Table(
        "model",
        "accuracy",
        "AUROC",
        "AUROC of the fused model minus this one",
        title="test part, 95 % intervals",
    )
    results: dict[str, Any] = {}
    for name, result in evaluations.items():
        difference = None
        if result is not fused:
            difference = paired_bootstrap(
                auroc, fused.logits, result.logits, fused.labels, groups=fused.groups
            )
        results[name] = result.to_dict() | (
            {} if difference is None else {"fused_minus_this": vars(difference)}
        )
        table.add_row(
            name,
            str(result.metrics["accuracy"]),
            str(result.metrics["auroc"]),
            str(difference or ""),
        )
    (output / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    Console().print(table)


def _open(name: str) -> "tuple[FusionClassifier, FusionProcessor]":
    from .model.modeling import FusionClassifier
    from .model.processing import FusionProcessor

    if not Path(name).is_dir() and "/" not in name.strip("/."):
        raise ValueError(
            f"model must be a folder that holds a model or a hub name, got {name!r}, which does not exist."
        )
    return FusionClassifier.from_pretrained(name), FusionProcessor.from_pretrained(name)


def _read_text(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.read()
    if not path.is_file():
        raise ValueError(
            f"--text must be a text file, got {str(path)!r}, which does not exist. Use - for standard input."
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--text must be UTF-8, got {str(path)!r}, which is not at byte {error.start}."
        ) from error


def _scratch() -> str:
    import tempfile

    return tempfile.mkdtemp(prefix="mmfusion-")


def _plain(message: str) -> str:
    """`message` with rich's markup brackets kept as they are."""
    return message.replace("[", "\\[")


if __name__ == "__main__":
    app()
