"""The arguments and options of the commands, with their help texts."""

import ast
from enum import StrEnum
from pathlib import Path
from typing import Annotated, final

import typer

from .config_file import read_config


@final
class Train(StrEnum):
    """The parts of the encoders that are trained."""

    all = "all"
    frozen = "frozen"
    lora = "lora"


@final
class Part(StrEnum):
    """The rows of a manifest that a model is measured on."""

    train = "train"
    validation = "validation"
    test = "test"
    all = "all"


def _either(module: str, table: str) -> str:
    """Returns the names in a table of the library, as "a, b or c.".

    They are read from the source, because an import of the module would load torch before any help
    is printed.
    """
    source = Path(__file__).parents[1] / f"{module}.py"
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        (target,) = node.targets if isinstance(node, ast.Assign) else (node.target,)
        if ast.unparse(target) == table:
            assert isinstance(node.value, ast.Dict | ast.Tuple)
            keys = node.value.keys if isinstance(node.value, ast.Dict) else node.value.elts
            *names, last = (ast.literal_eval(key) for key in keys if key is not None)
            return f"{', '.join(names)} or {last}."
    raise AssertionError(f"{source} has no table {table}")


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
ImageColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--image-column",
        help="Column of pictures; given more than once, the views of a study in this order.",
    ),
]
LongText = Annotated[
    str, typer.Option(help="Texts beyond the encoder's length: truncate, head_tail or chunk.")
]
UnknownLabel = Annotated[
    str | None,
    typer.Option(
        help="A value such as -1 that stands for an unknown label. Of one label column, its rows "
        "are left out."
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        is_eager=True,
        callback=read_config,
        help="A YAML file with options of this command; the command line goes before it.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
BatchSize = Annotated[int, typer.Option(min=1)]

# Options of `train`.
TrainingFolder = Annotated[
    Path, typer.Option(help="Folder for checkpoints, the model and results.json.")
]
ImageEncoderName = Annotated[
    str | None, typer.Option(help="timm or transformers name, or a folder.")
]
TextEncoderName = Annotated[str | None, typer.Option(help="transformers name or a folder.")]
Mapper = Annotated[str, typer.Option(help=_either("model/mapper", "MAPPERS"))]
Fusion = Annotated[str, typer.Option(help=_either("model/fusion", "FUSIONS"))]
MapperOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--mapper-option", help="An option of the mapper, such as num_queries=8; repeatable."
    ),
]
FusionOptions = Annotated[
    list[str] | None,
    typer.Option("--fusion-option", help="An option of the strategy, such as at=8; repeatable."),
]
SplitColumn = Annotated[
    str | None,
    typer.Option(help="Column that says train, validation or test. Default: divided by group."),
]
ValidationManifest = Annotated[
    Path | None, typer.Option("--validation", help="A table of the validation rows, with --test.")
]
TestManifest = Annotated[
    Path | None, typer.Option("--test", help="A table of the test rows, with --validation.")
]
TestFolds = Annotated[
    int | None,
    typer.Option(
        "--folds",
        min=2,
        help="Trains so many times, each time with other test rows, until each row was one.",
    ),
]
Augmentation = Annotated[
    str | None,
    typer.Option("--augment", help="Changes the pictures in each epoch: xray or photo."),
]
TrainedParts = Annotated[
    Train, typer.Option("--train", help="Which parts of the encoders are trained.")
]
Pretrained = Annotated[bool, typer.Option(help="Start from published weights.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Default: by what trains.")]
ProcessBatchSize = Annotated[int, typer.Option(min=1, help="Per process.")]
LearningRate = Annotated[
    float | None,
    typer.Option(min=0.0, help="Peak rate of all parameters. Default: by what trains."),
]
Patience = Annotated[
    int | None,
    typer.Option(
        min=1, help="Stop after so many epochs without a better one. Default: by what trains."
    ),
]
Cache = Annotated[Path | None, typer.Option(help="Folder for the outputs of frozen towers.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that decode images.")]
Bfloat16 = Annotated[bool, typer.Option("--bf16", help="Train in bfloat16.")]
Baselines = Annotated[
    bool, typer.Option(help="Train the image-only and the text-only model too, and compare.")
]
Seed = Annotated[int, typer.Option(min=0)]

Uncertain = Annotated[
    str,
    typer.Option(
        help="What --unknown-label counts as in training, of several label columns: ignore, "
        "negative or positive. It is always left out where a model is measured."
    ),
]
ClassWeights = Annotated[
    str | None,
    typer.Option(help="balanced: each class has the same share in the loss of the training rows."),
]
PosWeight = Annotated[
    str | None,
    typer.Option(help="balanced, of several label columns: so have yes and no of each label."),
]
FocalGamma = Annotated[
    float,
    typer.Option(min=0.0, help="Exponent of the focal loss, such as 2; 0 is the cross-entropy."),
]

Template = Annotated[
    str | None,
    typer.Option(
        help='Writes the texts from columns: "{sex}, {age} years.". Empty cells are left out.'
    ),
]

# Options of `compare`.
ComparisonFolder = Annotated[
    Path, typer.Option(help="Folder for results.json, report.md, report.html and the answers.")
]
ImageWeights = Annotated[
    Path | None,
    typer.Option(help="A file with the image encoder's weights, instead of a download."),
]
TextWeights = Annotated[
    Path | None, typer.Option(help="A file with the text encoder's weights, instead of a download.")
]
Rows = Annotated[
    list[str] | None,
    typer.Option(
        help="majority, tfidf, image, text, a fusion strategy, or all; may be given several times."
    ),
]
Folds = Annotated[int, typer.Option(min=2, help="Test folds.")]
Seeds = Annotated[
    int, typer.Option(min=1, help="How often the samples are divided and each row is trained.")
]
KeepTexts = Annotated[
    bool | None,
    typer.Option(
        "--keep-texts/--separate-texts",
        help="Whether equal texts stay in one fold. Default: unless they tie over a tenth of rows.",
    ),
]
Fit = Annotated[
    str | None,
    typer.Option(
        help="How pictures get the encoder's size: squash, pad, crop, published. Default: as "
        "published weights ask for it, else squash."
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Delete checkpoints of another training first.")
]
MaxLength = Annotated[int | None, typer.Option(min=1, help="Most tokens of a text.")]

# Options of `predict`.
ImageFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--image", help="A picture (PNG, JPEG, DICOM ...); given more than once: views of a study."
    ),
]
TextFile = Annotated[
    str | None,
    typer.Option(help="A text file, - for standard input, or the words themselves in quotes."),
]
ManySamples = Annotated[
    Path | None, typer.Option(help="Many samples instead: CSV, JSONL or Parquet, as for train.")
]
PredictionsFile = Annotated[
    Path | None, typer.Option(help="With --manifest: the CSV file to write.")
]
ManifestBatchSize = Annotated[int, typer.Option(min=1, help="With --manifest.")]
ManifestWorkers = Annotated[
    int, typer.Option(min=0, help="With --manifest: processes that decode images; actors of Ray.")
]
OnRay = Annotated[
    bool,
    typer.Option("--ray", help="With --manifest: on Ray; --workers actors hold the model, or two."),
]

# Options of `evaluate`.
EvaluatedPart = Annotated[
    Part | None,
    typer.Option(
        "--part",
        help="Rows to measure on. Default: all that the model was not trained on or chosen by.",
    ),
]

# Options of `explain`.
PageFile = Annotated[Path | None, typer.Option(help="The HTML file to write.")]
Target = Annotated[str | None, typer.Option(help="Class to explain. Default: the most probable.")]
HeatMethod = Annotated[
    str,
    typer.Option(help=f"Heat map: {_either('inference/explain_gradients', 'IMAGE_METHODS')}"),
]
WordMethod = Annotated[
    str,
    typer.Option(help=f"Words: {_either('inference/explain_text', 'WORD_METHODS')}"),
]

# Arguments and options of `audit` and `export`.
Manifests = Annotated[
    list[Path], typer.Argument(help="One manifest, or one per split (train.csv test.csv).")
]
GraphFile = Annotated[Path, typer.Argument(help="The file to write: .pt2 (torch.export) or .onnx.")]
CheckedSamples = Annotated[
    Path | None, typer.Option(help="Samples to check the graph on; without it, some are drawn.")
]
SampleCount = Annotated[int, typer.Option(min=1, help="How many of them.")]

# Options of `serve` and `demo`.
Host = Annotated[
    str, typer.Option(help="Address to listen at. 0.0.0.0: reachable from other machines.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
EngineName = Annotated[str, typer.Option(help=_either("serving/engines", "ENGINES"))]
EngineDtype = Annotated[
    str, typer.Option("--dtype", help=f"Of the weights: {_either('serving/engines', 'DTYPES')}")
]
ServedBatchSize = Annotated[int, typer.Option(min=1, help="The most samples of a batch.")]
Wait = Annotated[
    float,
    typer.Option(min=0.0, help="Milliseconds that a batch which is not full waits for samples."),
]
DecodingThreads = Annotated[
    int | None, typer.Option(min=1, help="Threads that decode pictures. Default: one per core.")
]
MostBytes = Annotated[int, typer.Option(min=1, help="Of a request's body.")]
MostPixels = Annotated[int, typer.Option(min=1, help="Of a picture, width x height.")]
MostCharacters = Annotated[int, typer.Option(min=1, help="Of a text.")]
MostSeconds = Annotated[
    float, typer.Option("--seconds", min=0.001, help="From a request to its answer.")
]
MostWaiting = Annotated[
    int, typer.Option(min=1, help="Requests at the same time; a further one is turned away.")
]
DemoModels = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODEL]...", help="Folders or hub names; several: choose on the page."),
]
Lungs = Annotated[
    bool, typer.Option(help="Mark the lungs, and warn of pictures that are no chest X-rays.")
]
OpensBrowser = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]
