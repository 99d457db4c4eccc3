"""The case "epoch": an epoch of training by `fit`, everything training, towers frozen, and frozen towers cached."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from benchmarks.lengths import report_lengths
from benchmarks.measuring import Setting
from benchmarks.models import Preset, classifier
from benchmarks.timing import spread
from mmfusion import FusionClassifier, FusionProcessor
from mmfusion.data.toy import word_tokenizer

if TYPE_CHECKING:
    import datasets

COHORT = 1_116
"""Pairs in an epoch, as many as the study's cohort has."""

CACHED_EPOCHS = 5
"""Epochs in a round of the cached side, which are too short to be timed one at a time."""

CACHE_TOLERANCE = 2e-3
"""The cache is in half precision: its answers may be so far from the uncached ones."""

WORDS = [f"word{number}" for number in range(200)]
"""What the texts are made of: the time does not depend on which words stand there."""


def epoch(setting: Setting) -> dict[str, Any]:
    """Seconds of an epoch of `concat`, pictures read from files; the cached side without the one pass that fills the cache."""
    if importlib.util.find_spec("datasets") is None:
        return {"skipped": "datasets is not installed"}
    from mmfusion import cache_features, fit, training_arguments

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rows = cohort(setting.chosen, folder)
        frozen = classifier(setting.chosen, "concat").freeze("image").freeze("text")
        assert frozen.image_encoder is not None
        processor = FusionProcessor(word_tokenizer(WORDS), frozen.image_encoder.input_spec)
        started = time.perf_counter()
        cached, _ = cache_features(
            frozen.to(setting.device), processor, rows, folder / "cache", batch_size=setting.batch
        )
        encoding = time.perf_counter() - started
        apart = _cached_as_uncached(frozen, processor, rows, folder / "cache")
        sides = {
            "cached": (True, cached, CACHED_EPOCHS),
            "frozen": (True, rows, 1),
            "full training": (False, rows, 1),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(setting.rounds):
            for name, (is_frozen, data, epochs) in sides.items():
                model = classifier(setting.chosen, "concat")
                if is_frozen:
                    model.freeze("image").freeze("text")
                arguments = training_arguments(
                    folder / "out",
                    num_train_epochs=epochs,
                    per_device_train_batch_size=setting.batch,
                    save_strategy="no",
                    disable_tqdm=True,
                    bf16=setting.dtype == torch.bfloat16,
                    use_cpu=setting.device == "cpu",
                )
                seconds[name].append(
                    fit(model, processor, data, arguments=arguments).seconds_per_epoch
                )
    return {
        "seconds": {name: spread(taken) for name, taken in seconds.items()},
        "largest_difference": {"cached": apart},
        "filling_the_cache_seconds": encoding,
        "samples": COHORT,
    }


def cohort(chosen: Preset, folder: Path) -> datasets.Dataset:
    """Noise in files for pictures, words in texts of the lengths of real reports, two classes by turns."""
    import datasets

    draw = np.random.default_rng(0)
    lengths = draw.choice(report_lengths(), COHORT)
    pictures, texts = [], []
    for index, length in enumerate(lengths):
        pictures.append(str(folder / f"{index}.png"))
        Image.fromarray(draw.integers(0, 256, (chosen.pixels, chosen.pixels), dtype=np.uint8)).save(
            pictures[-1]
        )
        # Two of a report's tokens are the special ones.
        texts.append(" ".join(draw.choice(WORDS, max(1, length - 2))))
    features = datasets.Features(
        {
            "image": datasets.Value("string"),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    return datasets.Dataset.from_dict(
        {"image": pictures, "text": texts, "label": [index % 2 for index in range(COHORT)]},
        features=features,
    )


def _cached_as_uncached(
    model: FusionClassifier, processor: FusionProcessor, rows: datasets.Dataset, cache: Path
) -> float:
    """The largest difference of logits between the two roads, of the first samples.

    Raises:
        RuntimeError: where it is too large.
    """
    from mmfusion import predict

    some = rows.select(range(min(64, len(rows))))
    apart = float(
        np.abs(predict(model, processor, some) - predict(model, processor, some, cache=cache)).max()
    )
    if not apart <= CACHE_TOLERANCE:
        raise RuntimeError(
            f"both roads must answer alike within {CACHE_TOLERANCE:g}, got {apart:.3g}. Nothing was timed."
        )
    return apart
