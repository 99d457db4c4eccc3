"""The case "epoch": an epoch of training by `fit`.

The sides are: everything training, the towers frozen, and the frozen towers' outputs cached.
"""

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
"""The pairs in an epoch: as many as the cohort of the study in examples/ has."""

CACHED_EPOCHS = 5
"""The epochs in a round of the cached side: one alone is too short to be timed."""

CACHE_TOLERANCE = 2e-3
"""The largest allowed difference between cached and uncached logits: the cache is float16."""

WORDS = [f"word{number}" for number in range(200)]
"""The words that the texts are drawn from; the time does not depend on the words."""


def epoch(setting: Setting) -> dict[str, Any]:
    """Returns the seconds of an epoch of `concat`, with pictures read from files.

    The times of the cached side leave out the one pass that fills the cache. The result holds that
    pass separately, under "filling_the_cache_seconds".
    """
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
        # A fast cache with wrong logits is worth nothing, so the check comes before the timing.
        difference = _cached_as_uncached(frozen, processor, rows, folder / "cache")
        sides = {
            "cached": (True, cached, CACHED_EPOCHS),
            "frozen": (True, rows, 1),
            "full training": (False, rows, 1),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        # All sides run once in each round, so that a slow minute of the machine slows all of them.
        for _ in range(setting.rounds):
            for name, (is_frozen, data, epochs) in sides.items():
                # A new model each time: training changes the weights in place.
                model = classifier(setting.chosen, "concat")
                # `freeze` is what makes the cache valid: only frozen towers keep their outputs.
                if is_frozen:
                    model.freeze("image").freeze("text")
                arguments = training_arguments(
                    folder / "out",
                    num_train_epochs=epochs,
                    per_device_train_batch_size=setting.batch,
                    # Saving and progress bars are no part of the training time.
                    save_strategy="no",
                    disable_tqdm=True,
                    bf16=setting.dtype == torch.bfloat16,
                    use_cpu=setting.device == "cpu",
                )
                # A warm start would solve this classifier without an epoch.
                result = fit(
                    model, processor, data, arguments=arguments, warm_start=False, calibrate=False
                )
                seconds[name].append(result.seconds_per_epoch)
    return {
        "seconds": {name: spread(taken) for name, taken in seconds.items()},
        "largest_difference": {"cached": difference},
        "filling_the_cache_seconds": encoding,
        "samples": COHORT,
    }


def cohort(chosen: Preset, folder: Path) -> datasets.Dataset:
    """Returns `COHORT` random pairs: noise pictures in files, and texts as long as real reports.

    The two classes alternate.
    """
    import datasets

    draw = np.random.default_rng(0)
    lengths = draw.choice(report_lengths(), COHORT)
    pictures, texts = [], []
    for index, length in enumerate(lengths):
        pictures.append(str(folder / f"{index}.png"))
        Image.fromarray(draw.integers(0, 256, (chosen.pixels, chosen.pixels), dtype=np.uint8)).save(
            pictures[-1]
        )
        # The length counts the two special tokens, which the tokenizer adds.
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
    """Returns the largest difference between cached and uncached logits of the first 64 samples.

    Raises:
        RuntimeError: where the difference is larger than `CACHE_TOLERANCE`.
    """
    from mmfusion import predict

    some = rows.select(range(min(64, len(rows))))
    difference = float(
        np.abs(predict(model, processor, some) - predict(model, processor, some, cache=cache)).max()
    )
    # Not `difference > CACHE_TOLERANCE`: a NaN must count as wrong, too.
    if not difference <= CACHE_TOLERANCE:
        raise RuntimeError(
            f"both roads must answer alike within {CACHE_TOLERANCE:g}, got {difference:.3g}. "
            "Nothing was timed."
        )
    return difference
