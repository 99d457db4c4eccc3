"""
An encoder of your own
======================

Any module that returns a feature map or tokens is an encoder, once it has a name.
"""

# %%
# This one sees a picture as patches of 8 x 8 pixels.

import tempfile
from typing import ClassVar

import matplotlib.pyplot as plt
import torch
from einops import rearrange

from mmfusion import (
    FusionClassifier,
    FusionProcessor,
    ImageEncoder,
    explain,
    fit,
    load_manifest,
    register_backbone,
    split,
    training_arguments,
)
from mmfusion.data.toy import draw_shapes
from mmfusion.testing import (
    check_batch_law,
    check_gradient_law,
    redraw_parameters,
    tiny_batch,
    tiny_text_encoder,
)


class Patches(torch.nn.Module):
    """Patches [B, 64, 8, 8] of pictures [B, 1, 64, 64], each seen with its neighbours."""

    dim = 64
    input_spec: ClassVar = {
        "size": [64, 64],
        "channels": 1,
        "mean": [0.5],
        "std": [0.5],
        "interpolation": "bilinear",
    }

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(1, 64, 8, stride=8)
        self.around = torch.nn.Conv2d(64, 64, 3, padding=1)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.around(torch.relu(self.patches(pixel_values))))


register_backbone("gallery-patches", Patches)
encoder = ImageEncoder(Patches())

# %%
# Two laws of the library, checked on it. ``check_encoder`` checks all of them, and needs the class
# in a module that another process can import. The parameters are drawn anew, because a new
# classifier begins with a head of zeros.

tried = FusionClassifier(image_encoder=encoder, text_encoder=tiny_text_encoder("bert"))
redraw_parameters(tried, seed=0)
check_batch_law(tried, tiny_batch(tried))
check_gradient_law(tried, tiny_batch(tried))

# %%
# A classifier with it trains as any other. The picture alone tells the shape.

folder = tempfile.mkdtemp()
rows = load_manifest(draw_shapes(folder, 200))
rows = rows.map(lambda row: {"shape": rows.features["label"].int2str(row["label"]).split()[1]})
rows = rows.remove_columns(["label", "text"]).rename_column("shape", "label")
parts = split(rows.class_encode_column("label"))
model = FusionClassifier(image_encoder=encoder, num_labels=2)
processor = FusionProcessor.from_encoders(encoder, None)
arguments = training_arguments(
    f"{folder}/run", model, num_train_epochs=8, learning_rate=2e-3, disable_tqdm=True
)
fit(model, processor, parts["train"], parts["validation"], arguments=arguments)

# %%
# What its first layer learned, and where one answer comes from.

found = explain(model, processor, parts["test"][0]["image"])
filters = rearrange(
    encoder.backbone.patches.weight.detach()[:36], "(h w) 1 a b -> (h a) (w b)", h=6
)
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4))
axes[0].imshow(filters, cmap="gray")
axes[0].set_title("36 filters")
axes[1].imshow(found.heat[0].picture, cmap="gray")
axes[1].set_title("picture")
axes[2].imshow(found.heat[0].values, cmap="hot")
axes[2].set_title(f"for {found.target}")
for axis in axes:
    axis.axis("off")
figure.tight_layout()
