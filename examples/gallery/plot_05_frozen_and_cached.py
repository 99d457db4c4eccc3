"""
Frozen towers, computed once
============================

Frozen encoders give the same embeddings in every epoch. A cache computes them once, and a second
model on the same encoders begins where the first one left them.
"""

# %%
# Three strategies are trained on one cache, one after the other.

import tempfile
import time

import matplotlib.pyplot as plt

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
rows = load_manifest(draw_shapes(folder, 100))
parts = split(rows)
image, text = small_encoders()
names = dict(enumerate(rows.features["label"].names))
processor = FusionProcessor.from_encoders(image, text)
seconds, scores = {}, {}
for fusion in ("concat", "late", "gated"):
    model = FusionClassifier(image_encoder=image, text_encoder=text, fusion=fusion, id2label=names)
    arguments = training_arguments(
        f"{folder}/{fusion}", model, num_train_epochs=3, disable_tqdm=True
    )
    start = time.perf_counter()
    fit(
        model,
        processor,
        parts["train"],
        parts["validation"],
        arguments=arguments,
        cache=f"{folder}/cache",
    )
    seconds[fusion] = time.perf_counter() - start
    found = evaluate(model, processor, parts["test"], arguments=arguments, cache=f"{folder}/cache")
    scores[fusion] = found.metrics["accuracy"].estimate
print(scores)

# %%
# The first training pays for the encoders.

figure, axis = plt.subplots(figsize=(6, 2.6))
axis.barh(list(seconds), list(seconds.values()), color=["#c43a20", "#2062be", "#2062be"])
axis.set_xlabel("seconds of training, in this order")
axis.invert_yaxis()
figure.tight_layout()
