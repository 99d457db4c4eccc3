"""
Not medical: digits with a hint
===============================

Real scans of handwritten digits (scikit-learn's copy of the UCI set), each with a text that says
whether the digit is even.
"""

# %%
# The text halves the question, the picture nearly answers it.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from mmfusion import (
    FusionClassifier,
    FusionProcessor,
    as_dataset,
    evaluate,
    fit,
    load_image,
    small_encoders,
    split,
    training_arguments,
)

cache = Path(tempfile.gettempdir()) / "mmfusion-gallery"  # shared by the scripts of the gallery
digits = load_digits()
chosen = np.random.default_rng(0).permutation(len(digits.target))[:200]
samples = [
    {
        "image": np.kron((15 * digits.images[n]).astype(np.uint8), np.ones((8, 8), np.uint8)),
        "text": f"the writer says the number {n} is {'odd' if digits.target[n] % 2 else 'even'}",
        "label": str(digits.target[n]),
        "group": f"scan {n}",
    }
    for n in chosen.tolist()
]
parts = split(as_dataset(samples))
image, text = small_encoders()
names = dict(enumerate(parts["train"].features["label"].names))
found = {}
for name in ("picture", "text", "both"):
    towers = {"image_encoder": image, "text_encoder": text}
    if name != "both":
        del towers["text_encoder" if name == "picture" else "image_encoder"]
    model = FusionClassifier(**towers, id2label=names)
    processor = FusionProcessor.from_encoders(
        towers.get("image_encoder"), towers.get("text_encoder")
    )
    arguments = training_arguments(tempfile.mkdtemp(), model, disable_tqdm=True)
    options = {"arguments": arguments, "cache": cache}
    fit(model, processor, parts["train"], parts["validation"], **options)
    found[name] = evaluate(model, processor, parts["test"], **options).metrics["accuracy"]

# %%

figure, axes = plt.subplots(1, 4, figsize=(11, 2.8), width_ratios=[1, 1, 1, 2])
for axis, row in zip(axes, parts["test"], strict=False):
    axis.imshow(load_image(row["image"]), cmap="gray")
    axis.set_title(row["text"].rpartition(" ")[2])
    axis.axis("off")
for place, score in enumerate(found.values()):
    axes[3].plot([score.low, score.high], [place, place], color="#2062be", linewidth=3)
    axes[3].plot(score.estimate, place, "o", color="#2062be", markersize=8)
axes[3].set_yticks(range(3), list(found))
axes[3].set_xlabel("accuracy with a 95 % interval")
axes[3].invert_yaxis()
figure.tight_layout()
