"""The lung-disease study: does fusing an X-ray with its text help, by how much, and how surely?

Without arguments (`make study`) it runs offline on the real Open-i reports with synthetic pictures,
under both text protocols, with small pretrained encoders that are frozen and whose features are
cached. These commands use other data and the published encoders:

    python examples/lung_disease/study.py --dataset openi --images DIR --preset published
    python examples/lung_disease/study.py --dataset shenzhen --images DIR
    python examples/lung_disease/study.py --dataset covid --images DIR --train all --epochs 5
    python examples/lung_disease/study.py --dataset shenzhen --images DIR --segment none --segment
    mask --segment crop

A stopped study continues at the first fold that is missing. All output is written to
runs/lung_disease/<dataset>/.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

# Set before transformers is imported. They avoid warnings about forks and general advice, which
# would hide the output of the study.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
# The segmenter uses Keras, which may load tensorflow. This hides its long log.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import typer
from encoders import image_encoder, text_encoder
from manifests import choose
from paired import METRICS, add_holm, minus_raw
from provenance import typed_command, versions
from rich.console import Console
from segmenting import WAYS, segmented
from study_data import StudyData, load, paired
from study_rows import rows_with_laterals, study_rows
from transformers.utils import logging

from mmfusion import Comparison, compare

TRAINS = ("frozen", "all", "lora")
"""The parts of the encoders that `--train` may train."""

# The run without arguments must end within ten minutes on two cores.
PHANTOM_OPTIONS = {"num_train_epochs": 2, "patience": 1}
PICTURES = {"none": "raw", "mask": "lungs alone (black outside)", "crop": "cut to the lungs"}

# The long options have names of their own, so that the signature of `main` stays readable.
Images = Annotated[Path | None, typer.Option(help="Folder of the X-rays (all but the phantom).")]
Preset = Annotated[str, typer.Option(help="small (offline) or published (ViT-B/16 + BERT-base).")]
Segment = Annotated[
    list[str] | None,
    typer.Option(
        help="none, mask or crop: what is done to the X-rays; give several to compare them."
    ),
]
Train = Annotated[str, typer.Option(help="frozen, all or lora: what of the encoders trains.")]
Seeds = Annotated[
    int, typer.Option(min=1, help="How often the samples are divided and each row is trained.")
]
RowFilter = Annotated[
    str, typer.Option(help="Only rows whose name contains this, e.g. 'text only'.")
]
ImageName = Annotated[str | None, typer.Option(help="Another image encoder: hub name or folder.")]
TextName = Annotated[str | None, typer.Option(help="Another text encoder: hub name or folder.")]
Limit = Annotated[int | None, typer.Option(min=20, help="Only so many samples, to try things out.")]
DataSeed = Annotated[int, typer.Option(help="Chooses the cohort and the phantom.")]


def main(
    dataset: Annotated[str, typer.Option(help="phantom, openi, shenzhen or covid.")] = "phantom",
    images: Images = None,
    preset: Preset = "small",
    segment: Segment = None,
    train: Train = "frozen",
    folds: Annotated[int, typer.Option(min=2)] = 3,
    epochs: Annotated[int | None, typer.Option(min=1, help="Default: by --train.")] = None,
    seeds: Seeds = 3,
    rows: RowFilter = "",
    protocol: Annotated[str, typer.Option(help="Only this text protocol.")] = "",
    learning_rate: Annotated[float | None, typer.Option(help="Default: by --train.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    bf16: Annotated[bool, typer.Option(help="Train in bfloat16 (autocast).")] = False,
    image_name: ImageName = None,
    text_name: TextName = None,
    laterals: Annotated[
        bool, typer.Option(help="Open-i: add rows of frontal and lateral X-rays together.")
    ] = False,
    all_rows: Annotated[
        bool, typer.Option("--all-rows", help="Phantom: the slow strategies, too (20 minutes).")
    ] = False,
    output: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/lung_disease"),
    limit: Limit = None,
    data_seed: DataSeed = 0,
) -> None:
    """Run the study and write results.json, report.md and a report for each comparison."""
    console = Console()
    try:
        choose(train, TRAINS, "--train")
        ways = [choose(way, WAYS, "--segment") for way in dict.fromkeys(segment or ["none"])]
        folder = output / dataset
        folder.mkdir(parents=True, exist_ok=True)
        data = load(dataset, images, folder, seed=data_seed, limit=limit)
        quick = dataset == "phantom" and (preset, train) == ("small", "frozen")
        options: dict[str, Any] = dict(PHANTOM_OPTIONS) if quick else {}
        given = {"num_train_epochs": epochs, "learning_rate": learning_rate}
        options |= {name: value for name, value in given.items() if value is not None}
        options |= {"per_device_train_batch_size": batch_size, "bf16": bf16}
        arguments: dict[str, Any] = {
            "image_encoder": _prepared(image_encoder(preset, image_name), train),
            "text_encoder": _prepared(text_encoder(preset, text_name), train),
            "folds": folds,
            "seeds": seeds,
            "options": options,
            "keep_texts": data.texts_identify,
            # Only the first 64 tokens, so that the run ends within ten minutes. The median of the
            # findings has 40 tokens.
            "max_length": 64 if quick else None,
            "cache": folder / "cache",
        }
        if laterals:
            if ways != ["none"]:
                raise ValueError("--laterals must be used with --segment none alone.")
            data = replace(data, protocols={k: paired(v) for k, v in data.protocols.items()})
        slow = all_rows or not quick
        run(console, data, arguments, folder, ways, rows, protocol, slow, preset, laterals)
    except ValueError as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error


def run(
    console: Console,
    data: StudyData,
    arguments: dict[str, Any],
    folder: Path,
    ways: list[str],
    only_rows: str,
    only_protocol: str,
    slow: bool,
    preset: str,
    laterals: bool = False,
) -> None:
    """Compares the rows under every protocol and way, and writes results.json and report.md."""
    # The messages of the libraries would hide the progress bars of the study.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    started = time.perf_counter()
    comparisons: list[dict[str, Any]] = []
    for name in (name for name in data.protocols if only_protocol in name):
        published = data.name in ("phantom", "openi") and name == "published"
        done: dict[str, Comparison] = {}
        for way in ways:
            # Of segmented pictures, the rows that train in epochs are left out for their time.
            solved = way != "none" and arguments["image_encoder"].is_frozen
            rows = study_rows(published, preset == "small", slow=slow, solved=solved)
            rows = rows_with_laterals(rows) if laterals else rows
            wanted = [r for r in rows if only_rows in (r if isinstance(r, str) else r.name)]
            if not wanted:
                raise ValueError(f"--rows must be part of a row's name, got {only_rows!r}: {rows}")
            pictures, notes = segmented(data.protocols[name], way, folder / "lungs")
            done[way] = compare(
                pictures,
                folder / (name if way == "none" else f"{name}-{way}").replace(" ", "-"),
                rows=wanted,
                title=_title(data, name, way),
                notes=[*_warning(data), *(note.strip() for note in data.notes), *notes],
                **arguments,
            )
            console.print(_title(data, name, way), style="bold")
            # Printed above the figures, so that nobody takes them for results on X-rays.
            for warning in _warning(data):
                console.print(warning)
            done[way].print(console)
        comparisons += _entries(name, done)
    written = {
        "dataset": data.name,
        "synthetic_images": data.synthetic_images,
        "command": typed_command(("--images", "--output")),
        "versions": versions("mmfusion", "torch", "transformers", "timm", "scikit-learn", "numpy"),
        "minutes": round((time.perf_counter() - started) / 60, 2),
        "comparisons": comparisons,
    }
    (folder / "results.json").write_text(json.dumps(written, indent=2), encoding="utf-8")
    (folder / "report.md").write_text(_report(data, comparisons), encoding="utf-8")
    console.print(
        f"Written to {folder}: results.json and report.md, in {written['minutes']} minutes.",
        highlight=False,
    )


def _prepared(encoder: Any, train: str) -> Any:
    """Returns the encoder with what shall train of it."""
    return {"frozen": encoder.freeze, "lora": encoder.add_lora, "all": encoder.unfreeze}[train]()


def _entries(protocol: str, done: dict[str, Comparison]) -> list[dict[str, Any]]:
    """Returns the results of one protocol, way by way.

    Rows on segmented pictures also get their difference from raw ones, if these were asked for.
    """
    entries = []
    for way, comparison in done.items():
        results = comparison.results
        answers = comparison.answers
        if way != "none" and "none" in done:
            raw = done["none"].answers
            for row in results["rows"]:
                if "image" in row["modalities"] and row["name"] in raw.outcomes:
                    here, there = answers.logits(row["name"]), raw.logits(row["name"])
                    row |= minus_raw(
                        dict.fromkeys(METRICS, here),
                        dict.fromkeys(METRICS, there),
                        answers.labels,
                        answers.groups,
                    )
            add_holm(results["rows"])
        entries.append({"protocol": protocol, "segment": way, **results})
    return entries


def _report(data: StudyData, comparisons: list[dict[str, Any]]) -> str:
    """Returns report.md, which names the verdict and the report of each comparison."""
    lines = [f"# Lung disease study: {data.name}", ""]
    lines += [f"**{warning}**\n" for warning in _warning(data)]
    for entry in comparisons:
        folder = entry["protocol"] + ("" if entry["segment"] == "none" else f"-{entry['segment']}")
        place = folder.replace(" ", "-")
        lines += [
            f"## {entry['title']}",
            "",
            entry["verdict"],
            "",
            f"[Table and plots]({place}/report.md), [as a page]({place}/report.html)",
            "",
        ]
    return "\n".join(lines)


def _title(data: StudyData, protocol: str, way: str) -> str:
    return f"{data.name}, text: {protocol}, pictures: {PICTURES[way]}"


def _warning(data: StudyData) -> list[str]:
    """Returns a warning if the pictures are drawn, so that nobody takes them for X-rays."""
    if not data.synthetic_images:
        return []
    return [
        "The pictures are synthetic: figures of rows with images say nothing about real X-rays. "
        "The reports are real."
    ]


if __name__ == "__main__":
    typer.run(main)
