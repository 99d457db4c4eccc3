"""What is lost where reports are cut, and what windows give back.

    python examples/lung_disease/long_texts.py

Reads the Open-i reports (real texts, no pictures) with a frozen MiniLM, cut at several lengths, and
compares `long_text="truncate"`, `"head_tail"` and `"chunk"` with whole texts. `--part findings` is
the study's published protocol. `--part whole` adds the impression, which stands at the end.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import datasets
import openi
import torch
import typer
from encoders import text_encoder
from manifests import choose
from rich.console import Console
from rich.table import Table

from mmfusion import ComparisonRow, FusionClassifier, FusionProcessor, compare
from mmfusion.model.processing_text import LONG_TEXT

WHOLE = 256


def rows_of_reports(part: str, seed: int) -> datasets.Dataset:
    """Returns the balanced cohort: text, label and group."""

    def text(report: openi.Report) -> str:
        findings = report.text("published") or ""
        return findings if part == "findings" else f"{findings} {report.impression or ''}".strip()

    chosen = openi.cohort(openi.read_reports(), seed=seed)
    reports = [one for one in chosen.reports if text(one)]
    labels = datasets.ClassLabel(names=sorted(openi.LABELS))
    return datasets.Dataset.from_dict(
        {
            "text": [text(one) for one in reports],
            "label": [labels.str2int(one.label) for one in reports],
            "group": [one.uid for one in reports],
        },
        features=datasets.Features(
            {
                "text": datasets.Value("string"),
                "label": labels,
                "group": datasets.Value("string"),
            }
        ),
    )


def seconds_per_length(lengths: list[int], repeats: int = 5) -> dict[int, float]:
    """Returns the median seconds of a forward pass over 16 texts of so many words, in windows."""
    encoder = text_encoder("small", None)
    processor = FusionProcessor.from_encoders(None, encoder, max_length=64, long_text="chunk")
    model: Any = FusionClassifier(text_encoder=encoder)
    model.eval()
    found = {}
    for length in lengths:
        inputs = processor(text=[" ".join(["clear"] * length)] * 16)
        times = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            with torch.no_grad():
                model(**inputs)
            times.append(time.perf_counter() - start)
        found[length] = sorted(times[1:])[repeats // 2]
    return found


def main(
    output: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/long_texts"),
    lengths: Annotated[list[int] | None, typer.Option(help="Where texts are cut.")] = None,
    folds: Annotated[int, typer.Option(min=2)] = 5,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    part: Annotated[str, typer.Option(help="findings or whole.")] = "findings",
) -> None:
    """Print the AUROC of the text alone by where and how texts are cut, and the cost of windows."""
    console = Console()
    rows = rows_of_reports(choose(part, ["findings", "whole"], "--part"), 0)
    encoder = text_encoder("small", None).freeze()

    def auroc(length: int, long_text: str) -> float:
        result = compare(
            rows,
            output / f"{part}-{length}-{long_text}",
            text_encoder=encoder,
            rows=[ComparisonRow("text only", ("text",))],
            folds=folds,
            seeds=seeds,
            max_length=length,
            long_text=long_text,
            resamples=200,
            cache=output / "cache",
            progress=False,
        )
        return float(result.results["rows"][0]["auroc"]["estimate"])

    whole = auroc(WHOLE, "truncate")
    processor = FusionProcessor.from_encoders(None, encoder, max_length=WHOLE)
    counted = processor(text=list(rows["text"]))["attention_mask"].sum(1)
    title = f"{len(rows)} reports, {part}; whole texts (up to {WHOLE} tokens): AUROC {whole:.4f}"
    table = Table("cut at", "longer", *LONG_TEXT, "given back by windows", title=title)
    for length in lengths or [16, 32, 64]:
        found = {way: auroc(length, way) for way in LONG_TEXT}
        lost = whole - found["truncate"]
        # Differences below .002 are smaller than those between seeds.
        is_lost = lost >= 0.002
        share = f"{(found['chunk'] - found['truncate']) / lost:.0%}" if is_lost else "nothing lost"
        longer = f"{(counted > length).float().mean():.0%}"
        table.add_row(str(length), longer, *(f"{found[way]:.4f}" for way in LONG_TEXT), share)
    console.print(table)
    costs = seconds_per_length([50, 100, 200, 400, 800])
    table = Table("words", "seconds", "microseconds per word and text", title="16 texts in windows")
    for words, seconds in costs.items():
        table.add_row(str(words), f"{seconds:.3f}", f"{seconds / words / 16 * 1e6:.0f}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
