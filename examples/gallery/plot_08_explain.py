"""
Why this answer?
================

A heat map over the picture, a weight for each word, and what each modality adds to the log-odds.
"""

# %%
# The model is the small synthetic one of ``mmfusion demo``. Its pictures are drawn.

import matplotlib.pyplot as plt

from mmfusion import explain
from mmfusion.serving.phantom import phantom_examples, phantom_parts

model, processor = phantom_parts()
path, text = phantom_examples()[2]
found = explain(model, processor, path, text, target="effusion")
print(f"{found.target}: {found.probabilities[found.target]:.0%}", dict(found.contributions))

# %%
# ``found.to_html("why.html")`` writes a page of the same.

figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), width_ratios=[1, 1, 1.3])
axes[0].imshow(found.heat[0].picture, cmap="gray")
axes[0].set_title("picture")
axes[1].imshow(found.heat[0].picture, cmap="gray")
axes[1].imshow(found.heat[0].values, cmap="hot", alpha=0.55)
axes[1].set_title(f"for {found.target} ({found.heat[0].method.replace('_', ' ')})")
for axis in axes[:2]:
    axis.axis("off")
words = [word for word in found.words if word.weight is not None]
colours = ["#c43a20" if word.weight > 0 else "#2062be" for word in words]
axes[2].barh(
    [f"{n}: {w.text}" for n, w in enumerate(words)], [w.weight for w in words], color=colours
)
axes[2].set_title("words, in log-odds")
axes[2].tick_params(axis="y", labelsize=7)
axes[2].invert_yaxis()
figure.tight_layout()
