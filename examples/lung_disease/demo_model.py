"""The small model that `mmfusion demo` shows when it is given no other one.

Pictures and notes are made up. The pictures are those of the phantom. A note is written from a few
sentences, and two notes in three name complaints that fit the finding. So the picture and the note
each tell a part. A figure measured on them says nothing about medicine.

    python examples/lung_disease/demo_model.py --output src/mmfusion/serving/phantom_model
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from openi import Report
from phantom import draw
from PIL import Image
from transformers import BertConfig, set_seed

from mmfusion import (
    FusionClassifier,
    FusionProcessor,
    ImageEncoder,
    TextEncoder,
    as_dataset,
    evaluate,
    fit,
    split,
    training_arguments,
)
from mmfusion.data.toy import word_tokenizer

HEADINGS: dict[str, tuple[str, ...]] = {
    "no finding": (),
    "opacity": (
        "Opacity/lung/{zone}/{side}/{strength}",
        "Consolidation/lower lobe/{side}/{strength}",
    ),
    "effusion": ("Pleural Effusion/{side}/{strength}",),
    "large heart": ("Cardiomegaly/{strength}",),
}
COMPLAINTS: dict[str, tuple[str, ...]] = {
    "no finding": (
        "Routine check before an operation on the knee.",
        "Examination for a new job, no complaints.",
        "Feels well, follow up after a stay abroad.",
        "Pain in the shoulder after a fall.",
    ),
    "opacity": (
        "Fever and productive cough for {days} days.",
        "Cough with green sputum, chills at night.",
        "High fever, crackles on auscultation.",
        "Sudden cough, short of breath, temperature raised.",
    ),
    "effusion": (
        "Dull percussion at the base, breath sounds reduced.",
        "Known tumour, short of breath for {days} days.",
        "Pain on breathing in, cannot lie on one side.",
        "After surgery of the abdomen, reduced breath sounds.",
    ),
    "large heart": (
        "Known heart failure, swollen ankles.",
        "High blood pressure for years, tired on stairs.",
        "Wakes up short of breath, systolic murmur.",
        "Irregular pulse, gained weight in {days} days.",
    ),
}
PEOPLE = ("Man", "Woman")
HABITS = ("Never smoked.", "Smokes.", "Stopped smoking.", "No allergies.", "Takes no drugs.")
ZONES = ("upper lobe", "middle lobe", "lower lobe", "base")
STRENGTHS = ("mild", "moderate", "large")
FITTING = 2 / 3
"""The share of notes whose complaint fits the finding."""
SIZE = 160
NOTICE = "synthetic"


def sample(number: int, seed: int = 0) -> dict[str, Any]:
    """Returns a made-up sample: heading, note and class.

    Args:
        number: of the sample; it decides the class.
        seed: of all samples.
    """
    rng = np.random.default_rng((seed, number))
    names = list(HEADINGS)
    label = names[number % len(names)]
    told = label if rng.random() < FITTING else str(rng.choice(names))
    complaint = str(rng.choice(COMPLAINTS[told])).format(days=rng.integers(2, 9))
    note = f"{rng.choice(PEOPLE)}, {rng.integers(30, 85)} years. {complaint} {rng.choice(HABITS)}"
    headings = [
        str(rng.choice(HEADINGS[label])).format(
            zone=rng.choice(ZONES),
            side=rng.choice(("left", "right")),
            strength=rng.choice(STRENGTHS),
        )
        for _ in range(min(1, len(HEADINGS[label])))
    ]
    return {"uid": f"demo{seed}-{number}", "headings": headings, "text": note, "label": label}


def picture(made: dict[str, Any], size: int = SIZE) -> Image.Image:
    """Returns the picture of a made-up sample.

    Args:
        made: as `sample` returns it.
        size: its side in pixels.
    """
    report = Report(made["uid"], None, None, None, None, tuple(made["headings"]), ())
    return Image.fromarray(draw(report, size=size).image)


def _write(made: dict[str, Any], folder: Path) -> dict[str, Any]:
    path = folder / f"{made['uid']}.png"
    picture(made).save(path)
    return {key: made[key] for key in ("text", "label")} | {
        "image": str(path),
        "group": made["uid"],
    }


def compose(texts: Sequence[str], seed: int = 0) -> tuple[FusionClassifier, FusionProcessor]:
    """Returns the model with random weights, and its processor.

    Args:
        texts: whose words are known to the tokenizer.
        seed: of the weights.
    """
    set_seed(seed)
    tokenizer = word_tokenizer(texts)
    image = ImageEncoder("test_resnet", pretrained=False)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    text = TextEncoder(config)
    names = dict(enumerate(HEADINGS))
    model = FusionClassifier(
        image_encoder=image, text_encoder=text, mapper="linear", fusion="late", id2label=names
    )
    return model, FusionProcessor.from_encoders(image, text, tokenizer=tokenizer, fit="pad")


def main(
    output: Annotated[Path, typer.Option(help="Folder of the model.")],
    n: int = 4000,
    epochs: int = 20,
    examples: int = 4,
) -> None:
    """Draws the samples, trains the model, measures it and writes it with examples."""
    with tempfile.TemporaryDirectory() as folder:
        samples = [sample(number) for number in range(n)]
        with ProcessPoolExecutor() as pool:
            rows = list(pool.map(_write, samples, [Path(folder)] * n, chunksize=50))
        # Equal notes stay in one part, and there are many: the people's ages make them differ.
        parts = split(as_dataset(rows), seed=0)
        model, processor = compose([row["text"] for row in rows])
        arguments = training_arguments(
            Path(folder) / "run",
            model,
            learning_rate=2e-3,
            num_train_epochs=epochs,
            dataloader_num_workers=2,
            dataloader_persistent_workers=True,
        )
        # From random weights, the first epochs are worse than a solved head on them.
        fit(
            model,
            processor,
            parts["train"],
            parts["validation"],
            arguments=arguments,
            patience=epochs,
            warm_start=False,
        )
        found = evaluate(model, processor, parts["test"])
        alone = {}
        for name in ("image", "text"):
            rest = parts["test"].map(lambda row, name=name: row | {name: None})
            alone[name] = evaluate(model, processor, rest)
    print(found, alone["image"], alone["text"], sep="\n")
    # Half precision: the folder is a part of the wheel.
    torch.nn.Module.half(model)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    shown = []
    for number in range(examples):
        made = sample(number, seed=1)
        picture(made, 320).save(output / f"example-{number}.png")
        shown.append(
            {"image": f"example-{number}.png", "text": made["text"], "label": made["label"]}
        )
    results = {
        "notice": NOTICE,
        "samples": {name: len(rows) for name, rows in parts.items()},
        "test": found.to_dict(),
        "test without the text": alone["image"].to_dict(),
        "test without the image": alone["text"].to_dict(),
    }
    (output / "examples.json").write_text(json.dumps(shown, indent=2) + "\n")
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
