"""
One graph for onnxruntime
=========================

``export_model`` writes the classifier as one graph, after it has compared their logits.
"""

# %%
# The graph needs neither torch nor mmfusion to run. The processor makes its inputs.

import tempfile

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import torch

from mmfusion import export_model
from mmfusion.serving.phantom import phantom_examples, phantom_parts

model, processor = phantom_parts()
report = export_model(model, f"{tempfile.mkdtemp()}/model.onnx")
print(report)
session = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])

examples = phantom_examples()
inputs = processor(images=[path for path, _ in examples], text=[text for _, text in examples])
feed = {name: inputs[name].numpy() for name in report.inputs}
(logits,) = session.run(["logits"], feed)
with torch.no_grad():
    own = model(**inputs).logits.numpy()

# %%
# Both answer alike.

figure, axes = plt.subplots(1, 2, figsize=(8, 3.4))
axes[0].plot([own.min(), own.max()], [own.min(), own.max()], color="#9aa7b6", linestyle=":")
axes[0].plot(own.ravel(), logits.ravel(), "o", color="#2062be")
axes[0].set_xlabel("logit of the model")
axes[0].set_ylabel("logit of the graph")
axes[1].hist(np.abs(own - logits).ravel(), color="#2062be")
axes[1].set_xlabel("difference")
axes[1].ticklabel_format(style="sci", scilimits=(0, 0))
figure.tight_layout()
