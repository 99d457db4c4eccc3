"""
The lungs in a chest X-ray
==========================

``LungSegmenter`` marks the lungs, says how sure it is, and doubts pictures that are no frontal
chest X-rays.
"""

# %%
# Its weights come with the package. They were trained on real X-rays; the pictures here are drawn.

import warnings

import matplotlib.pyplot as plt
import numpy as np

from mmfusion import LungSegmenter, load_image
from mmfusion.serving.phantom import phantom_examples

segmenter = LungSegmenter()
pictures = {path.name: load_image(path).convert("L") for path, _ in phantom_examples()[:3]}
pictures["turned by 90 degrees"] = pictures["example-0.png"].rotate(90)

figure, axes = plt.subplots(1, 4, figsize=(11, 3.4))
for axis, (name, picture) in zip(axes, pictures.items(), strict=True):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the doubt is shown in the title
        found = segmenter(picture)
    axis.imshow(picture, cmap="gray")
    axis.imshow(np.ma.masked_where(~found.mask, found.mask), cmap="winter", alpha=0.4)
    state = f"confidence {found.confidence:.2f}" if found.is_chest_xray else "no chest X-ray?"
    axis.set_title(f"{name}\n{state}", fontsize=10)
    axis.axis("off")
figure.tight_layout()
