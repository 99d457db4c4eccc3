"""
Probabilities that fit the frequencies
======================================

``fit`` divides the logits by one number, the temperature, which it chooses on validation samples.
"""

# %%
# Labels that are wrong for one sample in four make any classifier too sure that knows its training
# samples by heart. Here logits are drawn that way.

import matplotlib.pyplot as plt
import numpy as np
import torch

from mmfusion import expected_calibration_error
from mmfusion.training.calibrate import fit_temperature

rng = np.random.default_rng(0)
n = 4000
truth = rng.integers(0, 2, n)
logits = 3.0 * np.eye(2)[truth] + 1.5 * rng.standard_normal((n, 2))
labels = np.where(rng.random(n) < 0.25, 1 - truth, truth)
logits, labels = torch.tensor(logits), torch.tensor(labels)
half = n // 2
temperature = fit_temperature(logits[:half], labels[:half])

# %%
# The curve follows the diagonal after scaling, on the half that did not choose the temperature.

figure, axis = plt.subplots(figsize=(4.6, 4.2))
axis.plot([0, 1], [0, 1], color="#9aa7b6", linestyle=":")
for name, t, colour in (
    ("T = 1", 1.0, "#c43a20"),
    (f"T = {temperature:.2f}", temperature, "#2062be"),
):
    scaled = logits[half:] / t
    p = scaled.softmax(1)[:, 1].numpy()
    bins = np.minimum((10 * p).astype(int), 9)
    filled = [one for one in range(10) if (bins == one).sum() > 20]
    seen = [labels[half:].numpy()[bins == one].mean() for one in filled]
    said = [p[bins == one].mean() for one in filled]
    error = float(expected_calibration_error(scaled.softmax(1), labels[half:]))
    axis.plot(said, seen, marker="o", color=colour, label=f"{name}, error {error:.3f}")
axis.set_xlabel("probability that the model says")
axis.set_ylabel("share that is true")
axis.legend()
figure.tight_layout()
