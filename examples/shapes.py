"""A classifier of your own: the picture shows the shape, and the text names its colour.

Nothing is downloaded. The samples are drawn, and both encoders start from random weights. The
script trains the fused classifier and one classifier per modality on the same rows. It compares
them on the same test rows:

    python examples/shapes.py
    python examples/shapes.py --n 200 --epochs 2
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any, ClassVar, final

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import BertConfig, set_seed
from transformers.utils import logging

from mmfusion import (
    FusionClassifier,
    FusionProcessor,
    ImageEncoder,
    TextEncoder,
    audit,
    auroc,
    evaluate,
    fit,
    load_manifest,
    paired_bootstrap,
    register_backbone,
    split,
    training_arguments,
)
from mmfusion.data.toy import draw_shapes, word_tokenizer
from mmfusion.training.evaluate import Evaluation


@final
class SmallCNN(nn.Module):
    """Three strided convolutions over grey pictures of 32 x 32 pixels.

    It maps pixel values [B, 1, 32, 32] to a feature map [B, 32, 4, 4].
    """

    dim = 32
    # The processor reads from here how a picture must be resized and normalised.
    input_spec: ClassVar[dict[str, Any]] = {
        "size": [32, 32],
        "channels": 1,
        "mean": [0.5],
        "std": [0.5],
        "interpolation": "bilinear",
    }

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((1, 16), (16, 32), (32, self.dim)):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Returns the feature map [B, 32, 4, 4]."""
        features: Tensor = self.layers(pixel_values)
        return features


# A saved classifier stores only this name, so that loading it can find the class again.
register_backbone("small-cnn", SmallCNN)


def compose(rows: Any, modalities: tuple[str, ...]) -> tuple[FusionClassifier, FusionProcessor]:
    """Returns a classifier of the given modalities, and its processor.

    Args:
        rows: the training rows. The vocabulary comes from them alone.
        modalities: "image", "text" or both.
    """
    tokenizer = word_tokenizer(rows["text"])
    vocabulary_size = len(tokenizer)
    # A config instead of a name makes an encoder with random weights, without a download.
    small_bert = BertConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=vocabulary_size,
    )
    image = ImageEncoder(SmallCNN()) if "image" in modalities else None
    text = TextEncoder(small_bert) if "text" in modalities else None
    model = FusionClassifier(
        image_encoder=image,
        text_encoder=text,
        mapper="linear",
        fusion="concat",
        id2label=dict(enumerate(rows.features["label"].names)),
    )
    return model, FusionProcessor.from_encoders(image, text, tokenizer=tokenizer)


def train_and_test(
    parts: Any, modalities: tuple[str, ...], folder: Path, epochs: int, seed: int
) -> Evaluation:
    """Returns the evaluation on the test rows of a classifier that is trained here.

    Args:
        parts: the rows of the parts "train", "validation" and "test".
        modalities: "image", "text" or both.
        folder: where the trained classifier is saved.
        epochs: passes over the training rows.
        seed: of the first weights and of the order of the rows.
    """
    # The first weights are random, so the seed is set before the model is made.
    set_seed(seed)
    model, processor = compose(parts["train"], modalities)
    arguments = training_arguments(
        folder, num_train_epochs=epochs, learning_rate=3e-3, seed=seed, disable_tqdm=True
    )
    fit(model, processor, parts["train"], parts["validation"], arguments=arguments)
    return evaluate(model, processor, parts["test"], arguments=arguments)


def main(
    n: Annotated[int, typer.Option(min=60, help="How many samples are drawn.")] = 800,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Draw the samples, train the three classifiers, and print how they compare."""
    console = Console()
    # For tensors this small, several threads cost more time than they save.
    torch.set_num_threads(1)
    # transformers shows a progress bar for each checkpoint, and those would hide the table.
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as name:
        rows = load_manifest(draw_shapes(name, n, size=32, seed=seed))
        parts = split(rows, seed=seed)
        leaks = audit(parts)
        # Rows that occur in two parts would make the test figures too good.
        if not leaks.ok:
            raise ValueError(f"the split must be without leaks, got:\n{leaks}")
        modalities_by_title = {
            "image + text": ("image", "text"),
            "image only": ("image",),
            "text only": ("text",),
        }
        results = {
            title: train_and_test(parts, modalities, Path(name, title), epochs, seed)
            for title, modalities in modalities_by_title.items()
        }
    fused = results["image + text"]
    table = Table(
        "model",
        "accuracy",
        "AUROC",
        "AUROC of image + text minus this",
        title=f"{len(fused.labels)} test samples",
    )
    for title, result in results.items():
        difference = ""
        if result is not fused:
            # Both models answer the same rows, so each resample can draw the same rows for both.
            difference = str(
                paired_bootstrap(
                    auroc, fused.logits, result.logits, fused.labels, groups=fused.groups
                )
            )
        table.add_row(
            title, str(result.metrics["accuracy"]), str(result.metrics["auroc"]), difference
        )
    console.print(table)
    console.print(
        "95 % intervals, resampled by group; the difference is paired: "
        "both models on the same resampled rows."
    )


if __name__ == "__main__":
    typer.run(main)
