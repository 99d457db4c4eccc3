"""
As a pipeline of transformers
=============================

After ``register_pipeline``, ``transformers.pipeline`` takes a trained folder or a model.
"""

# %%
# The model is the small synthetic one of ``mmfusion demo``.

import matplotlib.pyplot as plt
from transformers import pipeline

from mmfusion import load_image, register_pipeline
from mmfusion.serving.phantom import phantom_examples, phantom_parts

register_pipeline()
model, processor = phantom_parts()
classify = pipeline("fusion-classification", model=model, processor=processor)
samples = [{"image": str(path), "text": text} for path, text in phantom_examples()]
answers = classify(samples)
print(answers[1][0])

# %%

figure, axes = plt.subplots(2, 4, figsize=(10, 4.6), height_ratios=[2, 1])
for (top, below), sample, answer in zip(axes.T, samples, answers, strict=True):
    top.imshow(load_image(sample["image"]), cmap="gray")
    top.axis("off")
    below.barh([one["label"] for one in answer], [one["score"] for one in answer], color="#2062be")
    below.set_xlim(0, 1)
    below.invert_yaxis()
    below.tick_params(labelsize=8)
figure.tight_layout()
