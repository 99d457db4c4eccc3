"""
Answer a large table on several machines
========================================

Actors of Ray hold the model, and each answers a part of the rows. Ray starts them on the machines
of its cluster, or on this machine where there is no cluster. ``mmfusion predict --ray`` does the
same from the command line.
"""

# %%
# A small model is trained and saved. Each actor loads it from its folder.

import tempfile

import datasets
import matplotlib.pyplot as plt
import numpy as np
import ray

from mmfusion import (
    FusionClassifier,
    FusionProcessor,
    fit,
    load_manifest,
    predict_on_ray,
    predict_stream,
    small_encoders,
    split,
    training_arguments,
)
from mmfusion.data.toy import draw_shapes

datasets.disable_progress_bars()
folder = tempfile.mkdtemp()
parts = split(load_manifest(draw_shapes(folder, 200)))
image, text = small_encoders()
names = dict(enumerate(parts["train"].features["label"].names))
model = FusionClassifier(
    image_encoder=image.freeze(), text_encoder=text.freeze(), fusion="late", id2label=names
)
processor = FusionProcessor.from_encoders(image, text)
arguments = training_arguments(f"{folder}/run", model, disable_tqdm=True)
fit(model, processor, parts["train"], parts["validation"], arguments=arguments)

# %%
# Two actors answer in small batches. An actor that dies is replaced, and no row is lost.

rows = parts["test"]
there = [answer.probabilities for answer in predict_on_ray(f"{folder}/run", rows, batch_size=2)]
ray.shutdown()
here = [answer.probabilities for answer in predict_stream(model, processor, rows, progress=False)]
apart = np.abs(np.asarray(there) - np.asarray(here)).max()
print(f"{len(there)} rows, at most {apart:.0e} from the answers of one process")

# %%

figure, axis = plt.subplots(figsize=(4, 3.6))
axis.plot([0, 1], [0, 1], color="#888888", linewidth=1)
axis.scatter(np.ravel(here), np.ravel(there), s=14, color="#2062be")
axis.set_xlabel("probability, one process")
axis.set_ylabel("probability, two actors")
figure.tight_layout()
