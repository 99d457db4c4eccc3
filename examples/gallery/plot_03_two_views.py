"""
Two pictures of one sample
==========================

A study may have a frontal and a lateral picture. Each view may be missing.
"""

# %%
# The class is told by both views together: the first shows the shape, the second its size.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw

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

folder = Path(tempfile.mkdtemp())
cache = Path(tempfile.gettempdir()) / "mmfusion-gallery"  # shared by the scripts of the gallery
rng = np.random.default_rng(0)


def draw(path: Path, kind: str, side: int) -> str:
    picture = Image.fromarray(rng.integers(0, 60, (64, 64), dtype=np.uint8))
    left, top = rng.integers(2, 62 - side, 2).tolist()
    pen = ImageDraw.Draw(picture)
    shape = pen.ellipse if kind == "circle" else pen.rectangle
    shape((left, top, left + side, top + side), fill=int(rng.integers(120, 255)))
    picture.save(path)
    return str(path)


samples = []
for number in range(100):
    kind, size = ("circle", "square")[number % 2], ("small", "large")[number // 2 % 2]
    first = draw(folder / f"{number}-a.png", kind, 24)
    second = draw(folder / f"{number}-b.png", "circle", 14 if size == "small" else 44)
    # One sample in ten has no second picture.
    views = [first, None if number % 10 == 0 else second]
    text = f"note {number}"
    group = f"p{number}"
    samples.append({"image": views, "text": text, "label": f"{size} {kind}", "group": group})
parts = split(as_dataset(samples))

# %%
# ``num_views`` is all that differs from a classifier of one picture.

image, _ = small_encoders()
names = dict(enumerate(parts["train"].features["label"].names))
scores = {}
for views in (1, 2):
    model = FusionClassifier(image_encoder=image, num_views=views, id2label=names)
    processor = FusionProcessor.from_encoders(image, None, num_views=views)
    used = {
        name: part.map(lambda row, n=views: {"image": row["image"] if n == 2 else row["image"][0]})
        for name, part in parts.items()
    }
    arguments = training_arguments(folder / f"run-{views}", model, disable_tqdm=True)
    options = {"arguments": arguments, "cache": cache}
    fit(model, processor, used["train"], used["validation"], **options)
    scores[views] = evaluate(model, processor, used["test"], **options).metrics["accuracy"]

# %%
# One view decides the shape alone. Two views decide both.

figure, axes = plt.subplots(1, 3, figsize=(9, 3))
for axis, path, title in zip(
    axes, samples[1]["image"], ("first view", "second view"), strict=False
):
    axis.imshow(load_image(path), cmap="gray")
    axis.set_title(title)
    axis.axis("off")
values = [scores[views].estimate for views in (1, 2)]
errors = [
    [scores[v].estimate - scores[v].low for v in (1, 2)],
    [scores[v].high - scores[v].estimate for v in (1, 2)],
]
axes[2].bar(
    ["first view", "both views"], values, yerr=errors, capsize=6, color=["#9aa7b6", "#2062be"]
)
axes[2].set_ylim(0, 1)
axes[2].set_title("accuracy, 95 % interval")
figure.tight_layout()
