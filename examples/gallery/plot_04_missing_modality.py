"""
When a modality is missing
==========================

A sample may lack its picture or its text. The classifier answers with what is there, and nothing
that stands in the place of the missing modality changes the answer.
"""

# %%
# A fifth of the samples has no picture, and a fifth has no text.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from mmfusion import (
    FusionClassifier,
    FusionProcessor,
    evaluate,
    fit,
    load_manifest,
    small_encoders,
    split,
    training_arguments,
)
from mmfusion.data.toy import draw_shapes

folder = tempfile.mkdtemp()
cache = Path(tempfile.gettempdir()) / "mmfusion-gallery"  # shared by the scripts of the gallery
rows = load_manifest(draw_shapes(folder, 200, missing=0.2))
parts = split(rows)
image, text = small_encoders()
names = dict(enumerate(rows.features["label"].names))
model = FusionClassifier(image_encoder=image, text_encoder=text, fusion="late", id2label=names)
processor = FusionProcessor.from_encoders(image, text)
arguments = training_arguments(f"{folder}/run", model, disable_tqdm=True)
options = {"arguments": arguments, "cache": cache}
fit(model, processor, parts["train"], parts["validation"], **options)

# %%
# Either modality decides half of the question. So about half of the answers of one modality alone
# are right, which is what can be had.

test = parts["test"]
has = {name: np.array([bool(one) for one in test[name]]) for name in ("image", "text")}
kinds = {
    "picture and text": has["image"] & has["text"],
    "text alone": ~has["image"],
    "picture alone": ~has["text"],
}
found = {
    name: evaluate(model, processor, test.select(np.flatnonzero(chosen)), **options)
    for name, chosen in kinds.items()
}
figure, axis = plt.subplots(figsize=(6, 3))
for place, result in enumerate(found.values()):
    score = result.metrics["accuracy"]
    axis.plot([score.low, score.high], [place, place], color="#2062be", linewidth=3)
    axis.plot(score.estimate, place, "o", color="#2062be", markersize=9)
axis.axvline(0.5, color="#9aa7b6", linestyle=":")
axis.set_yticks(range(3), [f"{name} ({chosen.sum()})" for name, chosen in kinds.items()])
axis.set_xlim(0, 1.02)
axis.set_xlabel("accuracy with a 95 % interval")
axis.invert_yaxis()
figure.tight_layout()
