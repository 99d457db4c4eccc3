"""
A fusion strategy of your own
=============================

A strategy gets two towers and a mapper, and returns an embedding with logits.
"""

# %%
# This one multiplies the two pooled vectors.

import matplotlib.pyplot as plt
import torch

from mmfusion import Fused, Fusion, register_fusion
from mmfusion.testing import (
    check_batch_law,
    check_gradient_law,
    check_missing_law,
    check_padding_law,
    redraw_parameters,
    tiny_batch,
    tiny_classifier,
)


class Product(Fusion):
    def __init__(self, scale: float = 1.0):
        super().__init__(scale=scale)  # what is passed here is saved with the model

    def forward(self, image, text, mapper):
        image_encoded = image.encode()
        mapped = mapper(text.encode(), image_encoded)
        embedding = self.options["scale"] * image_encoded.pooled * mapped.pooled
        logits = self.head(image_encoded.pooled, embedding)
        return Fused(embedding, logits, image_encoded.pooled, mapped.pooled)


register_fusion("gallery-product", Product)

# %%
# Four laws of the library, checked on it. ``check_fusion`` checks all of them, and needs the class
# in a module that another process can import. The parameters are drawn anew, because a new
# classifier begins with a head of zeros.

model = tiny_classifier(fusion="gallery-product")
redraw_parameters(model, seed=0)
for check in (check_batch_law, check_padding_law, check_missing_law, check_gradient_law):
    check(model, tiny_batch(model))

# %%
# A law in a picture: the logits of three samples, alone and in a batch.

model.eval()
batch = tiny_batch(model)
with torch.no_grad():
    together = model(**batch).logits
    alone = torch.cat(
        [
            model(**{name: value[i : i + 1] for name, value in batch.items()}).logits
            for i in range(len(together))
        ]
    )
figure, axis = plt.subplots(figsize=(5, 3.4))
axis.plot(together.flatten(), alone.flatten(), "o", color="#2062be")
axis.axline((0, 0), slope=1, color="#9aa7b6", linestyle=":")
axis.set_xlabel("logit in a batch")
axis.set_ylabel("logit alone")
axis.set_title(f"largest difference {float((together - alone).abs().max()):.0e}")
figure.tight_layout()
