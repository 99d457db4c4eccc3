"""
In scikit-learn's grid search
=============================

``FusionEstimator`` is a classifier of scikit-learn: it can be searched, calibrated and
cross-validated.
"""

# %%
# A data frame holds the samples. Patients stay on one side of each division.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.model_selection import GridSearchCV, GroupKFold

from mmfusion import FusionEstimator, small_encoders
from mmfusion.data.toy import draw_shapes

cache = Path(tempfile.gettempdir()) / "mmfusion-gallery"  # shared by the scripts of the gallery
folder = Path(tempfile.mkdtemp())
samples = pd.read_csv(draw_shapes(folder, 200))
samples["image"] = [str(folder / name) for name in samples["image"]]

# %%
# Frozen encoders and a cache: every model of the search begins with the same embeddings.

image, text = small_encoders()
estimator = FusionEstimator(image, text, cache=str(cache))
search = GridSearchCV(
    estimator,
    {"fusion": ["concat", "late"], "mapper": ["linear", "identity"]},
    cv=GroupKFold(2),
)
search.fit(samples.drop(columns="label"), samples["label"], groups=samples["group"])
print(search.best_params_)

# %%

results = search.cv_results_
names = [f"{one['fusion']}, {one['mapper']}" for one in results["params"]]
figure, axis = plt.subplots(figsize=(6, 2.8))
axis.barh(names, results["mean_test_score"], xerr=results["std_test_score"], color="#2062be")
axis.set_xlabel("accuracy, two folds")
axis.set_xlim(0, 1.05)
axis.invert_yaxis()
figure.tight_layout()
