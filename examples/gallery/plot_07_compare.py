"""
Does fusing help?
=================

``compare`` trains each modality alone and fused, on the same folds, and says what the second
modality adds, with intervals over patients and trainings.
"""

# %%
# The shapes need both modalities, so the answer must be yes.

import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from mmfusion import compare, small_encoders
from mmfusion.data.toy import draw_shapes

folder = tempfile.mkdtemp()
cache = Path(tempfile.gettempdir()) / "mmfusion-gallery"  # shared by the scripts of the gallery
image, text = small_encoders()
comparison = compare(
    draw_shapes(folder, 200),
    f"{folder}/compare",
    image_encoder=image,
    text_encoder=text,
    rows=["majority", "tfidf", "image", "text", "concat", "late"],
    folds=2,
    seeds=2,
    resamples=500,
    cache=cache,
    progress=False,
)
comparison.print()

# %%
# The report of the folder has this plot, ROC curves, confusion matrices and reliability. The
# figures are in results.json.

results = json.loads((comparison.folder / "results.json").read_text())
shown = [row for row in results["rows"] if row["modalities"] and "minus_single" in row]
figure, axis = plt.subplots(figsize=(6, 3))
for place, row in enumerate(shown):
    score = row["minus_single"]
    axis.plot([score["low"], score["high"]], [place, place], color="#2062be", linewidth=3)
    axis.plot(score["estimate"], place, "o", color="#2062be", markersize=8)
axis.set_yticks(range(len(shown)), [row["name"] for row in shown])
axis.axvline(0, color="#9aa7b6", linestyle=":")
axis.set_xlabel("AUROC minus that of the best single modality, 95 % interval")
axis.invert_yaxis()
figure.tight_layout()
