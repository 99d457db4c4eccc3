"""
In a loop of your own with accelerate
=====================================

A classifier is a ``torch.nn.Module``, and ``FusionCollator`` makes its batches. So a bare loop
trains it, here with accelerate.
"""

# %%
# Small frozen encoders, samples, and a loader.

import tempfile

import matplotlib.pyplot as plt
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from mmfusion import (
    FusionClassifier,
    FusionCollator,
    FusionProcessor,
    load_manifest,
    small_encoders,
    split,
)
from mmfusion.data.toy import draw_shapes

parts = split(load_manifest(draw_shapes(tempfile.mkdtemp(), 120)))
torch.manual_seed(0)
image, text = small_encoders()
names = dict(enumerate(parts["train"].features["label"].names))
model = FusionClassifier(image_encoder=image, text_encoder=text, id2label=names)
processor = FusionProcessor.from_encoders(image, text)
loader = DataLoader(parts["train"], 16, shuffle=True, collate_fn=FusionCollator(processor))

# %%
# The encoders are frozen, so the optimizer gets the mapper and the head.

accelerator = Accelerator()
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=2e-3)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
losses = []
model.train()
for _ in range(3):
    for batch in loader:
        loss = model(**batch).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
print(f"the loss went from {losses[0]:.2f} to {losses[-1]:.2f}")

# %%

figure, axis = plt.subplots(figsize=(6, 2.8))
axis.plot(losses, color="#2062be")
axis.set_xlabel("step")
axis.set_ylabel("loss")
axis.set_ylim(bottom=0)
figure.tight_layout()
