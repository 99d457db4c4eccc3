"""
From a table to a model
=======================

A table with the columns image, text, label and group becomes a classifier, which is measured on
patients that it has not seen.
"""

# %%
# The samples are drawn here. The picture shows the shape, and only the text names the colour.
# With your own table, begin at ``load_manifest``.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from mmfusion import (
    FusionClassifier,
    FusionProcessor,
    evaluate,
    fit,
    load_image,
    load_manifest,
    predict_proba,
    small_encoders,
    split,
    training_arguments,
)
from mmfusion.data.toy import draw_shapes

folder = tempfile.mkdtemp()
cache = Path(tempfile.gettempdir()) / "mmfusion-gallery"  # shared by the scripts of the gallery
rows = load_manifest(draw_shapes(folder, 200))
parts = split(rows)

# %%
# Both encoders are frozen, so nothing but the head is trained. Its solution is found at once: no
# epoch is needed.

image, text = small_encoders()
names = dict(enumerate(rows.features["label"].names))
model = FusionClassifier(image_encoder=image, text_encoder=text, fusion="concat", id2label=names)
processor = FusionProcessor.from_encoders(image, text)
arguments = training_arguments(f"{folder}/run", model, disable_tqdm=True)
options = {"arguments": arguments, "cache": cache}
fit(model, processor, parts["train"], parts["validation"], **options)
print(evaluate(model, processor, parts["test"], **options))

# %%
# What it says of eight samples of the test part.

shown = parts["test"].select(range(8))
probabilities = predict_proba(model, processor, shown, **options)
figure, axes = plt.subplots(2, 4, figsize=(9, 5))
for axis, row, p in zip(axes.flat, shown, probabilities, strict=True):
    axis.imshow(load_image(row["image"]), cmap="gray")
    axis.set_title(f"{names[int(p.argmax())]}: {p.max():.0%}", fontsize=10)
    axis.set_xlabel("\n".join(row["text"].rpartition(", ")[0].split(" and ")), fontsize=7)
    axis.set_xticks([])
    axis.set_yticks([])
figure.tight_layout()
